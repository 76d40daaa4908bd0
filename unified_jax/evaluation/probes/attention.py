"""Attention maps of a class-conditional model while it draws one sample.

The sample is drawn with DDIM's steps, x_s = alpha_s x0 + sigma_s eps of the prediction at t (any process), without
guidance: each step is one pass of the network whose attention is captured (`[layers, h, n, n]`, rows are queries).
"""

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from unified_jax.models.diffusion import Diffusion
from unified_jax.models.plan import Plan
from unified_jax.typing import Params


class Trace(NamedTuple):
    """A sample on its way; k steps."""

    t: list[float]
    """Unit times."""
    x0: Float[np.ndarray, "k h w c"]
    """What the network thinks the picture is."""
    weights: Float[np.ndarray, "k l h n n"]
    """Attention, summing to 1 over the last axis."""


def trace_attention(model: Diffusion, params: Params, given: dict[str, Any], plan: Plan, key: Array) -> Trace:
    """Draws one sample on the plan's grid, for labels given as arrays of one row, and keeps every map."""
    process, grid = plan.prepare(model.process)
    labels = model.pack_labels(given, 1)

    @jax.jit
    def step(x: Array, t: Array, s: Array) -> tuple[Array, Array, Array]:
        output, weights = model.capture(params, process, x, t, labels)
        found = process.predict(output, x, t)
        alpha, sigma = (v[:, None, None, None] for v in process.alpha_sigma(s))
        return alpha * found.x0 + sigma * found.eps, found.x0, weights[:, 0]

    x = process.start(jax.random.normal(key, (1, *model.modality.shape)), jnp.asarray(grid[:1]))
    times, pictures, maps = [], [], []
    for t, s in itertools.pairwise(grid):
        rows = jnp.asarray([t]), jnp.asarray([s])
        x, x0, weights = step(x, *rows)
        times.append(float(process.unit_time(rows[0])[0]))
        pictures.append(np.asarray(x0[0]))
        maps.append(np.asarray(weights, np.float32))
    return Trace(times, np.stack(pictures), np.stack(maps))


def map_grid(weights: Float[np.ndarray, "l h n n"], cell: int = 72) -> Any:
    """A Pillow picture: a row a block, a column a head, each map from white (0) to dark blue (its greatest)."""
    from PIL import Image as Pillow
    from PIL import ImageDraw

    layers, heads = weights.shape[:2]
    left, top, gap = 52, 18, 4
    canvas = Pillow.new("RGB", (left + heads * (cell + gap), top + layers * (cell + gap)), "white")
    draw = ImageDraw.Draw(canvas)
    for i in range(layers):
        draw.text((2, top + i * (cell + gap) + cell // 2 - 6), f"block {i}", fill="black")
        for j in range(heads):
            if i == 0:
                draw.text((left + j * (cell + gap) + 2, 3), f"head {j}", fill="black")
            canvas.paste(tint(weights[i, j], cell), (left + j * (cell + gap), top + i * (cell + gap)))
    return canvas


def query_maps(
    weights: Float[np.ndarray, "l h n n"], sizes: tuple[int, int], query: tuple[int, int]
) -> Float[np.ndarray, "l h r c"]:
    """Where one patch looks: its row of every map, laid out over the `sizes` patches of the picture.

    Tokens beyond the picture's (conditions in context) are left out. Raises ValueError for a patch outside.
    """
    rows, columns = sizes
    if not (0 <= query[0] < rows and 0 <= query[1] < columns):
        raise ValueError(f"The picture has {rows} x {columns} patches; found the query {query}.")
    picked = weights[:, :, query[0] * columns + query[1], : rows * columns]
    return picked.reshape(*picked.shape[:2], rows, columns)


def tint(values: Float[np.ndarray, "r c"], side: int) -> Any:
    """A square Pillow picture of a map."""
    from PIL import Image as Pillow

    share = values / max(float(values.max()), 1e-12)
    colours = 255 + share[..., None] * (np.asarray([12, 44, 132]) - 255)
    return Pillow.fromarray(np.uint8(np.round(colours))).resize((side, side), Pillow.Resampling.NEAREST)

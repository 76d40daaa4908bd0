"""Attention maps of a class-conditional model while it samples.

The sampler is DDIM, x_s = alpha_s x0 + sigma_s eps of the prediction at t (any process), without
guidance. Each step is one pass of the network whose attention is captured (`[layers, h, n, n]`, rows are queries).
"""

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from unified_jax.models.diffusion import Diffusion
from unified_jax.samplers.plan import SamplingPlan
from unified_jax.typing import Params


class Trace(NamedTuple):
    """The trajectory of a sample over k steps."""

    t: list[float]
    """Unit times."""
    x0: Float[np.ndarray, "k h w c"]
    """The network's prediction of the image."""
    weights: Float[np.ndarray, "k l h n n"]
    """Attention, summing to 1 over the last axis."""


def trace_attention(model: Diffusion, params: Params, given: dict[str, Any], plan: SamplingPlan, key: Array) -> Trace:
    """Samples once on the plan's grid, for conditions of one row, and keeps every map."""
    process, grid = plan.prepare(model.process)
    conditions = model.conditions_of(params, given, 1)

    @jax.jit
    def step(x: Array, t: Array, s: Array) -> tuple[Array, Array, Array]:
        output, captured = model.apply(params, process, x, t, conditions, capture=("attention",))
        found = process.predict(output, x, t)
        alpha, sigma = (v[:, None, None, None] for v in process.alpha_sigma(s))
        return alpha * found.x0 + sigma * found.eps, found.x0, captured["attention"][:, 0]

    x = process.start(jax.random.normal(key, (1, *model.streams[0].shape)), jnp.asarray(grid[:1]))
    times, pictures, maps = [], [], []
    for t, s in itertools.pairwise(grid):
        rows = jnp.asarray([t]), jnp.asarray([s])
        x, x0, weights = step(x, *rows)
        times.append(float(process.unit_time(rows[0])[0]))
        pictures.append(np.asarray(x0[0]))
        maps.append(np.asarray(weights, np.float32))
    return Trace(times, np.stack(pictures), np.stack(maps))


def map_grid(
    weights: Float[np.ndarray, "l h r c"],
    cell: int = 72,
    borders: tuple[tuple[int, ...], tuple[int, ...]] = ((), ()),
    dark: Float[np.ndarray, "l h"] | None = None,
) -> Any:
    """A Pillow image: a row per block, a column per head, each map from white (0) to dark blue.

    cell      pixels of the longer side of a map
    borders   rows and columns of the maps that a thin line precedes
    dark      the dark blue value of each map; default its largest
    """
    from PIL import Image as Pillow, ImageDraw

    layers, heads, rows, columns = weights.shape
    wide, high = (max(12, round(cell * k / max(rows, columns))) for k in (columns, rows))
    left, top, gap = 52, 18, 4
    across, down = max(wide, 40) + gap, high + gap
    canvas = Pillow.new("RGB", (left + heads * across, top + layers * down), "white")
    draw = ImageDraw.Draw(canvas)
    for i in range(layers):
        draw.text((2, top + i * down + high // 2 - 6), f"block {i}", fill="black")
        for j in range(heads):
            x, y = left + j * across, top + i * down
            if i == 0:
                draw.text((x + 2, 3), f"head {j}", fill="black")
            canvas.paste(tint(weights[i, j], (wide, high), None if dark is None else dark[i, j]), (x, y))
            draw.rectangle([x - 1, y - 1, x + wide, y + high], outline=(190, 190, 190))
            for row in borders[0]:
                draw.line([x, y + row * high / rows, x + wide - 1, y + row * high / rows], fill=(240, 170, 90))
            for column in borders[1]:
                draw.line([x + column * wide / columns, y, x + column * wide / columns, y + high - 1], (240, 170, 90))
    return canvas


def query_maps(
    weights: Float[np.ndarray, "l h n n"], sizes: tuple[int, int], query: tuple[int, int]
) -> Float[np.ndarray, "l h r c"]:
    """The attention of one patch: its row of every map, laid out over the `sizes` patches of the image.

    Tokens beyond the image's (conditions in context) are left out. Raises ValueError for a patch outside.
    """
    rows, columns = sizes
    if not (0 <= query[0] < rows and 0 <= query[1] < columns):
        raise ValueError(f"The image has {rows} x {columns} patches; found the query {query}.")
    picked = weights[:, :, query[0] * columns + query[1], : rows * columns]
    return picked.reshape(*picked.shape[:2], rows, columns)


def tint(values: Float[np.ndarray, "r c"], size: tuple[int, int], top: Any = None) -> Any:
    """A Pillow image of a map, (width, height) pixels; `top` (default: the largest value) is dark blue."""
    from PIL import Image as Pillow

    share = np.minimum(values / max(float(values.max() if top is None else top), 1e-12), 1.0)
    colours = 255 + share[..., None] * (np.asarray([12, 44, 132]) - 255)
    return Pillow.fromarray(np.uint8(np.round(colours))).resize(size, Pillow.Resampling.NEAREST)

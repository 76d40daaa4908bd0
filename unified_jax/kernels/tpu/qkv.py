r"""Norm, modulation and the projection to queries, keys and values for TPU, one kernel.

    H = norm(x) (1 + scale) + shift                 once for each tile of tokens, kept in VMEM
    Y = H W_j + b_j                                 for the j-th block of head groups
    q, k, v = Y split into heads;  q, k = rotate(rms(q) gain_q), rotate(rms(k) gain_k)

x is read once, H never leaves the chip, and heads are written in the layout of attention: `[b, heads, n, e]`. The
rotation of pairs (2 i, 2 i + 1) is `y cos + (y R) sin` with the signed permutation R, a small product.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

from unified_jax.kernels.inputs import Modulation, NormKind, QkvWeights, Rotary
from unified_jax.kernels.reference import normalise
from unified_jax.kernels.tpu.attend import product
from unified_jax.kernels.tpu.rows import TILE_BYTES, Tile, flat, pick, rows_spec, tile_of, tokens_spec


class Inputs(NamedTuple):
    """The inputs of the kernel, and as the same tree how each is partitioned; None if absent."""

    x: Any
    kernel: Any
    """`[blocks, d, width]`: the weights of some head groups side by side."""
    bias: Any = None
    norm_scale: Any = None
    norm_bias: Any = None
    shift: Any = None
    scale: Any = None
    index: Any = None
    q_scale: Any = None
    k_scale: Any = None
    cos: Any = None
    sin: Any = None
    turn: Any = None


def groups_of(d: int, groups: int, width: int, itemsize: int) -> int:
    """Head groups whose weights make one block: the most that fit, evenly."""
    most = max(1, TILE_BYTES // (d * width * itemsize))
    return next(g for g in range(min(groups, most), 0, -1) if groups % g == 0)


def modulated_qkv(
    x: Float[Array, "b n d"],
    modulation: Modulation | None,
    weights: QkvWeights,
    *,
    norm: NormKind,
    eps: float,
    rotary: Rotary | None,
    interpret: Any = False,
) -> tuple[Array, Array, Array]:
    """Queries `[b, n, g r, e]`, keys and values `[b, n, g, e]` in the kernel's dtype (heads come first in memory)."""
    b, n, d = x.shape
    _, groups, r2, e = weights.kernel.shape
    together = groups_of(d, groups, r2 * e, weights.kernel.dtype.itemsize)
    tile = tile_of(b, n, d)
    given = _inputs(x, modulation, weights, rotary, together)
    heads = [together * (r2 - 2), together, together]
    grid = (b // tile.examples, -(-n // tile.tokens), groups // together)

    def body(given: Inputs, q: Any, k: Any, v: Any, h: Any) -> None:
        _kernel(given, (q, k, v), h, norm, eps, r2)

    q, k, v = pl.pallas_call(
        body,
        grid=grid,
        in_specs=[_specs(given, tile)],
        out_specs=[
            pl.BlockSpec((tile.examples, count, tile.tokens, e), lambda b, i, j: (b, j, i, 0)) for count in heads
        ],
        out_shape=[
            jax.ShapeDtypeStruct((b, count * grid[2], n, e), weights.kernel.dtype) for count in heads
        ],
        scratch_shapes=[pltpu.VMEM((tile.examples * tile.tokens, d), weights.kernel.dtype)],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary")),
        cost_estimate=pl.CostEstimate(
            flops=2 * b * n * weights.kernel.size,
            transcendentals=0,
            bytes_accessed=x.nbytes + weights.kernel.nbytes * grid[0] * grid[1] + b * n * groups * r2 * e * 2,
        ),
        interpret=interpret,
        name="modulated_qkv",
    )(given)  # fmt: skip
    return q.swapaxes(1, 2), k.swapaxes(1, 2), v.swapaxes(1, 2)


def _inputs(
    x: Array, modulation: Modulation | None, weights: QkvWeights, rotary: Rotary | None, together: int
) -> Inputs:
    d, groups, r2, e = weights.kernel.shape
    blocks = groups // together
    kernel = jnp.moveaxis(weights.kernel.reshape(d, blocks, together * r2 * e), 1, 0)
    bias = None if weights.bias is None else weights.bias.reshape(blocks, 1, together * r2 * e)
    row = [None if w is None else w[None] for w in (weights.norm_scale, weights.norm_bias)]
    both = weights.q_scale is not None and weights.k_scale is not None
    gains = (weights.q_scale[None], weights.k_scale[None]) if both else (None, None)  # type: ignore[index]
    shift = scale = index = cos = sin = turn = None
    if modulation is not None:
        shift, scale = modulation.shift, modulation.scale
        index = None if modulation.index is None else modulation.index[..., None]
    if rotary is not None:
        still = ((0, 0), (0, 0), (0, e - 2 * rotary.cos.shape[-1]))  # features beyond the angles are not rotated
        cos = jnp.pad(jnp.repeat(rotary.cos, 2, axis=-1), still, constant_values=1.0)
        sin = jnp.pad(jnp.repeat(rotary.sin, 2, axis=-1), still)
        turn = jnp.asarray(turn_matrix(e), weights.kernel.dtype)
    return Inputs(x, kernel, bias, row[0], row[1], shift, scale, index, *gains, cos, sin, turn)


def turn_matrix(e: int) -> np.ndarray:
    """R with (y R)[2 i] = -y[2 i + 1] and (y R)[2 i + 1] = y[2 i]."""
    matrix = np.zeros((e, e), np.float32)
    even = np.arange(0, e - 1, 2)
    matrix[even + 1, even], matrix[even, even + 1] = -1.0, 1.0
    return matrix


def _specs(given: Inputs, tile: Tile) -> Inputs:
    def whole(value: Any) -> Any:
        return None if value is None else pl.BlockSpec(value.shape, lambda b, i, j: (0,) * value.ndim)

    def of_j(value: Any) -> Any:
        return None if value is None else pl.BlockSpec((None, *value.shape[1:]), lambda b, i, j: (j, 0, 0))

    def a_token(value: Any) -> Any:
        return None if value is None else tokens_spec(tile, value.shape[-1])

    def a_row(value: Any) -> Any:
        return None if value is None else rows_spec(tile, *value.shape[1:])

    return Inputs(
        a_token(given.x), of_j(given.kernel), of_j(given.bias), whole(given.norm_scale), whole(given.norm_bias),
        a_row(given.shift), a_row(given.scale), a_token(given.index), whole(given.q_scale), whole(given.k_scale),
        a_token(given.cos), a_token(given.sin), whole(given.turn),
    )  # fmt: skip


def _kernel(given: Inputs, out: tuple[Any, Any, Any], h: Any, norm: NormKind, eps: float, r2: int) -> None:
    @pl.when(pl.program_id(2) == 0)
    def _normalise() -> None:
        y = normalise(given.x[...], norm, eps)
        y = y if given.norm_scale is None else y * given.norm_scale[...]
        y = y if given.norm_bias is None else y + given.norm_bias[...]
        if given.scale is not None:
            y = y * (1 + pick(given.scale, given.index)) + pick(given.shift, given.index)
        h[...] = flat(y).astype(h.dtype)

    y = product(h[...], given.kernel[...], (1, 0))
    y = y if given.bias is None else y + given.bias[...]
    (examples, tokens), e = given.x.shape[:2], out[0].shape[-1]
    for head in range(y.shape[-1] // e):
        group, part = divmod(head, r2)
        mine = y[:, head * e : (head + 1) * e]
        if part < r2 - 1:  # a query, or the key
            mine = _normed_and_turned(mine, given.q_scale if part < r2 - 2 else given.k_scale, given, eps)
        kind, place = (0, group * (r2 - 2) + part) if part < r2 - 2 else (part - r2 + 3, group)
        out[kind][:, place] = mine.reshape(examples, tokens, e).astype(out[kind].dtype)


def _normed_and_turned(y: Array, gain: Any, given: Inputs, eps: float) -> Array:
    if gain is not None:
        y = normalise(y, "rms", eps) * gain[...]
    if given.cos is None:
        return y
    turned = product(y.astype(given.turn.dtype), given.turn[...], (1, 0))
    return y * flat(given.cos[...]) + turned * flat(given.sin[...])

r"""Attention over key ranges for TPU: forward, by online softmax over the listed key blocks.

Dao et al. 2022, algorithm 1.

Everything is laid out keys down, queries across, so that the statistics of a query are rows and cost no lanes:

    for each listed key block:
        S = K Q^T / sqrt(e)                    [keys, queries]; -1e30 where a query cannot attend to a key
        m' = max(m, max_down(S))               [1, queries]
        P = exp(S - m')
        l = l exp(m - m') + sum_down(P)
        O = O exp(m - m') + V^T P              [e, queries]
    out = (O / l)^T,   lse = m + log(l)        an empty key range has l = 0: out 0, lse -inf

m starts at -1e29, above masked scores, so that a fully masked block adds exp(-9e29) = 0.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

from unified_jax.kernels.blocks import Blocks, blocks_of, whole_runs
from unified_jax.kernels.inputs import Visible
from unified_jax.kernels.tpu.passes import call, cost, in_list, over_keys
from unified_jax.precision import precision

MASKED, LOWEST = -1e30, -1e29


def block_size(length: int, most: int = 512) -> int:
    """Rows of a block: a multiple of the lanes, at most all rows."""
    return min(most, -(-length // 128) * 128)


def product(a: Array, b: Array, over: tuple[int, int]) -> Array:
    """The product of two matrices over axis `over[0]` of a and `over[1]` of b, accumulated in float32.

    float32 matrices are multiplied as such, not in bfloat16 passes.
    """
    dims = (((over[0],), (over[1],)), ((), ()))
    return jax.lax.dot_general(a, b, dims, precision=precision(a.dtype), preferred_element_type=jnp.float32)


def sees(runs: Any, first: Any, shape: tuple[int, int]) -> Array:
    """Whether query (across) attends to key (down), keys counted from `first`; `runs` holds starts and stops."""
    key = first + jax.lax.broadcasted_iota(jnp.int32, shape, 0)
    return (key >= runs[0:1, :]) & (key < runs[1:2, :])


class Laid(NamedTuple):
    """The arguments as the kernels want them: heads before tokens, full blocks, and their lists."""

    q: Float[Array, "b h n e"]
    k: Float[Array, "b g m e"]
    v: Float[Array, "b g m e"]
    blocks: Blocks


def lay(q: Array, k: Array, v: Array, visible: Visible | None, most: int = 512) -> Laid:
    """`[b, n, h, e]` laid out for the kernels, in blocks of at most `most` tokens. None means all keys."""
    (b, n), m = q.shape[:2], k.shape[1]
    rows, columns = block_size(n, most), block_size(m, most)
    blocks = blocks_of(whole_runs(b, n, m) if visible is None else visible, m, rows, columns)
    return Laid(heads_first(q, rows), heads_first(k, columns), heads_first(v, columns), blocks)


def heads_first(x: Float[Array, "b n h e"], block: int) -> Float[Array, "b h n2 e"]:
    """`[b, h, n, e]` with n zero-padded to full blocks."""
    return jnp.pad(jnp.swapaxes(x, 1, 2), ((0, 0), (0, 0), (0, -x.shape[1] % block), (0, 0)))


def tokens_first(x: Float[Array, "b h n2 e"], n: int) -> Float[Array, "b n h e"]:
    """Back to `[b, n, h, e]`, without the padding."""
    return jnp.swapaxes(x[:, :, :n], 1, 2)


def forward(
    q: Float[Array, "b n h e"],
    k: Float[Array, "b m g e"],
    v: Float[Array, "b m g e"],
    visible: Visible | None,
    interpret: Any = False,
) -> tuple[Float[Array, "b n h e"], Float[Array, "b n h"]]:
    """(out in v's dtype, log-sum-exp float32)."""
    out, lse = _run(lay(q, k, v, visible), interpret)
    n = q.shape[1]
    return tokens_first(out, n), jnp.swapaxes(lse[:, :, 0, :n], 1, 2)


def _run(given: Laid, interpret: Any) -> tuple[Float[Array, "b h n e"], Float[Array, "b h 1 n"]]:
    q, k, v, (keys, _, runs) = given
    walk, (b, h, n, e) = over_keys(q, k, keys), q.shape
    shapes = [jax.ShapeDtypeStruct(q.shape, v.dtype), jax.ShapeDtypeStruct((b, h, 1, n), jnp.float32)]
    return call(
        walk, _kernel, "attend", (q, k, v, runs), [walk.query, walk.key, walk.key, walk.run], [walk.query, walk.row],
        shapes, [(e, walk.rows), (1, walk.rows), (1, walk.rows)], cost(q, k, products=2), interpret,
    )  # fmt: skip


def _kernel(length: int, table: Any, q: Any, k: Any, v: Any, runs: Any, out: Any, lse: Any, o: Any, m: Any, l: Any):
    j = pl.program_id(3)
    full, partial, block = in_list(table, pl.program_id(0) * pl.num_programs(2) + pl.program_id(2), length, j)

    @pl.when(j == 0)
    def _start() -> None:
        o[...], m[...], l[...] = jnp.zeros_like(o), jnp.full_like(m, LOWEST), jnp.zeros_like(l)

    def look(masked: bool) -> None:
        s = product(k[...], q[...], (1, 1)) * q.shape[-1] ** -0.5
        if masked:
            s = jnp.where(sees(runs, block * len(s), s.shape), s, MASKED)
        top = jnp.maximum(m[...], jnp.max(s, axis=0, keepdims=True))
        p, fade = jnp.exp(s - top), jnp.exp(m[...] - top)
        l[...] = l[...] * fade + jnp.sum(p, axis=0, keepdims=True)
        o[...] = o[...] * fade + product(v[...], p.astype(v.dtype), (0, 0))
        m[...] = top

    pl.when(full)(lambda: look(masked=False))
    pl.when(partial)(lambda: look(masked=True))

    @pl.when(j == length - 1)
    def _finish() -> None:
        empty = l[...] == 0
        total = jnp.where(empty, 1.0, l[...])
        out[...] = (o[...] / total).T.astype(out.dtype)
        lse[...] = jnp.where(empty, -jnp.inf, m[...] + jnp.log(total))

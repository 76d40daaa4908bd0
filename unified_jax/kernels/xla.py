r"""The path for all devices: the same three parts through XLA, in the compute dtype, softmax and norms in float32.

Choices that differ from the reference, for speed (`benchmarks/profile_step.py` times the parts):

- The softmax divides after the second matmul, `exp(s - max) v / sum`, with the maximum out of the gradient.
- Heads come before tokens in attention's two matmuls, so that each is one plain product per head: no scores are moved.
- Projections see batch and tokens as one axis (`rows_of`) and heads and their features as one: the gradient of a weight
  is then one plain product too, and no weight is transposed.
- Above 2,048 x 2,048 scores queries are processed in chunks, whose scores are recomputed in the backward pass:
memory is
  linear in the length.
- Rows of several modulations are selected by a one-hot matmul, whose gradient is a matmul, not a scatter-add.
- On a CPU products of bfloat16 arrays, forward and backward, are those of `product`.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unified_jax.kernels import product, reference
from unified_jax.kernels.elementwise import add_bias
from unified_jax.kernels.inputs import Index, Modulation, NormKind, OutWeights, QkvWeights, Rotary, Rows, Visible
from unified_jax.precision import precision

CHUNK = 512
"""Queries per chunk."""
WHOLE = 2048 * 2048
"""Pairs of tokens up to which all scores are computed at once."""


def pick_rows(rows: Rows, index: Index | None) -> Float[Array, "b n d"]:
    """The row of each token; with index None the only row, which broadcasts."""
    if index is None:
        return rows
    choice = jax.nn.one_hot(index, rows.shape[1], dtype=rows.dtype)
    return jnp.einsum("bnk,bkd->bnd", choice, rows, precision=precision(rows.dtype))


def modulate(x: Array, shift: Rows, scale: Rows, index: Index | None) -> Array:
    """x (1 + scale) + shift, float32."""
    return x * (1 + pick_rows(scale, index)) + pick_rows(shift, index)


def rows_of(x: Array) -> Array:
    """x with all axes before the last as one, for a matmul; x itself where tokens are sharded over devices.

    (There the merged axis would be gathered.)
    """
    if jax.sharding.get_abstract_mesh().shape.get("sequence", 1) > 1:
        return x
    return x.reshape(-1, x.shape[-1])


def modulated_qkv(
    x: Float[Array, "b n d"],
    modulation: Modulation | None,
    weights: QkvWeights,
    *,
    norm: NormKind = "layer",
    eps: float = 1e-6,
    rotary: Rotary | None = None,
) -> tuple[Array, Array, Array]:
    """Queries `[b, n, g r, e]`, keys and values `[b, n, g, e]` in the kernel's dtype."""
    dtype = weights.kernel.dtype
    h = reference.normalise(x, norm, eps)
    if weights.norm_scale is not None:
        h = h * weights.norm_scale
    if weights.norm_bias is not None:
        h = h + weights.norm_bias
    if modulation is not None:
        h = modulate(h, modulation.shift, modulation.scale, modulation.index)
    heads = weights.kernel.shape[1:]
    kernel = weights.kernel.reshape(h.shape[-1], -1)
    fused = product.matmul(rows_of(h.astype(dtype)), kernel).reshape(x.shape[:2] + heads)
    if weights.bias is not None:
        fused = add_bias(fused, weights.bias)
    return heads_of(fused, weights, rotary, eps)


def heads_of(
    fused: Float[Array, "b n g r2 e"], weights: QkvWeights, rotary: Rotary | None, eps: float
) -> tuple[Array, Array, Array]:
    """Queries, keys and values of the fused projection, optionally normalised and rotated."""
    b, n, _, _, e = fused.shape
    dtype = weights.kernel.dtype
    q, k, v = jnp.split(fused, [fused.shape[-2] - 2, fused.shape[-2] - 1], axis=-2)
    q, k, v = q.reshape(b, n, -1, e), k[..., 0, :], v[..., 0, :]
    if weights.q_scale is not None and weights.k_scale is not None:
        q = (reference.normalise(q, "rms", eps) * weights.q_scale).astype(dtype)
        k = (reference.normalise(k, "rms", eps) * weights.k_scale).astype(dtype)
    if rotary is not None:
        q, k = reference.rotate(q, rotary).astype(dtype), reference.rotate(k, rotary).astype(dtype)
    return q, k, v


def attend(
    q: Float[Array, "b n h e"],
    k: Float[Array, "b m g e"],
    v: Float[Array, "b m g e"],
    visible: Visible | None = None,
    bias: Float[Array, "b h n m"] | None = None,
) -> tuple[Float[Array, "b n h e"], Float[Array, "b n h"]]:
    """(output in v's dtype, log-sum-exp float32). Long sequences use chunks of queries, for memory linear in n."""
    n = q.shape[1]
    if bias is not None or n <= CHUNK or n * k.shape[1] <= WHOLE:
        return _attend(q, k, v, visible, bias)
    visible = jnp.broadcast_to(jnp.array([0, k.shape[1]]), (len(q), n, 2)) if visible is None else visible
    fill = -n % CHUNK

    def chunks(x: Array) -> Array:
        x = jnp.pad(x, [(0, 0), (0, fill)] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(len(x), -1, CHUNK, *x.shape[2:]), 1, 0)

    # Scores are recomputed in the backward pass, a chunk at a time.
    part = jax.checkpoint(lambda given: _attend(given[0], k, v, given[1], None))
    out, log_sum = jax.lax.map(part, (chunks(q), chunks(visible)))
    whole = [jnp.moveaxis(x, 0, 1).reshape(len(q), n + fill, *x.shape[3:])[:, :n] for x in (out, log_sum)]
    return whole[0], whole[1]


def _attend(
    q: Float[Array, "b n h e"],
    k: Float[Array, "b m g e"],
    v: Float[Array, "b m g e"],
    visible: Visible | None,
    bias: Float[Array, "b h n m"] | None,
) -> tuple[Float[Array, "b n h e"], Float[Array, "b n h"]]:
    """All scores at once."""
    b, n, h, e = q.shape
    groups = k.shape[2]
    # The heads of a group as further rows of one matmul: an axis of size one would make XLA's CPU compiler copy.
    q = jnp.moveaxis((q * (e**-0.5)).reshape(b, n, groups, h // groups, e), 1, 3).reshape(b, groups, -1, e)
    k, v = jnp.swapaxes(k, 1, 2), jnp.swapaxes(v, 1, 2)
    scores = _product("bgne,bgme->bgnm", q, k)
    if bias is not None:
        scores = scores + jnp.broadcast_to(bias, (b, h, n, k.shape[2])).reshape(scores.shape)
    if visible is not None:
        mask = jnp.tile(reference.dense_mask(visible, k.shape[2])[:, None], (1, 1, h // groups, 1))
        scores = jnp.where(mask, scores, -1e30)
    top = jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True))
    weights = jnp.exp(scores - top)
    if visible is not None:
        weights = jnp.where(mask, weights, 0.0)
    total = jnp.sum(weights, axis=-1)
    empty = total == 0
    out = _product("bgnm,bgme->bgne", weights.astype(v.dtype), v)
    out = out / jnp.where(empty, 1.0, total)[..., None]
    log_sum = jnp.where(empty, -jnp.inf, top[..., 0] + jnp.log(jnp.where(empty, 1.0, total)))
    out = jnp.moveaxis(out.reshape(b, groups, -1, n, e), 3, 1).reshape(b, n, h, e).astype(v.dtype)
    return out, jnp.moveaxis(log_sum.reshape(b, h, n), 2, 1)


def _product(form: str, a: Array, b: Array) -> Array:
    """An einsum with a float32 result, whose gradients are products in the operands' dtype."""
    return product.product(form, a, b, jnp.float32) if product.applies(a.dtype) else _own_product(form, a, b)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _own_product(form: str, a: Array, b: Array) -> Array:
    """An einsum accumulated in float32, with gradients that are products in the operands' dtype.

    JAX's own rule multiplies the float32 gradient of the result by bfloat16 operands: on a GPU at half the rate.
    """
    return jnp.einsum(form, a, b, precision=precision(a.dtype), preferred_element_type=jnp.float32)


@_own_product.defjvp
def _own_product_jvp(form: str, at: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    (a, b), (da, db) = at, tangents
    plain = functools.partial(jnp.einsum, form, precision=precision(a.dtype))
    return _own_product(form, a, b), plain(da, b).astype(jnp.float32) + plain(a, db).astype(jnp.float32)


def gated_out(
    x: Float[Array, "b n d"],
    a: Float[Array, "b n h e"],
    weights: OutWeights,
    gate: Rows | None = None,
    index: Index | None = None,
) -> Float[Array, "b n d"]:
    """x + gate * (W a + b); the residual stream keeps x's dtype."""
    kernel = weights.kernel.reshape(-1, x.shape[-1])
    a = rows_of(a.reshape(x.shape[:2] + (-1,)).astype(kernel.dtype))
    out = product.matmul(a, kernel).reshape(x.shape)
    if weights.bias is not None:
        out = add_bias(out, weights.bias)
    return x + (out if gate is None else pick_rows(gate, index) * out).astype(x.dtype)

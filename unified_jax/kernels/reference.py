r"""The specification in plain jnp, float32 inside, with which every other path is compared.

modulated_qkv   q, k, v = split(W (norm(x) (1 + scale) + shift) + b); optional RMS norm of q and k; optional rotation
attend          softmax over the key range of q k^T / sqrt(e), times v
gated_out       x + gate (W a + b)
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from unified_jax.kernels.inputs import Index, Modulation, NormKind, OutWeights, QkvWeights, Rotary, Rows, Visible
from unified_jax.precision import EXACT


def normalise(x: Array, kind: NormKind, eps: float) -> Array:
    """LayerNorm or RMSNorm over the last axis without gains, float32."""
    x = x.astype(jnp.float32)
    if kind == "none":
        return x
    if kind == "layer":
        x = x - jnp.mean(x, axis=-1, keepdims=True)
    return x / jnp.sqrt(jnp.mean(x**2, axis=-1, keepdims=True) + eps)


def pick_rows(rows: Rows, index: Index | None) -> Float[Array, "b n d"]:
    """The row of each token; with index None the only row, `[b, 1, d]`, which broadcasts."""
    return rows if index is None else jnp.take_along_axis(rows, index[..., None], axis=1)


def rotate(x: Float[Array, "b n h e"], rotary: Rotary) -> Float[Array, "b n h e"]:
    """Rotates feature pairs (2 i, 2 i + 1) by the token's angles; features beyond the angles pass through."""
    turned = 2 * rotary.cos.shape[-1]
    pairs = x[..., :turned].reshape(x.shape[:-1] + (turned // 2, 2))
    a, b = pairs[..., 0], pairs[..., 1]
    cos, sin = rotary.cos[:, :, None], rotary.sin[:, :, None]
    out = jnp.stack([a * cos - b * sin, a * sin + b * cos], axis=-1).reshape(x.shape[:-1] + (turned,))
    return jnp.concatenate([out, x[..., turned:]], axis=-1)


def modulated_qkv(
    x: Float[Array, "b n d"],
    modulation: Modulation | None,
    weights: QkvWeights,
    *,
    norm: NormKind = "layer",
    eps: float = 1e-6,
    rotary: Rotary | None = None,
) -> tuple[Array, Array, Array]:
    """Queries `[b, n, g r, e]`, keys and values `[b, n, g, e]`, float32."""
    h = normalise(x, norm, eps)
    if weights.norm_scale is not None:
        h = h * weights.norm_scale
    if weights.norm_bias is not None:
        h = h + weights.norm_bias
    if modulation is not None:
        h = h * (1 + pick_rows(modulation.scale, modulation.index)) + pick_rows(modulation.shift, modulation.index)
    fused = jnp.einsum("bnd,dgre->bngre", h, weights.kernel.astype(jnp.float32), precision=EXACT)
    if weights.bias is not None:
        fused = fused + weights.bias
    b, n, _, _, e = fused.shape
    q, k, v = fused[..., :-2, :].reshape(b, n, -1, e), fused[..., -2, :], fused[..., -1, :]
    if weights.q_scale is not None and weights.k_scale is not None:
        q = normalise(q, "rms", eps) * weights.q_scale
        k = normalise(k, "rms", eps) * weights.k_scale
    if rotary is not None:
        q, k = rotate(q, rotary), rotate(k, rotary)
    return q, k, v


def dense_mask(visible: Visible, keys: int) -> Array:
    """The key ranges as a boolean matrix `[b, n, m]`."""
    position = jnp.arange(keys)
    return (position >= visible[..., :1]) & (position < visible[..., 1:])


def attention_weights(
    q: Float[Array, "b n h e"],
    k: Float[Array, "b m g e"],
    visible: Visible | None = None,
    bias: Float[Array, "b h n m"] | None = None,
) -> tuple[Float[Array, "b h n m"], Float[Array, "b n h"]]:
    """Softmax probabilities and the log-sum-exp of the scores; of an empty key range, 0 and -inf."""
    repeats = q.shape[2] // k.shape[2]
    k = jnp.repeat(k, repeats, axis=2).astype(jnp.float32)
    scores = jnp.einsum("bnhe,bmhe->bhnm", q.astype(jnp.float32), k, precision=EXACT) / jnp.sqrt(1.0 * q.shape[-1])
    if bias is not None:
        scores = scores + bias
    mask = jnp.ones((1, 1, 1, k.shape[1]), bool) if visible is None else dense_mask(visible, k.shape[1])[:, None]
    top = jnp.max(jnp.where(mask, scores, -1e30), axis=-1, keepdims=True)
    weights = jnp.where(mask, jnp.exp(jnp.where(mask, scores - top, 0.0)), 0.0)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    empty = total == 0
    log_sum = jnp.where(empty, -jnp.inf, top + jnp.log(jnp.where(empty, 1.0, total)))
    return weights / jnp.where(empty, 1.0, total), jnp.moveaxis(log_sum[..., 0], 1, 2)


def attend(
    q: Float[Array, "b n h e"],
    k: Float[Array, "b m g e"],
    v: Float[Array, "b m g e"],
    visible: Visible | None = None,
    bias: Float[Array, "b h n m"] | None = None,
) -> tuple[Float[Array, "b n h e"], Float[Array, "b n h"]]:
    """(output, log-sum-exp) of attention over key ranges; self- and cross-attention alike.

    Key head i serves queries i r .. i r + r - 1.
    """
    weights, log_sum = attention_weights(q, k, visible, bias)
    repeats = q.shape[2] // v.shape[2]
    v = jnp.repeat(v, repeats, axis=2).astype(jnp.float32)
    return jnp.einsum("bhnm,bmhe->bnhe", weights, v, precision=EXACT), log_sum


def merge_runs(
    first: tuple[Array, Array], second: tuple[Array, Array]
) -> tuple[Float[Array, "b n h e"], Float[Array, "b n h"]]:
    """Two results of `attend` for disjoint key ranges of the same queries, merged by their log-sum-exp."""
    (a, lse_a), (b, lse_b) = first, second
    empty = jnp.isneginf(lse_a) & jnp.isneginf(lse_b)
    safe = jnp.where(empty, 0.0, jnp.logaddexp(jnp.where(empty, 0.0, lse_a), jnp.where(empty, 0.0, lse_b)))
    lse = jnp.where(empty, -jnp.inf, safe)
    return a * jnp.exp(lse_a - safe)[..., None] + b * jnp.exp(lse_b - safe)[..., None], lse


def gated_out(
    x: Float[Array, "b n d"],
    a: Float[Array, "b n h e"],
    weights: OutWeights,
    gate: Rows | None = None,
    index: Index | None = None,
) -> Float[Array, "b n d"]:
    """x + gate * (W a + b), float32; without a gate x + W a + b."""
    kernel = weights.kernel.astype(jnp.float32)
    out = jnp.einsum("bnhe,hed->bnd", a.astype(jnp.float32), kernel, precision=EXACT)
    if weights.bias is not None:
        out = out + weights.bias
    return x + (out if gate is None else pick_rows(gate, index) * out)


def attention_half(
    x: Float[Array, "b n d"],
    modulation: Modulation | None,
    qkv: QkvWeights,
    out: OutWeights,
    *,
    visible: Visible | None = None,
    norm: NormKind = "layer",
    eps: float = 1e-6,
    rotary: Rotary | None = None,
) -> Float[Array, "b n d"]:
    """The attention branch of a block: the three parts in order."""
    q, k, v = modulated_qkv(x, modulation, qkv, norm=norm, eps=eps, rotary=rotary)
    a, _ = attend(q, k, v, visible)
    if modulation is None:
        return gated_out(x, a, out)
    return gated_out(x, a, out, modulation.gate, modulation.index)

"""Attention layers against their equations in NumPy, float64: complex numbers turn, loops run over heads and tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unified_jax.kernels.inputs import Modulation, Rotary
from unified_jax.layers.attention import AttentionHalf, CrossAttentionHalf
from unified_jax.sharding import unbox

B, N, D, HEADS, E = 2, 5, 12, 2, 6
EPS = 0.1
"""Of the norms: large, so that it matters where it stands."""
RNG, FLOAT = np.random.default_rng(0), jnp.dtype("float32")


def parameters(module, *given):
    """Shapes as the module declares them, every number drawn."""
    shapes = jax.eval_shape(lambda: unbox(module.init(jax.random.key(0), *given)))["params"]
    return jax.tree.map(lambda s: jnp.asarray(RNG.normal(0, 0.5, s.shape), jnp.float32), shapes)


def normed(x, kind):
    x = x - x.mean(-1, keepdims=True) if kind == "layer" else x
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + EPS)


def attended(q, k, v, visible):
    """One head of one example: softmax over the keys that each query sees."""
    out = np.zeros((len(q), v.shape[1]))
    for i, (first, stop) in enumerate(visible):
        raised = np.exp(k[first:stop] @ q[i] / np.sqrt(len(q[i])))
        out[i] = raised @ v[first:stop] / raised.sum()
    return out


def turned(x, phi):
    """Pairs (2 i, 2 i + 1) of the first features as complex numbers, times e^(i phi); the rest passes through."""
    pairs = 2 * phi.shape[-1]
    z = (x[..., :pairs:2] + 1j * x[..., 1:pairs:2]) * np.exp(1j * phi)
    return np.concatenate([np.stack([z.real, z.imag], -1).reshape(*x.shape[:-1], pairs), x[..., pairs:]], -1)


@pytest.mark.parametrize("attention", ["reference", "xla"])
@pytest.mark.parametrize("norm", ["layer", "rms"])
def test_the_attention_half_is_its_equation(norm, attention):
    x, phi = RNG.normal(size=(B, N, D)), RNG.normal(size=(B, N, 2))
    shift, scale, gate = RNG.normal(size=(3, B, 2, D))
    index, visible = RNG.integers(0, 2, (B, N)), np.asarray([[[0, 2], [1, 2], [0, 5], [3, 5], [2, 4]]] * B)
    half = AttentionHalf(HEADS, 1, norm, affine=True, qk_norm=True, eps=EPS, dtype=FLOAT, attention=attention)
    rows = Modulation(*(jnp.asarray(v, jnp.float32) for v in (shift, scale, gate)), jnp.asarray(index))
    rotary = Rotary(jnp.asarray(np.cos(phi), jnp.float32), jnp.asarray(np.sin(phi), jnp.float32))
    given = (jnp.asarray(x, jnp.float32), rows, jnp.asarray(visible), rotary)
    params = parameters(half, *given)
    found = jax.jit(half.apply)({"params": params}, *given)[0]
    w = jax.tree.map(lambda p: np.asarray(p, np.float64), params)
    wanted = np.zeros_like(x)
    for b in range(B):
        h = normed(x[b], norm) * w["norm_gain"] + w.get("norm_bias", 0.0)
        h = h * (1 + scale[b, index[b]]) + shift[b, index[b]]
        fused = np.tensordot(h, w["qkv_kernel"], 1) + w["qkv_bias"]  # [n, 1, two queries, key, value, e]
        k = turned(normed(fused[:, 0, 2], "rms") * w["k_scale"], phi[b])
        out = w["out_bias"] + np.zeros((N, D))
        for head in range(HEADS):
            q = turned(normed(fused[:, 0, head], "rms") * w["q_scale"], phi[b])
            out = out + attended(q, k, fused[:, 0, 3], visible[b]) @ w["out_kernel"][head]
        wanted[b] = x[b] + gate[b, index[b]] * out
    np.testing.assert_allclose(found, wanted, atol=2e-5)


def test_the_cross_attention_half_is_its_equation():
    x, memory = RNG.normal(size=(B, N, D)), RNG.normal(size=(B, 3, D))
    half, given = CrossAttentionHalf(HEADS, EPS, FLOAT), (jnp.asarray(x, jnp.float32), jnp.asarray(memory, jnp.float32))
    params = parameters(half, *given)
    found = jax.jit(half.apply)({"params": params}, *given)
    w = jax.tree.map(lambda p: np.asarray(p, np.float64), params)
    gain, bias = w["norm"]["gain"], w["norm"]["bias"]
    wanted = x + w["out_bias"]
    for b in range(B):
        q = np.tensordot(normed(x[b], "layer") * gain + bias, w["q_kernel"], 1) + w["q_bias"]
        kv = np.tensordot(memory[b], w["kv_kernel"], 1) + w["kv_bias"]
        for head in range(HEADS):
            out = attended(q[:, head], kv[:, head, 0], kv[:, head, 1], [(0, 3)] * N)
            wanted[b] += out @ w["out_kernel"][head]
    np.testing.assert_allclose(found, wanted, atol=2e-5)

"""The XLA path equals the specification, forward and gradient; the specification equals dense attention."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unified_jax.kernels import choice, reference, xla
from unified_jax.kernels.inputs import Modulation, OutWeights, QkvWeights, Rotary

B, N, D, E = 2, 7, 24, 6


def normal(seed, *shapes):
    """Standard normal arrays of these shapes."""
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in shapes]


def weights(groups, repeats, qk_norm=False, affine=False, seed=0):
    kernel, bias, gain, shift, q, k, back = normal(
        seed, (D, groups, repeats + 2, E), (groups, repeats + 2, E), D, D, E, E, (groups * repeats, E, D)
    )
    qkv = QkvWeights(
        0.3 * kernel,
        0.1 * bias,
        norm_scale=1 + 0.1 * gain if affine else None,
        norm_bias=0.1 * shift if affine else None,
        q_scale=1 + 0.1 * q if qk_norm else None,
        k_scale=1 + 0.1 * k if qk_norm else None,
    )
    return qkv, OutWeights(0.3 * back, jnp.ones(D))


def modulation(rows, seed=1):
    parts = [0.3 * part for part in normal(seed, *[(B, rows, D)] * 3)]
    index = None if rows == 1 else jnp.asarray(np.random.default_rng(seed).integers(0, rows, (B, N)))
    return Modulation(*parts, index)


def runs(seed=2):
    rng = np.random.default_rng(seed)
    start, length = rng.integers(0, N, (2, B, N))  # some runs are empty
    return np.stack([start, np.minimum(start + length, N)], axis=-1).astype(np.int32)


def angles():
    (phi,) = normal(5, (B, N, E // 2 - 1))
    return Rotary(jnp.cos(phi), jnp.sin(phi))


CASES = {
    "dit": {"groups": 4, "repeats": 1, "rows": 1},
    "transfusion": {"groups": 2, "repeats": 2, "rows": 3, "visible": True, "rotary": True, "qk_norm": True},
    "rms": {"groups": 1, "repeats": 4, "rows": 1, "norm": "rms", "affine": True, "visible": True},
    "plain": {"groups": 4, "repeats": 1, "rows": 0, "norm": "layer", "affine": True, "rotary": True},
    "post_norm": {"groups": 4, "repeats": 1, "rows": 0, "norm": "none"},
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_xla_is_the_reference_forward_and_gradient(case):
    qkv, out = weights(case["groups"], case["repeats"], case.get("qk_norm", False), case.get("affine", False))
    m = modulation(case["rows"]) if case["rows"] else None
    (x,) = normal(3, (B, N, D))
    options = {
        "visible": jnp.asarray(runs()) if case.get("visible") else None,
        "rotary": angles() if case.get("rotary") else None,
        "norm": case.get("norm", "layer"),
    }

    def loss(attention, x, m, qkv, out):
        return jnp.sum(jnp.sin(choice.attention_half(x, m, qkv, out, attention=attention, **options)))

    # The index is integer: differentiate with respect to the floating leaves.
    index = None if m is None else m.index
    soft = None if m is None else m._replace(index=None)

    def pure(attention, x, soft, qkv, out):
        return loss(attention, x, None if soft is None else soft._replace(index=index), qkv, out)

    run = jax.jit(jax.value_and_grad(pure, argnums=(1, 2, 3, 4)), static_argnums=0)
    a, b = (run(path, x, soft, qkv, out) for path in ("reference", "xla"))
    for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(left, right, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("path", [reference, xla])
def test_runs_are_dense_masks_and_empty_runs_give_zero(path):
    q, k, v = normal(4, *[(B, N, 4, E)] * 3)
    visible = runs()
    visible[0, 0], visible[1, 2] = (3, 3), (0, N)
    out, lse = jax.device_get(jax.jit(path.attend)(q, k, v, visible))
    scores = np.einsum("bnhe,bmhe->bhnm", q, k) / np.sqrt(E)
    mask = np.zeros((B, N, N), bool)
    for b in range(B):
        for i in range(N):
            mask[b, i, int(visible[b, i, 0]) : int(visible[b, i, 1])] = True
    raised = np.where(mask[:, None], np.exp(scores), 0)
    total = raised.sum(-1, keepdims=True)
    expected = np.einsum("bhnm,bmhe->bnhe", raised / np.where(total == 0, 1, total), v)
    np.testing.assert_allclose(out, expected, atol=1e-5)
    np.testing.assert_array_equal(out[0, 0], np.zeros((4, E)))
    assert np.isneginf(lse[0, 0]).all()
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(lse, np.moveaxis(np.log(total[..., 0]), 1, 2), atol=1e-5)


@pytest.mark.parametrize("path", [reference, xla])
def test_empty_runs_have_finite_gradients(path):
    visible = jnp.asarray([[[0, 0], [0, 3], [2, 2]]])
    gradient = jax.jit(jax.grad(lambda *qkv: path.attend(*qkv, visible)[0].sum(), argnums=(0, 1, 2)))
    grads = jax.device_get(gradient(*normal(4, *[(1, 3, 1, E)] * 3)))
    assert all(np.isfinite(g).all() for g in grads)
    np.testing.assert_array_equal(grads[0][0, 0], np.zeros((1, E)))


def test_two_runs_are_merged_by_their_log_sum_exp():
    q, k, v = normal(6, *[(B, N, 2, E)] * 3)
    first, second, whole = (np.tile(np.asarray(run, np.int32), (B, N, 1)) for run in ([0, 3], [3, N], [0, N]))
    second[0, 0], whole[0, 0] = (4, 4), (0, 3)

    @jax.jit
    def both(first, second):
        return reference.merge_runs(xla.attend(q, k, v, first), xla.attend(q, k, v, second))

    merged, lse = both(first, second)
    out, expected = jax.jit(reference.attend)(q, k, v, whole)
    np.testing.assert_allclose(merged, out, atol=1e-5)
    np.testing.assert_allclose(lse, expected, atol=1e-5)


def test_cross_attention_and_bias():
    q, k, v, bias = normal(7, (B, 3, 4, E), (B, N, 2, E), (B, N, 2, E), (B, 4, 3, N))
    visible = jnp.broadcast_to(jnp.asarray([1, 5]), (B, 3, 2))
    a, b = (jax.jit(path.attend)(q, k, v, visible, bias) for path in (reference, xla))
    np.testing.assert_allclose(a[0], b[0], atol=1e-5)
    np.testing.assert_allclose(a[1], b[1], atol=1e-5)


def test_chunks_of_queries_read_any_number_of_keys(monkeypatch):
    """Cross-attention of a long sequence to more keys, with and without runs; the last chunk is not full."""
    keys = 13
    monkeypatch.setattr(xla, "CHUNK", 4)
    monkeypatch.setattr(xla, "WHOLE", 8)
    q, k, v = normal(7, (B, 10, 4, E), (B, keys, 2, E), (B, keys, 2, E))
    start = np.random.default_rng(9).integers(0, keys, (B, 10)).astype(np.int32)
    for visible in (None, jnp.asarray(np.stack([start, np.minimum(start + 3, keys)], axis=-1))):
        paths = [jax.jit(lambda *given, path=path: path.attend(*given)) for path in (xla, reference)]
        for got, wanted in zip(*(path(q, k, v, visible) for path in paths), strict=True):
            np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_xla_attention_has_second_derivatives_and_jvp():
    q, k, v = normal(4, *[(1, 4, 1, E)] * 3)
    f = jax.jit(lambda q: xla.attend(q, k, v)[0].sum())
    _, tangent = jax.jit(lambda q: jax.jvp(f, (q,), (jnp.ones_like(q),)))(q)
    second = jax.jit(jax.grad(lambda q: jnp.sum(jax.grad(f)(q) ** 2)))(q)
    assert bool(jnp.isfinite(tangent))
    assert bool(jnp.isfinite(second).all())


def test_bfloat16_stays_close():
    qkv, out = weights(4, 1)
    half = (qkv._replace(kernel=qkv.kernel.astype(jnp.bfloat16)), out._replace(kernel=out.kernel.astype(jnp.bfloat16)))
    (x,) = normal(3, (B, N, D))
    exact = jax.jit(functools.partial(choice.attention_half, attention="reference"))(x, modulation(1), qkv, out)
    rough = jax.jit(choice.attention_half)(x, modulation(1), *half)
    assert float(jnp.abs(exact - rough).max()) < 0.05


def test_unknown_implementations_are_refused():
    with pytest.raises(ValueError, match="one of auto, reference, xla"):
        choice.check_attention("flash")

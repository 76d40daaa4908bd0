"""The XLA path equals the specification, forward and gradient; the specification equals dense attention."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unified_jax.kernels import choice, reference, xla
from unified_jax.kernels.inputs import Modulation, OutWeights, QkvWeights, Rotary

B, N, D, E = 2, 7, 24, 6


def weights(groups, repeats, qk_norm=False, affine=False, seed=0):
    keys = iter(jax.random.split(jax.random.key(seed), 10))
    qkv = QkvWeights(
        0.3 * jax.random.normal(next(keys), (D, groups, repeats + 2, E)),
        0.1 * jax.random.normal(next(keys), (groups, repeats + 2, E)),
        norm_scale=1 + 0.1 * jax.random.normal(next(keys), (D,)) if affine else None,
        norm_bias=0.1 * jax.random.normal(next(keys), (D,)) if affine else None,
        q_scale=1 + 0.1 * jax.random.normal(next(keys), (E,)) if qk_norm else None,
        k_scale=1 + 0.1 * jax.random.normal(next(keys), (E,)) if qk_norm else None,
    )
    out = OutWeights(0.3 * jax.random.normal(next(keys), (groups * repeats, E, D)), jnp.ones(D))
    return qkv, out


def modulation(rows, seed=1):
    keys = jax.random.split(jax.random.key(seed), 4)
    parts = [0.3 * jax.random.normal(key, (B, rows, D)) for key in keys[:3]]
    index = None if rows == 1 else jax.random.randint(keys[3], (B, N), 0, rows)
    return Modulation(*parts, index)


def runs(seed=2):
    start = jax.random.randint(jax.random.key(seed), (B, N), 0, N)
    length = jax.random.randint(jax.random.key(seed + 1), (B, N), 0, N)  # some runs are empty
    return jnp.stack([start, jnp.minimum(start + length, N)], axis=-1)


def angles():
    phi = jax.random.normal(jax.random.key(5), (B, N, E // 2 - 1))
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
    x = jax.random.normal(jax.random.key(3), (B, N, D))
    options = {
        "visible": runs() if case.get("visible") else None,
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

    a = jax.value_and_grad(pure, argnums=(1, 2, 3, 4))("reference", x, soft, qkv, out)
    b = jax.value_and_grad(pure, argnums=(1, 2, 3, 4))("xla", x, soft, qkv, out)
    for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(left, right, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("path", [reference, xla])
def test_runs_are_dense_masks_and_empty_runs_give_zero(path):
    q, k, v = (jax.random.normal(key, (B, N, 4, E)) for key in jax.random.split(jax.random.key(4), 3))
    visible = runs().at[0, 0].set(jnp.asarray([3, 3])).at[1, 2].set(jnp.asarray([0, N]))
    out, lse = path.attend(q, k, v, visible)
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
    q, k, v = (jax.random.normal(key, (1, 3, 1, E)) for key in jax.random.split(jax.random.key(4), 3))
    visible = jnp.asarray([[[0, 0], [0, 3], [2, 2]]])
    grads = jax.grad(lambda *qkv: path.attend(*qkv, visible)[0].sum(), argnums=(0, 1, 2))(q, k, v)
    assert all(bool(jnp.isfinite(g).all()) for g in grads)
    np.testing.assert_array_equal(grads[0][0, 0], 0 * q[0, 0])


def test_two_runs_are_merged_by_their_log_sum_exp():
    q, k, v = (jax.random.normal(key, (B, N, 2, E)) for key in jax.random.split(jax.random.key(6), 3))
    first = jnp.broadcast_to(jnp.asarray([0, 3]), (B, N, 2))
    second = jnp.broadcast_to(jnp.asarray([3, N]), (B, N, 2)).at[0, 0].set(jnp.asarray([4, 4]))
    whole = jnp.broadcast_to(jnp.asarray([0, N]), (B, N, 2)).at[0, 0].set(jnp.asarray([0, 3]))
    merged, lse = reference.merge_runs(xla.attend(q, k, v, first), xla.attend(q, k, v, second))
    out, expected = reference.attend(q, k, v, whole)
    np.testing.assert_allclose(merged, out, atol=1e-5)
    np.testing.assert_allclose(lse, expected, atol=1e-5)


def test_cross_attention_and_bias():
    q = jax.random.normal(jax.random.key(7), (B, 3, 4, E))
    k, v = (jax.random.normal(key, (B, N, 2, E)) for key in jax.random.split(jax.random.key(8), 2))
    visible = jnp.broadcast_to(jnp.asarray([1, 5]), (B, 3, 2))
    bias = jax.random.normal(jax.random.key(9), (B, 4, 3, N))
    a, b = reference.attend(q, k, v, visible, bias), xla.attend(q, k, v, visible, bias)
    np.testing.assert_allclose(a[0], b[0], atol=1e-5)
    np.testing.assert_allclose(a[1], b[1], atol=1e-5)


def test_chunks_of_queries_read_any_number_of_keys(monkeypatch):
    """Cross-attention of a long sequence to more keys, with and without runs; the last chunk is not full."""
    keys = 13
    monkeypatch.setattr(xla, "CHUNK", 4)
    monkeypatch.setattr(xla, "WHOLE", 8)
    q = jax.random.normal(jax.random.key(7), (B, 10, 4, E))
    k, v = (jax.random.normal(key, (B, keys, 2, E)) for key in jax.random.split(jax.random.key(8), 2))
    start = jax.random.randint(jax.random.key(9), (B, 10), 0, keys)
    for visible in (None, jnp.stack([start, jnp.minimum(start + 3, keys)], axis=-1)):
        for got, wanted in zip(xla.attend(q, k, v, visible), reference.attend(q, k, v, visible), strict=True):
            np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_xla_attention_has_second_derivatives_and_jvp():
    q, k, v = (jax.random.normal(key, (1, 4, 1, E)) for key in jax.random.split(jax.random.key(4), 3))
    f = lambda q: xla.attend(q, k, v)[0].sum()  # noqa: E731
    _, tangent = jax.jvp(f, (q,), (jnp.ones_like(q),))
    second = jax.grad(lambda q: jnp.sum(jax.grad(f)(q) ** 2))(q)
    assert bool(jnp.isfinite(tangent))
    assert bool(jnp.isfinite(second).all())


def test_bfloat16_stays_close():
    qkv, out = weights(4, 1)
    half = (qkv._replace(kernel=qkv.kernel.astype(jnp.bfloat16)), out._replace(kernel=out.kernel.astype(jnp.bfloat16)))
    x = jax.random.normal(jax.random.key(3), (B, N, D))
    exact = choice.attention_half(x, modulation(1), qkv, out, attention="reference")
    rough = choice.attention_half(x, modulation(1), *half)
    assert float(jnp.abs(exact - rough).max()) < 0.05


def test_unknown_implementations_are_refused():
    with pytest.raises(ValueError, match="one of auto, reference, xla"):
        choice.check_attention("flash")

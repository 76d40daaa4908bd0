"""Quantisers: gradients pass, averages are sums over the batch, ids count every code once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unified_jax.networks.autoencoders.quantise import EmaCodebook, EmaSums, nearest, passed, perplexity, unit
from unified_jax.networks.autoencoders.scalar import Fsq, Lfq

Z = jax.random.normal(jax.random.key(0), (3, 40, 2))


def test_the_gradient_at_a_vector_is_that_at_its_code_copied_or_turned():
    code = jax.random.normal(jax.random.key(1), Z.shape)
    weights = jax.random.normal(jax.random.key(2), Z.shape)
    slope = jax.grad(lambda z: jnp.sum(jnp.sin(passed(z, code)) * weights))(Z)
    np.testing.assert_allclose(slope, jnp.cos(code) * weights, atol=1e-6)
    turned = jax.grad(lambda z: jnp.sum(passed(z, code, "rotation") * weights))(Z)
    lengths = jnp.linalg.norm(code, axis=-1) / jnp.linalg.norm(Z, axis=-1)
    np.testing.assert_allclose(jnp.linalg.norm(turned, axis=-1), jnp.linalg.norm(weights, axis=-1) * lengths, rtol=1e-4)
    # The angle between gradient and vector is that between the code's gradient and the code.
    np.testing.assert_allclose(jnp.sum(unit(turned) * unit(Z), -1), jnp.sum(unit(weights) * unit(code), -1), atol=1e-4)
    np.testing.assert_allclose(passed(Z, code, "rotation"), code, atol=1e-4)
    assert np.isfinite(jax.grad(lambda z: passed(z, code[0, 0], "rotation").sum())(jnp.zeros(2))).all()


@pytest.mark.parametrize("cosine", [False, pytest.param(True, marks=pytest.mark.nightly)])
def test_averages_of_microbatches_are_those_of_the_batch_and_settle_at_the_means(cosine):
    book = EmaCodebook(5, 2, decay=0.5, eps=1e-9, cosine=cosine)
    state = book.init_aux(jax.random.key(3))

    @jax.jit
    def step(state):
        ids = book.quantise(state, Z).ids
        parts = [book.sums(z, i) for z, i in zip(Z, ids, strict=True)]
        return (
            book.settle_aux(state, EmaSums(*(sum(p) for p in zip(*parts, strict=True)))),
            ids,
            book.sums(Z, ids),
            parts,
        )

    for _ in range(40):
        state, ids, whole, parts = step(state)
    jax.tree.map(lambda *a: np.testing.assert_allclose(a[0], sum(a[1:]), atol=1e-5), whole, *parts)
    z = unit(Z) if cosine else Z
    used = [k for k in range(5) if (ids == k).any()]
    assert len(used) > 1
    for k in used:
        mean = z[ids == k].mean(0)
        np.testing.assert_allclose(state.table[k], unit(mean) if cosine else mean, atol=1e-4)
    assert 1 <= float(perplexity(whole.number)) <= 5
    assert float(perplexity(jnp.ones(5))) == pytest.approx(5)
    far = ((Z[..., None, :] - state.table) ** 2).sum(-1).argmin(-1)
    if not cosine:
        np.testing.assert_array_equal(nearest(Z, state.table), far)


@pytest.mark.parametrize(
    "scalar",
    [
        Fsq((8, 5, 4)),
        pytest.param(Fsq((4, 2, 3), True), marks=pytest.mark.nightly),
        pytest.param(Fsq((4, 3), clamp=True), marks=pytest.mark.nightly),
        Lfq(4),
        pytest.param(Lfq(3, 2.0, True), marks=pytest.mark.nightly),
    ],
)
def test_every_id_has_one_code_and_a_code_its_id(scalar):
    ids = jnp.arange(scalar.size)
    codes = np.asarray(scalar.codes(ids))
    assert len(np.unique(codes.round(5), axis=0)) == scalar.size
    quantised, found = scalar.quantise(4 * Z.reshape(-1)[: 40 * codes.shape[1]].reshape(40, -1))
    np.testing.assert_allclose(scalar.codes(found), quantised, atol=1e-5)
    assert len(np.unique(found)) > 3


def test_entropies_are_small_for_sure_vectors_and_large_for_codes_in_use():
    bits = Lfq(3)
    sure = bits.entropies(bits.codes(jnp.arange(8)))
    assert float(sure.each) < 1e-3
    assert float(sure.mean) == pytest.approx(np.log(8), abs=1e-3)
    unsure = bits.entropies(jnp.zeros((8, 3)))
    assert float(unsure.each) == pytest.approx(np.log(8), abs=1e-4)
    with pytest.raises(ValueError, match=r"Fsq.levels must be 3 or more"):
        Fsq((2, 4))

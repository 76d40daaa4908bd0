"""Blocked Gibbs chains: a Gaussian pair whose chain is known, a model's conditionals in turn, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import keys_of
from tests.models.small import batch_of, joint
from unified_jax.errors import UserError
from unified_jax.models.gibbs import GibbsChain, blocked_gibbs
from unified_jax.samplers.choice import Euler
from unified_jax.samplers.gibbs import gibbs
from unified_jax.samplers.plan import SamplingPlan

RHO = 0.8


def half(name):
    """x | y ~ N(rho y, 1 - rho^2), and the same the other way."""

    def draw(others, keys):
        (other,) = others.values()
        return RHO * other + np.sqrt(1 - RHO**2) * jax.vmap(jax.random.normal)(keys)

    return name, draw


def test_chains_forget_their_start_as_powers_of_the_correlation_and_end_at_the_joint():
    start, keys = {"x": jnp.full(4000, 50.0), "y": jnp.full(4000, 9.0)}, keys_of(4000)
    end, every = jax.jit(lambda: gibbs(dict(map(half, "xy")), start, keys, 12))()
    for r in range(4):  # x_1 = rho y_0 + .., y_1 = rho x_1 + ..: the first block forgets its own start at once
        assert float(every["x"][r].mean()) == pytest.approx(9.0 * RHO ** (2 * r + 1), abs=0.08)
        assert float(every["y"][r].mean()) == pytest.approx(9.0 * RHO ** (2 * r + 2), abs=0.08)
    np.testing.assert_array_equal(every["x"][-1], end["x"])
    np.testing.assert_allclose(np.cov(end["x"], end["y"]), [[1, RHO], [RHO, 1]], atol=0.08)
    # Chains that return their input would have this covariance too if they started at the joint: they must move.
    assert abs(np.corrcoef(every["x"][-8], end["x"])[0, 1]) < 0.15


def test_a_chain_depends_on_its_own_key_alone():
    start, keys = {"x": jnp.zeros(3), "y": jnp.arange(3.0)}, keys_of(3)
    end, _ = gibbs(dict(map(half, "xy")), start, keys, 3)
    one, _ = gibbs(dict(map(half, "xy")), {n: v[1:2] for n, v in start.items()}, keys[1:2], 3)
    np.testing.assert_allclose(one["y"][0], end["y"][1], rtol=1e-6)


@pytest.mark.nightly
def test_a_models_fields_are_drawn_in_turn_each_given_the_newest_of_the_other():
    model, plan, keys = joint(), SamplingPlan(Euler(), 2), keys_of(2)
    params = jax.tree.map(lambda p: p + 0.05, model.init(jax.random.key(0)))
    audio = jnp.asarray(batch_of(model, 2)["audio"])
    end, every = blocked_gibbs(model, params, {"audio": audio}, ("image", "audio"), keys, plan, 2)
    fields = {m.name: m for m in model.modalities}
    state = {"audio": audio}
    for r in range(2):
        for j, (name, other) in enumerate((("image", "audio"), ("audio", "image"))):
            mine = jax.vmap(lambda k, r=r, j=j: jax.random.fold_in(jax.random.fold_in(k, r), j))(keys)
            made = model.generate(params, {other: state[other]}, (name,), mine, plan)[name]
            state[name] = fields[name].to_prepared(made)
            seen, wanted = (np.asarray(x, np.float64).ravel() for x in (every[name][r], state[name]))
            assert np.corrcoef(seen, wanted)[0, 1] > 0.999, (name, r)  # a sound's waveform magnifies roundings
    assert end["image"].dtype == jnp.uint8


@pytest.mark.parametrize(
    ("given", "fields", "rounds", "words"),
    [
        ((), ("image", "audio"), 1, "give audio"),
        (("audio",), ("image",), 1, "two fields or more"),
        (("audio",), ("image", "audio"), 0, "and a round"),
        (("audio",), ("image", "video"), 1, "found 'video'"),
    ],
)
def test_what_is_no_chain_is_a_sentence(given, fields, rounds, words):
    shown = {name: jnp.zeros(()) for name in given}
    with pytest.raises(UserError, match=words):
        blocked_gibbs(joint(), {}, shown, fields, keys_of(1), SamplingPlan(), rounds)


def test_a_chain_makes_its_own_fields_alone():
    model = joint()
    first, second, *_ = (one.name for one in model.modalities)
    chain = GibbsChain(model, (first, second))
    assert chain.request((second,), ()) == ((second,), (first, second))
    assert chain.wantable == (first, second)
    with pytest.raises(UserError, match=f"'smell' is no field of this chain, which draws {first}, {second}"):
        chain.request((second,), ("smell",))

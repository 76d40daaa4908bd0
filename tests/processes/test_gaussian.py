import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unified_jax.processes.bound import bound_term, discretized_log_likelihood, normal_kl, prior_term
from unified_jax.processes.gaussian import DiscreteGaussian
from unified_jax.processes.schedules import space_timesteps
from unified_jax.processes.targets import Prediction, diffuse


def test_the_index_before_the_first_is_the_data():
    alpha, sigma = DiscreteGaussian().alpha_sigma(jnp.asarray([-1, 0, 999]))
    assert float(alpha[0]) == 1.0
    assert float(sigma[0]) == 0.0
    np.testing.assert_allclose(alpha**2 + sigma**2, 1.0, rtol=1e-6)
    assert float(alpha[2]) < 0.01


def test_posterior_is_bayes_rule():
    """q(x_{t-1} | x_t, x0) by completing the square of q(x_t | x_{t-1}) q(x_{t-1} | x0), float64."""
    process = DiscreteGaussian(steps=50)
    t, x0, x_t = 20, 0.3, -0.7
    beta, before = process.betas[t], process.alphas_cumprod[t - 1]
    precision = (1 - beta) / beta + 1 / (1 - before)
    mean = (np.sqrt(1 - beta) * x_t / beta + np.sqrt(before) * x0 / (1 - before)) / precision
    got, log_variance = process.posterior(jnp.full((1, 1), x0), jnp.full((1, 1), x_t), jnp.asarray([t]))
    assert float(got[0, 0]) == pytest.approx(mean, rel=1e-5)
    assert float(jnp.exp(log_variance)[0, 0]) == pytest.approx(1 / precision, rel=1e-5)


def test_respacing_keeps_the_marginals():
    full = DiscreteGaussian("squared_cosine")
    kept = space_timesteps(1000, "40")
    short = full.respaced(kept)
    assert len(short) == 40
    np.testing.assert_allclose(short.alphas_cumprod, full.alphas_cumprod[list(kept)], rtol=1e-10)
    np.testing.assert_array_equal(short.network_time(jnp.arange(40)), np.asarray(kept, np.float32))


@pytest.mark.parametrize(("v", "table"), [(-1.0, "posterior_log_variance"), (1.0, "log_betas")])
def test_learned_range_ends(v, table):
    process = DiscreteGaussian(variance="learned_range")
    t = jnp.asarray([0, 500])
    x = jnp.ones((2, 2, 2, 3))
    out = jnp.concatenate([x, jnp.full_like(x, v)], axis=-1)
    found = process.predict(out, x, t).log_variance
    np.testing.assert_allclose(found[:, 0, 0, 0], getattr(process, table)[np.asarray(t)], rtol=1e-5)
    assert process.channels_per_output == 2


def test_the_hybrid_loss_trains_the_mean_by_mse_alone():
    process = DiscreteGaussian(steps=25, variance="learned_range")
    keys = jax.random.split(jax.random.key(1), 3)
    x0, eps = (jnp.clip(jax.random.normal(k, (4, 4, 4, 3)), -1, 1) for k in keys[:2])
    t = jnp.asarray([0, 3, 10, 19])
    x_t = diffuse(process, x0, eps, t)
    output = 0.3 * jax.random.normal(keys[2], (4, 4, 4, 6))
    grad = jax.grad(lambda out: process.losses(out, x0, eps, x_t, t)["vb"].sum())(output)
    np.testing.assert_array_equal(grad[..., :3], 0 * grad[..., :3])
    assert float(jnp.abs(grad[..., 3:]).max()) > 0


def test_the_bound_is_tight_for_the_true_posterior():
    process = DiscreteGaussian(steps=30, variance="fixed_small")
    x0 = jax.random.uniform(jax.random.key(2), (6, 3, 3, 1), minval=-1, maxval=1)
    eps = jax.random.normal(jax.random.key(3), x0.shape)
    t = jnp.asarray([1, 2, 5, 10, 20, 29])
    x_t = diffuse(process, x0, eps, t)
    np.testing.assert_allclose(bound_term(process, Prediction(x0, eps), x0, x_t, t), 0.0, atol=1e-5)
    assert float(prior_term(process, x0).max()) < 0.1


def test_discretised_decoder_sums_to_one():
    bins = jnp.arange(256) / 127.5 - 1
    for mean in (-1.2, 0.1, 0.98):
        log = discretized_log_likelihood(bins, jnp.full(256, mean), jnp.full(256, -2.0))
        assert float(jnp.exp(log).sum()) == pytest.approx(1.0, abs=1e-4)


def test_kl_closed_form():
    assert float(normal_kl(jnp.asarray(1.0), jnp.asarray(0.0), jnp.asarray(0.0), jnp.asarray(0.0))) == 0.5
    assert float(normal_kl(jnp.asarray(0.3), jnp.asarray(-1.0), jnp.asarray(0.3), jnp.asarray(-1.0))) == 0.0


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"steps": 0}, "at least 1"),
        ({"timesteps": (3, 2)}, "increase"),
        ({"timesteps": (0, 1000)}, "increase"),
    ],
)
def test_bad_processes_are_refused(kwargs, words):
    with pytest.raises(ValueError, match=words):
        DiscreteGaussian(**kwargs)


def test_a_chain_too_short_for_its_schedule_is_a_sentence():
    with pytest.raises(ValueError, match="leaves"):
        _ = DiscreteGaussian("linear", 5).betas


def test_betas_may_be_given_one_by_one():
    named = DiscreteGaussian(schedule="linear", steps=25)
    given = DiscreteGaussian(steps=25, table=tuple(named.betas.tolist()))
    np.testing.assert_array_equal(given.alphas_cumprod, named.alphas_cumprod)
    with pytest.raises(ValueError, match="expected 20, found 3"):
        DiscreteGaussian(steps=20, table=(0.1, 0.2, 0.3))

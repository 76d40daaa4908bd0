"""Modes of a model that denoises, by the closed-form denoiser of Gaussian data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import gaussian_denoiser, keys_of
from unified_jax.processes.edm import Edm
from unified_jax.processes.gaussian import DiscreteGaussian
from unified_jax.processes.interpolant import RectifiedFlow
from unified_jax.samplers.choice import Ddim, Ddpm, DpmSolver, Euler, Pndm
from unified_jax.samplers.ddim import ddim
from unified_jax.samplers.editing import back, image_to_image, inpaint, invert, last_steps, repaint
from unified_jax.samplers.loop import START, normal_like, slerp
from unified_jax.samplers.plan import SamplingPlan

MEAN, STD, N = 0.5, 0.7, 4000
KEYS = keys_of(N)
PROCESSES = {"flow": RectifiedFlow(), "chain": DiscreteGaussian("squared_cosine", 1000, target="v"), "edm": Edm()}


def setting(name, sampler, steps=20):
    process, grid = SamplingPlan(sampler, steps=steps).prepare(PROCESSES[name])
    return gaussian_denoiser(process, MEAN, STD), process, grid


@pytest.mark.parametrize("name", PROCESSES)
def test_strength_0_returns_the_image_and_1_is_plain_sampling(name):
    denoise, process, grid = setting(name, Ddim())
    x0 = jnp.full((N, 1), 9.0)  # far from the data: plain sampling must not know it
    assert jnp.array_equal(image_to_image(Ddim(), denoise, process, x0, grid, KEYS, 0.0), x0)
    start = process.start(normal_like(KEYS, START, x0), jnp.full(N, grid[0]))
    plain = Ddim()(denoise, process, start, grid, KEYS)
    assert jnp.array_equal(image_to_image(Ddim(), denoise, process, x0, grid, KEYS, 1.0), plain)


def test_between_a_deterministic_edit_is_the_affine_map_of_its_noised_image():
    """x_t = alpha x0 + sigma n goes to mean + std (x_t - alpha mean) / sqrt(alpha^2 std^2 + sigma^2)."""
    denoise, process, grid = setting("flow", Euler(), steps=400)
    x0 = jnp.linspace(-1, 2, N)[:, None]
    made = image_to_image(Euler(), denoise, process, x0, grid, KEYS, 0.6)
    x_t = 0.4 * x0 + 0.6 * normal_like(KEYS, START, x0)
    wanted = MEAN + STD * (x_t - 0.4 * MEAN) / np.hypot(0.4 * STD, 0.6)
    np.testing.assert_allclose(made, wanted, atol=0.01)


@pytest.mark.parametrize("strength", [-0.1, 1.1])
def test_a_strength_outside_is_refused(strength):
    with pytest.raises(ValueError, match="strength of an edit"):
        last_steps([1.0, 0.0], strength)


def joint(process, correlation):
    """The denoiser of two numbers with mean 0, variance 1 and this correlation."""
    cov = jnp.asarray([[1.0, correlation], [correlation, 1.0]])

    def denoise(x, t):
        from unified_jax.processes.targets import Prediction

        alpha, sigma = (v[:, None, None] for v in process.alpha_sigma(t))
        gain = alpha * cov @ jnp.linalg.inv(alpha**2 * cov + sigma**2 * jnp.eye(2))
        x0 = (gain @ x[..., None])[..., 0]
        alpha, sigma = alpha[..., 0], sigma[..., 0]
        return Prediction(x0, (x - alpha * x0) / jnp.where(sigma > 0, sigma, 1.0))

    return denoise


OTHERS = [pytest.param(one, marks=pytest.mark.nightly) for one in (Euler(), Pndm(), Ddpm())]


@pytest.mark.parametrize("sampler", [Ddim(), DpmSolver(), *OTHERS], ids=lambda s: type(s).__name__)
def test_the_known_part_stays_and_all_known_is_the_image(sampler):
    name = "chain" if sampler == Ddpm() else "flow"
    _, process, grid = setting(name, sampler, steps=10)
    denoise, keys = joint(process, 0.9), keys_of(64)
    x0 = jnp.stack([jnp.full(64, 1.5), jnp.full(64, -9.0)], axis=1)
    made = inpaint(sampler, denoise, process, x0, jnp.asarray([0.0, 1.0]), grid, keys)
    assert jnp.array_equal(made[:, 0], x0[:, 0])
    assert float(made[:, 1].mean()) > 0.3  # it follows the known one, and knows nothing of what was there
    assert jnp.array_equal(inpaint(sampler, denoise, process, x0, jnp.zeros(2), grid, keys), x0)


@pytest.mark.nightly
def test_repeats_bring_the_filled_part_to_its_conditional_distribution():
    """x_2 given x_1 = 1.5 is N(0.9 * 1.5, 1 - 0.81)."""
    _, process, grid = setting("flow", Ddim(), steps=40)
    denoise, x0 = joint(process, 0.9), jnp.full((N, 2), 1.5)
    found = {}
    for repeats in (1, 8):
        run = jax.jit(lambda r=repeats: inpaint(Ddim(), denoise, process, x0, jnp.asarray([0, 1]), grid, KEYS, 1.0, r))
        found[repeats] = float(run()[:, 1].mean())
    assert abs(found[8] - 1.35) < 0.06
    assert abs(found[8] - 1.35) < 0.5 * abs(found[1] - 1.35)  # replacement alone is only near


@pytest.mark.nightly
def test_repaint_keeps_the_distribution_of_gaussian_data():
    denoise, process, grid = setting("chain", Ddim(), steps=100)
    start = normal_like(KEYS, START, jnp.zeros((N, 1)))
    made = repaint(denoise, process, start, grid, KEYS, repeats=2)
    assert abs(float(made.mean()) - MEAN) < 0.05
    assert abs(float(made.std()) - STD) < 0.05


def test_a_step_back_has_the_marginal_of_its_time():
    process = RectifiedFlow()
    x_s = 0.8 * 2.0 + 0.2 * normal_like(KEYS, 0, jnp.zeros((N, 1)))
    x_t = back(process, x_s, jnp.asarray(0.2), jnp.asarray(0.5), normal_like(KEYS, 1, x_s))
    assert abs(float(x_t.mean()) - 1.0) < 0.03
    assert abs(float(x_t.std()) - 0.5) < 0.03


@pytest.mark.parametrize("name", PROCESSES)
def test_inversion_then_sampling_returns_the_image(name):
    denoise, process, grid = setting(name, Ddim(), steps=30)
    x0 = jnp.linspace(-1, 2, 9)[:, None]
    noise = invert(denoise, process, x0, grid, keys_of(9), iterations=12)
    again = ddim(denoise, process, noise, grid, keys_of(9))
    np.testing.assert_allclose(again, x0, atol=2e-3)
    once = invert(denoise, process, x0, grid, keys_of(9), iterations=2)
    assert np.abs(ddim(denoise, process, once, grid, keys_of(9)) - x0).max() < 0.2
    ends = ddim(denoise, process, slerp(noise[:1], noise[1:2], 1.0), grid, keys_of(1))
    np.testing.assert_allclose(ends, x0[1:2], atol=2e-3)

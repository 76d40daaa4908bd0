"""Samplers against closed forms: for Gaussian data the optimal denoiser and the ODE's solution are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import gaussian_denoiser, keys_of
from unified_jax.processes.gaussian import DiscreteGaussian
from unified_jax.processes.grids import discrete_grid, uniform_grid
from unified_jax.processes.interpolant import RectifiedFlow
from unified_jax.processes.schedules import space_timesteps
from unified_jax.processes.targets import Prediction, expand
from unified_jax.samplers.ddim import ddim
from unified_jax.samplers.ddpm import ddpm
from unified_jax.samplers.guidance import Guidance, classifier_free, clip_x0
from unified_jax.samplers.loop import START, normal_like
from unified_jax.samplers.ode import euler, heun

MEAN, STD = 0.5, 0.7
FLOW = RectifiedFlow()


@pytest.mark.parametrize(("sampler", "order"), [(euler, 0.9), (heun, 1.8), (ddim, 0.9)])
def test_order_of_convergence(sampler, order):
    x, keys = np.linspace(-2, 2, 9, dtype=np.float32)[:, None], keys_of(9)
    exact = MEAN + STD * x

    @jax.jit
    def error(grid):
        return jnp.abs(sampler(gaussian_denoiser(FLOW, MEAN, STD), FLOW, x, grid, keys) - exact).max()

    errors = [float(error(uniform_grid(steps))) for steps in (8, 16, 32)]
    assert np.log2(errors[0] / errors[1]) > order
    assert np.log2(errors[1] / errors[2]) > order


def sample_moments(sampler, process, grid, **options):
    """(mean, deviation) of 10,000 numbers: 1,000 samples of ten, whose noise costs less than that of single ones."""
    keys, blank = keys_of(1_000), jnp.zeros((1_000, 10))

    @jax.jit
    def draw():
        x = normal_like(keys, START, blank)
        return sampler(gaussian_denoiser(process, MEAN, STD), process, x, grid, keys, **options)

    found = np.asarray(draw())
    return float(found.mean()), float(found.std())


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_ancestral_sampling_gives_the_data_distribution(variance):
    process = DiscreteGaussian("squared_cosine", 300, variance=variance)
    mean, std = sample_moments(ddpm, process, discrete_grid(300))
    assert mean == pytest.approx(MEAN, abs=0.02)
    assert std == pytest.approx(STD, abs=0.02)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_gives_the_data_distribution_for_any_eta(eta):
    process = DiscreteGaussian("squared_cosine", 1000).respaced(space_timesteps(1000, "200"))
    mean, std = sample_moments(ddim, process, discrete_grid(200), eta=eta)
    assert mean == pytest.approx(MEAN, abs=0.02)
    assert std == pytest.approx(STD, abs=0.025)


def test_ddim_with_eta_one_is_ancestral_sampling():
    process = DiscreteGaussian(steps=50)
    x, keys, grid = np.ones((4, 3), np.float32), keys_of(4), discrete_grid(50)
    denoise = gaussian_denoiser(process, MEAN, STD)
    both = jax.jit(lambda x: (ddim(denoise, process, x, grid, keys, eta=1.0), ddpm(denoise, process, x, grid, keys)))
    np.testing.assert_allclose(*both(x), atol=2e-5)


def test_ddim_inversion_comes_back():
    process = DiscreteGaussian("squared_cosine", 1000)
    up = np.arange(-1, 999)
    x, keys = np.linspace(-1, 1, 5, dtype=np.float32)[:, None], keys_of(5)
    walk = jax.jit(lambda x, grid: ddim(gaussian_denoiser(process, MEAN, STD), process, x, grid, keys))
    back = walk(walk(x, up[1:]), up[1:][::-1])
    np.testing.assert_allclose(back, x, atol=5e-3)


def test_a_dict_of_modalities_is_sampled_like_each_alone():
    process = {"a": FLOW, "b": RectifiedFlow(target="v")}
    grid = {"a": uniform_grid(6), "b": uniform_grid(6, shift=3.0)}
    x, keys = {"a": np.ones((3, 2), np.float32), "b": -np.ones((3, 4, 1), np.float32)}, keys_of(3)

    def joint(x, t):
        return {name: gaussian_denoiser(process[name], MEAN, STD)(x[name], t[name]) for name in x}

    def alone(sampler, name):
        return sampler(gaussian_denoiser(process[name], MEAN, STD), process[name], x[name], grid[name], keys)

    for sampler in (euler, heun, ddim):
        ways = jax.jit(lambda s=sampler: (s(joint, process, x, grid, keys), {name: alone(s, name) for name in x}))
        both, apart = ways()
        for name in x:
            np.testing.assert_allclose(both[name], apart[name], atol=1e-6)


def test_noise_belongs_to_the_sample_and_the_modality():
    keys = keys_of(8)
    whole = normal_like(keys, 3, {"image": jnp.zeros((8, 2, 2)), "label": jnp.zeros((8, 5))})
    part = normal_like(keys[2:4], 3, {"image": jnp.zeros((2, 2, 2))})
    np.testing.assert_array_equal(whole["image"][2:4], part["image"])
    assert not np.array_equal(normal_like(keys, 4, jnp.zeros((8, 5))), normal_like(keys, 3, jnp.zeros((8, 5))))


def test_classifier_free_guidance():
    def denoiser(x0):
        return lambda x, t: Prediction(jnp.full_like(x, x0), jnp.full_like(x, -x0), jnp.full_like(x, x0))

    c, u = denoiser(2.0), denoiser(1.0)
    x, t = jnp.zeros((2, 3, 4)), jnp.zeros(2)
    assert classifier_free(c, u, FLOW, Guidance(1.0)) is c
    guided = classifier_free(c, u, FLOW, Guidance(3.0))(x, t + 0.5)
    np.testing.assert_array_equal(guided.x0, 4.0 + x)
    np.testing.assert_array_equal(guided.eps, -4.0 + x)
    np.testing.assert_array_equal(guided.log_variance, 2.0 + x)
    some = classifier_free(c, u, FLOW, Guidance(3.0, channels=3))(x, t + 0.5)
    np.testing.assert_array_equal(some.x0[..., 3], 2.0 + x[..., 3])


def test_clipping_keeps_x0_and_eps_consistent():
    process = DiscreteGaussian(steps=25)
    x, t = jnp.full((2, 3), 4.0), jnp.asarray([3, 15])
    prediction = clip_x0(gaussian_denoiser(process, MEAN, STD), process)(x, t)
    alpha, sigma = (expand(v, x) for v in process.alpha_sigma(t))
    assert float(jnp.abs(prediction.x0).max()) <= 1.0
    np.testing.assert_allclose(alpha * prediction.x0 + sigma * prediction.eps, x, rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [((0,), "at least one step"), ((4, 0.0), "shift"), ((4, 1.0, 0.2, 0.5), "decrease")],
)
def test_bad_grids_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        uniform_grid(*arguments)


def test_grids():
    np.testing.assert_allclose(uniform_grid(4), [1, 0.75, 0.5, 0.25, 0])
    shifted = uniform_grid(4, shift=3.0)
    assert shifted[2] == pytest.approx(0.75)
    assert discrete_grid(3).tolist() == [2, 1, 0, -1]

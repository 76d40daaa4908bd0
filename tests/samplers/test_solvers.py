"""The higher-order, adaptive and stochastic solvers against closed forms, each with its order.

For data N(MEAN, STD^2) the optimal denoiser is known and the ODE keeps the standardised coordinate
(x - alpha MEAN) / sqrt(alpha^2 STD^2 + sigma^2), so the exact end of every trajectory is known on every path.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import gaussian_denoiser, keys_of
from unified_jax.processes import grids
from unified_jax.processes.edm import Edm
from unified_jax.processes.gaussian import DiscreteGaussian
from unified_jax.processes.interpolant import Interpolant, RectifiedFlow
from unified_jax.processes.levels import NoiseLevels
from unified_jax.processes.paths import Gvp, Linear, Vp
from unified_jax.samplers.ddim import ddim
from unified_jax.samplers.dopri5 import dopri5, integrate
from unified_jax.samplers.dpm_fast import dpm_fast, orders_of
from unified_jax.samplers.dpm_solver import dpm_solver
from unified_jax.samplers.karras import Churn, karras
from unified_jax.samplers.likelihood import log_likelihood, rademacher
from unified_jax.samplers.loop import START, normal_like
from unified_jax.samplers.ode import heun
from unified_jax.samplers.sde import sde
from unified_jax.samplers.unipc import unipc

MEAN, STD = 0.5, 0.7
VP = Interpolant("eps", Vp())


def even_in_log_snr(process, steps, low=0.05, high=20.0):
    """A grid of times whose levels are even in their logarithm, from `high` to `low`."""
    return np.asarray(process.time_of_level(jnp.asarray(grids.exponential_levels(low, high, steps + 1))), np.float64)


def error(sampler, process, grid, **options):
    """Largest error of nine trajectories at the end of a grid, in units of the end's standard deviation."""
    u, keys = np.linspace(-2.0, 2.0, 9)[:, None], keys_of(9)

    def largest(grid):
        (a0, s0), (a1, s1) = (process.alpha_sigma(jnp.asarray(t)) for t in (grid[0], grid[-1]))
        x = a0 * MEAN + jnp.sqrt(a0**2 * STD**2 + s0**2) * u
        exact = a1 * MEAN + jnp.sqrt(a1**2 * STD**2 + s1**2) * u
        found = sampler(gaussian_denoiser(process, MEAN, STD), process, x, grid, keys, **options)
        return jnp.abs(found - exact).max()

    with jax.enable_x64(True):
        return float(jax.jit(largest)(grid) if options.pop("traced", 0) else jax.jit(lambda: largest(grid))())


@pytest.mark.parametrize(
    ("sampler", "options", "order"),
    [
        (dpm_solver, {"order": 1}, 0.9),
        (dpm_solver, {"order": 2}, 1.8),
        (dpm_solver, {"order": 2, "kind": "heun"}, 1.8),
        (dpm_solver, {"order": 3}, 2.7),
        (dpm_solver, {"order": 1, "of_eps": True}, 0.9),
        (dpm_solver, {"order": 2, "of_eps": True}, 1.8),
        (dpm_solver, {"order": 3, "of_eps": True}, 2.7),
        (unipc, {"order": 1}, 1.8),
        (unipc, {"order": 2}, 2.6),
        (unipc, {"order": 3}, 3.4),
        (unipc, {"order": 2, "kind": "bh1"}, 2.6),
        (unipc, {"order": 3, "of_eps": True}, 3.4),
        (dpm_fast, {}, 1.8),  # its last step is of first or second order
        (dpm_fast, {"of_eps": False}, 1.8),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),  # no address: processes agree on the names
)
@pytest.mark.parametrize("process", [Edm(sigma_data=STD), RectifiedFlow()], ids=["edm", "flow"])
def test_order_of_convergence(sampler, options, order, process):
    assert order_of(sampler, process, **options) > order


def order_of(sampler, process, **options):
    """Mean order over two doublings. The first steps, of low order, lie where the prediction hardly changes."""
    extra = {"lower_final": False} if sampler in (dpm_solver, unipc) else {}
    few, many = (
        error(sampler, process, even_in_log_snr(process, steps, high=1000.0), **options, **extra) for steps in (48, 192)
    )
    return 0.5 * np.log2(few / many)


def test_third_order_as_published_is_of_second_order():
    """Half of the second derivative is missing in the authors' code; the order says so."""
    published = order_of(dpm_solver, Edm(sigma_data=STD), order=3, as_published=True)
    assert 1.8 < published < 2.3
    assert order_of(dpm_solver, Edm(sigma_data=STD), order=3) > published + 0.5


@pytest.mark.parametrize("process", [Edm(sigma_data=STD), NoiseLevels(DiscreteGaussian())], ids=["edm", "chain"])
def test_karras_is_second_order_and_heun_over_levels(process):
    found = [error(karras, process, grids.karras_levels(0.02, 20.0, steps)) for steps in (21, 41)]
    assert np.log2(found[0] / found[1]) > 1.8
    grid = np.append(grids.karras_levels(0.02, 20.0, 8), 0.0)
    assert error(karras, process, grid) == pytest.approx(error(heun, process, grid), rel=1e-9)


def test_the_first_order_is_ddim_and_the_sde_its_noisy_form():
    grid = even_in_log_snr(VP, 12)
    x, keys, denoise = np.linspace(-2, 2, 9, dtype=np.float32)[:, None], keys_of(9), gaussian_denoiser(VP, MEAN, STD)

    @jax.jit
    def both(x):
        pairs = ((False, 0.0), (True, 1.0))
        return [
            (dpm_solver(denoise, VP, x, grid, keys, order=1, sde=sde_form), ddim(denoise, VP, x, grid, keys, eta))
            for sde_form, eta in pairs
        ]

    for first, second in both(x):
        np.testing.assert_allclose(first, second, rtol=2e-4, atol=2e-5)


def test_grids_may_touch_both_ends():
    for sampler in (dpm_solver, unipc):
        for order in (1, 2, 3):
            found = error(sampler, RectifiedFlow(), np.linspace(1.0, 0.0, 31), order=order)
            assert found < (0.1 if order == 1 and sampler is dpm_solver else 0.02)


def test_solvers_of_eps_refuse_the_ends():
    grid, x = np.linspace(1.0, 0.0, 5), jnp.zeros((2, 1))
    for sampler, options in ((dpm_solver, {"of_eps": True}), (unipc, {"of_eps": True}), (dpm_fast, {})):
        with pytest.raises(ValueError, match="alpha = 0"):
            sampler(gaussian_denoiser(VP, MEAN, STD), RectifiedFlow(), x, grid, keys_of(2), **options)
    with pytest.raises(ValueError, match="orders 1, 2 and 3"):
        dpm_solver(gaussian_denoiser(VP, MEAN, STD), VP, x, grid, keys_of(2), order=4)
    with pytest.raises(ValueError, match="orders 1, 2 and 3"):
        unipc(gaussian_denoiser(VP, MEAN, STD), VP, x, grid, keys_of(2), order=0)
    with pytest.raises(TypeError, match="as numbers"):
        jax.jit(lambda g: dpm_solver(gaussian_denoiser(VP, MEAN, STD), VP, x, g, keys_of(2)))(grid)


def test_fast_spends_exactly_its_evaluations():
    for n in range(1, 40):
        orders = orders_of(n)
        assert sum(orders) == n
        assert all(order == 3 for order in orders[:-2])


@pytest.mark.parametrize(("rtol", "bound"), [(1e-3, 2e-2), (1e-6, 2e-5)])
def test_dopri5_keeps_its_tolerance(rtol, bound):
    for process in (RectifiedFlow(), Interpolant(path=Gvp()), VP):
        assert error(dopri5, process, np.asarray([0.999, 0.05]), traced=1, rtol=rtol, atol=1e-9) < bound


def test_dopri5_steps_each_sample_by_itself():
    x = np.asarray([[0.1], [3.0], [-40.0]], np.float32)
    grid = np.asarray([1.0, 1e-3, 0.0])
    denoise, keys = gaussian_denoiser(VP, MEAN, STD), keys_of(3)
    draw = jax.jit(lambda x: dopri5(denoise, RectifiedFlow(), x, grid, keys[: len(x)], rtol=1e-5))
    whole = draw(x)
    for i in range(3):
        np.testing.assert_allclose(draw(x[i : i + 1])[0], whole[i], rtol=1e-6)


def test_integrate_against_an_exponential_and_in_between():
    with jax.enable_x64(True):
        y, times = {"a": np.ones((2, 3)), "b": np.full((2,), 2.0)}, np.linspace(2.0, 0.0, 7)
        field = lambda v, t: jax.tree.map(lambda u: 1.5 * u, v)  # noqa: E731
        found = jax.device_get(jax.jit(lambda y, times: integrate(field, y, times, 1e-8, 1e-10))(y, times))
        np.testing.assert_allclose(found["a"][:, 0, 0], np.exp(1.5 * (times[1:] - 2.0)), rtol=1e-6)
        np.testing.assert_allclose(found["b"][:, 1], 2 * np.exp(1.5 * (times[1:] - 2.0)), rtol=1e-6)


def moments(sampler, process, grid, **options):
    """(mean, deviation) of 10,000 numbers: 1,000 samples of ten, whose noise costs less than that of single ones."""
    keys, blank = keys_of(1_000), jnp.zeros((1_000, 10))

    @jax.jit
    def draw():
        alpha, sigma = process.alpha_sigma(jnp.asarray(grid[0]))
        x = alpha * MEAN + jnp.sqrt(alpha**2 * STD**2 + sigma**2) * normal_like(keys, START, blank)
        return sampler(gaussian_denoiser(process, MEAN, STD), process, x, grid, keys, **options)

    found = np.asarray(draw())
    return float(found.mean()), float(found.std())


@pytest.mark.parametrize("method", ["euler", "heun"])
@pytest.mark.parametrize("form", ["sigma", "linear", "sbdm", "decreasing", "increasing_decreasing", "constant"])
def test_every_diffusion_keeps_the_marginals(method, form):
    process = Interpolant(path=Gvp() if form == "linear" else Linear())
    grid = np.append(np.linspace(0.98, 0.02, 120), 0.0)
    mean, std = moments(sde, process, grid, method=method, form=form, last="tweedie")
    assert mean == pytest.approx(MEAN, abs=0.03)
    assert std == pytest.approx(STD, abs=0.04)


@pytest.mark.parametrize("last", ["mean", "euler", "tweedie", "none"])
def test_last_steps(last):
    grid = np.append(np.linspace(1.0, 0.02, 100), 0.0)
    mean, std = moments(sde, RectifiedFlow(), grid, last=last)
    assert (mean, std) == pytest.approx((MEAN, STD), abs=0.03)


@pytest.mark.parametrize(
    ("sampler", "options"),
    [
        (dpm_solver, {"sde": True, "order": 2}),
        (dpm_solver, {"sde": True, "order": 3}),
        (karras, {"churn": Churn(30.0)}),
    ],
    ids=["sde2", "sde3", "churn"],
)
def test_noise_keeps_the_marginals(sampler, options):
    process = Edm(sigma_data=STD, sigma_max=20.0)
    grid = np.append(grids.karras_levels(0.01, 20.0, 100), 0.0)
    mean, std = moments(sampler, process, grid, **options)
    assert (mean, std) == pytest.approx((MEAN, STD), abs=0.03)


def test_inversion_and_back():
    grid, keys = np.linspace(0.999, 0.001, 400), keys_of(9)
    x0 = np.float32(MEAN + STD * np.linspace(-2, 2, 9)[:, None])
    walk = jax.jit(lambda x, grid: ddim(gaussian_denoiser(VP, MEAN, STD), VP, x, grid, keys))
    np.testing.assert_allclose(walk(walk(x0, grid[::-1]), grid), x0, atol=0.02)


@pytest.mark.parametrize("method", ["heun", "dopri5"])
@pytest.mark.parametrize("estimate", ["exact", "hutchinson"])
def test_likelihood_of_a_gaussian(method, estimate):
    """bits/dim of Gaussian data is its entropy, and a point's log-density the closed form."""
    process, grid, keys = Interpolant(path=Gvp()), np.linspace(0.0, 1.0 - 1e-3, 200), keys_of(256)
    x = np.random.default_rng(3).normal(MEAN, STD, (256, 2, 3)).astype(np.float32)

    @jax.jit
    def score(x):
        probe = rademacher(keys, x) if estimate == "hutchinson" else None
        return log_likelihood(gaussian_denoiser(process, MEAN, STD), process, x, grid, probe, method)

    found = score(x)
    exact = np.sum(-0.5 * ((x - MEAN) / STD) ** 2 - np.log(STD) - 0.5 * np.log(2 * np.pi), axis=(1, 2))
    np.testing.assert_allclose(found.log_density, exact, atol=0.05)
    entropy = (np.log(STD) + 0.5 * np.log(2 * np.pi * np.e)) / np.log(2)
    bits = np.asarray(found.bits_per_dim())
    assert abs(bits.mean() - entropy) < 4 * bits.std() / np.sqrt(256) + 0.01
    np.testing.assert_allclose(found.bits_per_dim(127.5) - bits, np.log2(127.5), rtol=1e-5)


def test_grids_of_levels_and_steps():
    levels = grids.karras_levels(0.002, 80.0, 18)
    assert (levels[0], levels[-1]) == pytest.approx((80.0, 0.002))
    assert grids.exponential_levels(0.1, 10.0, 3).tolist() == pytest.approx([10.0, 1.0, 0.1])
    assert grids.beta_levels(0.1, 10.0, 5)[[0, -1]].tolist() == pytest.approx([10.0, 0.1])
    assert grids.spaced_steps(1000, 4, "leading", 1).tolist() == [751, 501, 251, 1]
    assert grids.spaced_steps(1000, 4, "trailing").tolist() == [999, 749, 499, 249]
    assert grids.spaced_steps(1000, 1, "trailing").tolist() == [999]
    assert grids.spaced_steps(11, 3, "linspace").tolist() == [10, 5, 0]
    with pytest.raises(ValueError, match="choose 1 to 10"):
        grids.spaced_steps(10, 11, "leading")

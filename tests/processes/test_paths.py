"""Paths, interpolants, EDM and noise levels: limits, inverses, identities between weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unified_jax.processes.edm import Edm
from unified_jax.processes.gaussian import DiscreteGaussian
from unified_jax.processes.interpolant import Interpolant, RectifiedFlow, direction_loss
from unified_jax.processes.levels import NoiseLevels
from unified_jax.processes.paths import Gvp, InterpolatedVp, Linear, Path, Vp
from unified_jax.processes.targets import Prediction, Process, diffuse, expand, rates, velocity
from unified_jax.processes.weights import loss_weight

PATHS = [Linear(), Gvp(), Vp(), InterpolatedVp(), InterpolatedVp("scaled_linear", 100, 0.001, 0.3)]
T = jnp.linspace(0.05, 0.95, 19)


def draw(shape=(19, 4, 3), seed=0):
    return tuple(jax.random.normal(k, shape) for k in jax.random.split(jax.random.key(seed), 2))


@pytest.mark.parametrize("path", PATHS, ids=lambda p: f"{type(p).__name__}-{getattr(p, 'steps', '')}")
def test_levels_invert_the_path(path):
    assert isinstance(path, Path)
    alpha, sigma = path.alpha_sigma(T)
    np.testing.assert_allclose(path.time_of_level(sigma / alpha), T, atol=2e-4)
    if not isinstance(path, Linear):
        np.testing.assert_allclose(alpha**2 + sigma**2, 1.0, rtol=1e-5)
    ends = path.alpha_sigma(jnp.asarray([0.0, 1.0]))
    assert float(ends[1][0]) < 0.02
    assert (float(ends[0][1]) == 0.0) == path.reaches_noise


def test_the_vp_path_solves_its_sde():
    """d log alpha / d t = -beta(t) / 2, Song et al. 2021."""
    d_alpha, _ = rates(Interpolant("eps", Vp()), T)
    alpha, _ = Vp().alpha_sigma(T)
    np.testing.assert_allclose(d_alpha / alpha, -0.5 * (0.1 + T * 19.9), rtol=1e-5)


def test_the_interpolated_chain_agrees_with_the_chain_at_its_steps():
    chain = DiscreteGaussian(rescale_betas=False)
    alpha, sigma = InterpolatedVp().alpha_sigma(jnp.asarray([1, 400, 1000]) / 1000)
    want = chain.alpha_sigma(jnp.asarray([0, 399, 999]))
    np.testing.assert_allclose(alpha, want[0], rtol=1e-4)
    np.testing.assert_allclose(sigma, want[1], rtol=1e-4)


@pytest.mark.parametrize("path", [Linear(), Gvp(), Vp()], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("target", ["velocity", "x0", "v", "eps", "score"])
def test_round_trips(path, target):
    process = Interpolant(target, path, data_end=0.01, noise_end=0.99)
    assert isinstance(process, Process)
    x0, eps = draw()
    x_t = diffuse(process, x0, eps, T)
    p, q = (expand(v, x0) for v in process.target_coefficients(T))
    output = p * x0 + q * eps
    if target == "score":
        output = -eps / expand(process.alpha_sigma(T)[1], eps)
    said = process.predict(output, x_t, T)
    # Float32 rounding grows by 1 / alpha in x0 and by 1 / sigma in eps.
    alpha, sigma = (np.asarray(v) for v in process.alpha_sigma(T))
    assert (np.abs(said.x0 - x0).max((1, 2)) < 4e-6 / alpha).all()
    assert (np.abs(said.eps - eps).max((1, 2)) < 4e-6 / sigma).all()
    assert float(process.losses(output, x0, eps, x_t, T)["mse"].max()) < 1e-10


def test_a_network_whose_time_is_reversed():
    """Shown 1 - t and asked for the velocity towards the data, it is the same model."""
    plain, turned = RectifiedFlow(time_scale=1.0), RectifiedFlow(time_scale=1.0, reversed_time=True)
    x0, eps = draw()
    x_t = diffuse(plain, x0, eps, T)
    np.testing.assert_allclose(turned.network_time(T), 1 - plain.network_time(T))
    np.testing.assert_allclose(turned.predict(x0 - eps, x_t, T).x0, plain.predict(eps - x0, x_t, T).x0, atol=1e-6)
    assert float(turned.losses(x0 - eps, x0, eps, x_t, T)["mse"].max()) < 1e-10


@pytest.mark.parametrize("kind", ["eps", "velocity", "min_snr", "max_snr"])
def test_a_weight_means_the_same_for_every_target(kind):
    """Weighted losses of the same wrong guess agree over targets (but for the weights that name a target's own
    scale)."""
    x0, eps = draw()
    found = []
    for target in ("x0", "eps", "v"):
        process = Interpolant(target, Vp(), loss=kind, data_end=0.01)
        x_t = diffuse(process, x0, eps, T)
        alpha, sigma = (expand(v, x0) for v in process.alpha_sigma(T))
        guess = x0 + 0.1 * jnp.sin(eps)
        implied = (x_t - alpha * guess) / sigma
        p, q = (expand(v, x0) for v in process.target_coefficients(T))
        found.append(np.asarray(process.losses(p * guess + q * implied, x0, eps, x_t, T)["mse"]))
    keep = np.asarray(Vp().alpha_sigma(T)[1]) > 0.06  # |D| of x0 is bounded below there
    np.testing.assert_allclose(found[0][keep], found[2][keep], rtol=2e-3)
    keep &= np.asarray(Vp().alpha_sigma(T)[0]) > 0.06
    np.testing.assert_allclose(found[0][keep], found[1][keep], rtol=2e-3)


def test_min_snr_as_published():
    """min(SNR, g) / SNR for eps, min(SNR, g) for x0, min(SNR, g) / (SNR + 1) for v; 1 where SNR is 0."""
    alpha = jnp.asarray([0.99, 0.8, 0.3, 0.0])
    sigma = jnp.sqrt(1 - alpha**2)
    snr, unit = (alpha / sigma) ** 2, (alpha, sigma)
    least = jnp.minimum(snr, 5.0)
    zero, one = jnp.zeros(4), jnp.ones(4)
    for pair, want in (((zero, one), least / snr), ((one, zero), least), ((-sigma, alpha), least / (snr + 1))):
        want = jnp.where(snr == 0, 1.0, want)
        np.testing.assert_allclose(loss_weight("min_snr", alpha, sigma, *pair, unit, 5.0), want, rtol=1e-4)


def test_zero_terminal_snr_trains_and_samples_its_last_step():
    process = DiscreteGaussian(zero_snr=True, target="v", weighting="min_snr")
    x0, eps = draw((4, 3))
    t = jnp.full(4, 999)
    x_t = diffuse(process, x0, eps, t)
    np.testing.assert_allclose(x_t, eps, atol=1e-6)
    said = process.predict(-x0, x_t, t)  # v = -x0 at alpha = 0
    np.testing.assert_allclose(said.x0, x0, atol=1e-5)
    np.testing.assert_allclose(said.eps, eps, atol=1e-5)
    assert float(process.losses(jnp.zeros_like(x0), x0, eps, x_t, t)["mse"].min()) > 0
    mean, _ = process.reverse(said, x_t, t)
    assert bool(jnp.isfinite(mean).all())


def test_edm_targets_have_unit_variance_and_its_limits():
    """Var F = 1 at every level for data of standard deviation sigma_data (Karras et al. 2022, appendix B.6)."""
    process = Edm(sigma_data=0.7)
    levels = jnp.asarray([0.0, 0.002, 0.5, 3.0, 80.0])
    p, q = process.target_coefficients(levels)
    np.testing.assert_allclose(0.7**2 * p**2 + q**2, 1.0, rtol=1e-5)
    x0, eps = 0.7 * draw((5, 6))[0], draw((5, 6))[1]
    x_t = diffuse(process, x0, eps, levels)
    output = expand(p, x0) * x0 + expand(q, x0) * eps
    said = process.predict(output, x_t, levels)
    np.testing.assert_allclose(said.x0, x0, rtol=1e-4, atol=1e-4)
    skip, out, scale = process.preconditioning(levels)
    # D(x) = c_skip x + c_out F(c_in x), written out.
    np.testing.assert_allclose(said.x0, expand(skip, x0) * x_t + expand(out, x0) * output, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(process.network_input(x_t, levels), expand(scale, x0) * x_t)


def test_edm_of_unit_data_is_v_prediction():
    """With sigma_data = 1 the target of F is -v of the variance-preserving path."""
    levels = jnp.asarray([0.1, 1.0, 10.0])
    p, q = Edm(sigma_data=1.0).target_coefficients(levels)
    alpha = 1 / jnp.sqrt(1 + levels**2)
    np.testing.assert_allclose(p, levels * alpha, rtol=1e-6)
    np.testing.assert_allclose(q, -alpha, rtol=1e-6)


@pytest.mark.parametrize("target", ["eps", "x0", "v"])
def test_noise_levels_read_a_chain(target):
    chain = DiscreteGaussian(target=target)
    levels = NoiseLevels(chain)
    x0, eps = draw((3, 4))
    t = jnp.asarray([10, 500, 900])
    s = jnp.asarray(levels.table[np.asarray(t)], jnp.float32)
    np.testing.assert_allclose(levels.network_time(s), t, atol=2e-2)
    x_t = diffuse(levels, x0, eps, s)
    np.testing.assert_allclose(levels.network_input(x_t, s), diffuse(chain, x0, eps, t), rtol=1e-4, atol=1e-4)
    p, q = (expand(v, x0) for v in chain.target_coefficients(t))
    said = levels.predict(p * x0 + q * eps, x_t, s)
    np.testing.assert_allclose(said.eps, eps, atol=2e-3)
    np.testing.assert_allclose(said.x0, x0, atol=0.2 if target == "eps" else 2e-3)
    with pytest.raises(TypeError, match="sampling"):
        levels.losses(x0, x0, eps, x_t, s)


def test_the_direction_loss():
    x0, eps = draw((3, 4, 4, 3))
    process = RectifiedFlow(direction_weight=0.5)
    t = jnp.asarray([0.2, 0.5, 0.8])
    x_t = diffuse(process, x0, eps, t)
    true = velocity(process, Prediction(x0, eps), t)
    assert float(process.losses(true, x0, eps, x_t, t)["direction"].max()) < 1e-4
    np.testing.assert_allclose(process.losses(-true, x0, eps, x_t, t)["direction"], 1.0, atol=1e-4)
    assert float(direction_loss(true, 3 * true).max()) < 1e-6


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Interpolant("score"), "'score' says nothing about x0"),
        (lambda: Interpolant("eps", InterpolatedVp(), direction_weight=1.0, noise_end=0.999), "direction term"),
        (lambda: Interpolant("eps", Gvp()), "noise_end"),
        (lambda: Interpolant("velocity", Vp()), "data_end"),
        (lambda: Interpolant(data_end=0.5, noise_end=0.2), "data_end < noise_end"),
        (lambda: Vp(0.0, 1.0), "beta_min"),
        (lambda: Edm(sigma_data=0.0), "sigma_data"),
        (lambda: DiscreteGaussian(snr_gamma=0.0), "snr_gamma"),
    ],
)
def test_bad_processes_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()

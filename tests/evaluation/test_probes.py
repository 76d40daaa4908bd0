"""Probes against what is known without them: a quadratic's gradients, the best denoiser, sums of attention maps."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image as Pillow

from tests.helpers import EXPERIMENT, experiment
from unified_jax.cli import probe
from unified_jax.cli.entry import run_command
from unified_jax.data.world import World
from unified_jax.data.world.finite import finite_images, posterior_mean
from unified_jax.evaluation.probes.attention import map_grid, query_maps, trace_attention
from unified_jax.evaluation.probes.floor import loss_over_time
from unified_jax.evaluation.probes.noise_scale import measure_noise_scale, noise_scales
from unified_jax.models.diffusion import Diffusion
from unified_jax.processes.targets import expand
from unified_jax.runs.adapters import write_run


def quadratic(params, aux, batch, key):
    """0.5 |w - x|^2, in two terms: the gradient of a row is w - x, so |G|^2 = |w - mu|^2 and tr(S) = d sigma^2."""
    square = 0.5 * jnp.sum(jnp.square(params["w"] - batch["x"]), axis=1)
    ones = jnp.ones(len(square))
    return {"a": (square, ones), "b": (3.0 * square, ones)}, aux, {}


def test_the_noise_scale_of_a_quadratic():
    d, sigma, rng = 64, 2.0, np.random.default_rng(0)
    mu = rng.normal(size=d).astype(np.float32)
    batches = [{"x": (mu + sigma * rng.normal(size=(64, d))).astype(np.float32)} for _ in range(40)]
    params = {"w": jnp.asarray(mu + 1.0)}
    found = measure_noise_scale(quadratic, ("a", "b"), {"b": 0.5}, params, batches, jax.random.key(0), 8)
    assert found["a"].signal == pytest.approx(d, rel=0.05)
    assert found["a"].noise == pytest.approx(d * sigma**2, rel=0.05)
    assert found["a"].scale == pytest.approx(sigma**2, rel=0.08)
    assert found["b"].signal == pytest.approx(1.5**2 * d, rel=0.05)
    assert found["loss"].scale == pytest.approx(sigma**2, rel=0.08)
    with pytest.raises(ValueError, match="two sizes"):
        noise_scales(("a",), [], 8, 8)


class Oracle(Diffusion):
    """Answers with the target that the Bayes-optimal denoiser implies."""

    def apply(self, params, process, x_t, t, conditions, capture=()):
        alpha, sigma = process.alpha_sigma(t)
        x0 = posterior_mean(x_t, alpha, sigma, params["scenes"])
        eps = (x_t - expand(alpha, x0) * x0) / expand(sigma, x0)
        p, q = (expand(v, x0) for v in process.target_coefficients(t))
        return p * x0 + q * eps, {}


@pytest.mark.slow
def test_the_best_denoiser_reaches_the_floor_and_no_other_does():
    model = EXPERIMENT.model
    best = Oracle(**{f.name: getattr(model, f.name) for f in dataclasses.fields(model)})
    scenes = jnp.asarray(finite_images(16, "train"))
    times = [0.2, 0.5, 0.8]
    for one in loss_over_time(best, {"scenes": scenes}, times, jax.random.key(0), 512):
        assert abs(one.loss - one.floor) < 4 * np.hypot(one.loss_error, one.floor_error) + 1e-6
    for one in loss_over_time(model, jax.jit(model.init)(jax.random.key(1)), times, jax.random.key(0), 512):
        assert one.loss > one.floor + 4 * one.loss_error


def test_attention_is_captured_step_by_step():
    model, plan = EXPERIMENT.model, EXPERIMENT.preview.plan
    params = jax.jit(model.init)(jax.random.key(0))
    trace = trace_attention(model, params, {"shape": jnp.asarray([2])}, plan, jax.random.key(1))
    assert trace.weights.shape == (2, 2, 4, 4, 4)
    np.testing.assert_allclose(trace.weights.sum(-1), 1.0, rtol=1e-5)
    assert trace.t == [1.0, 0.5]
    assert map_grid(trace.weights[0]).size[0] > 4 * 72
    looks = query_maps(trace.weights[0], (2, 2), (1, 0))
    np.testing.assert_array_equal(looks.reshape(2, 4, 4), trace.weights[0][:, :, 2])
    with pytest.raises(ValueError, match="2 x 2 patches"):
        query_maps(trace.weights[0], (2, 2), (2, 0))


@pytest.mark.slow
@pytest.mark.usefixtures("one_device")
def test_the_commands_write_pictures(tmp_path, capsys):
    """All three on a run at its start; and what they refuse."""
    finite, run = experiment(data=World(resolution=16, max_objects=1, jitter=False)), tmp_path / "run"
    write_run(run, finite, jax.jit(finite.model.init)(jax.random.key(0)), {})
    here = ["--run", str(run)]
    assert (
        run_command(probe.main, ["attention", *here, "--steps", "3", "--given.shape", "star", "--query", "0", "1"]) == 0
    )
    with Pillow.open(run / "probes" / "attention_from_0_1.gif") as film:
        assert film.n_frames == 3
    assert run_command(probe.main, ["loss", *here, "--times", "3", "--samples", "128"]) == 0
    assert len(json.loads((run / "probes" / "loss_over_time.json").read_text())["rows"]) == 3
    assert (run / "probes" / "loss_over_time.png").exists()
    assert run_command(probe.main, ["noise", *here, "--batches", "2", "--parts", "4"]) == 0
    terms = json.loads((run / "probes" / "noise_scale.json").read_text())["terms"]
    assert set(terms) == {"loss", "mse"}
    capsys.readouterr()
    for arguments, words in (
        (["noise", *here, "--parts", "3"], "--parts must be at least 2 and divide the 8 rows"),
        (["attention", *here, "--query", "5", "0"], "--query: The image has 2 x 2 patches"),
        (["spectra", *here], "Usage: unified-jax probe KIND"),
        (["noise", *here, "--given.shape", "star"], "--given belongs to the probe of attention"),
    ):
        assert run_command(probe.main, arguments) == 2
        assert words in capsys.readouterr().err

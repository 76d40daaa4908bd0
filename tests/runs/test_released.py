"""Published models of latents with a published autoencoder draw what their own programs draw, after every step."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import unified_jax as uj
from unified_jax.cli import convert
from unified_jax.cli.entry import run_command
from unified_jax.runs.opened import open_run
from unified_jax.samplers.choice import Ddpm, Dopri5, Euler, Sde
from unified_jax.samplers.ddpm import ddpm
from unified_jax.samplers.guidance import Guidance
from unified_jax.samplers.ode import euler
from unified_jax.samplers.plan import SamplingPlan
from unified_jax.samplers.sde import sde

STEPS = 10


def ends(*arguments):
    return run_command(convert.main, [str(a) for a in arguments])


def last(x):
    """[..., c, h, w] as [..., h, w, c]."""
    return np.moveaxis(x, -3, -1)


@pytest.fixture(scope="module")
def stored(request, tmp_path_factory):
    """(arrays, the folder with model.safetensors and the folder vae of diffusers)."""
    path = request.config.rootpath / "tests/goldens/arrays/latents_small.safetensors"
    folder, tensors = tmp_path_factory.mktemp("released"), load_file(path)
    (folder / "vae").mkdir()
    with safe_open(path, "np") as opened:
        (folder / "vae/config.json").write_text(opened.metadata()["vae"])
    for part, file in (("model/", "model.safetensors"), ("vae/", "vae/diffusion_pytorch_model.safetensors")):
        save_file({name.removeprefix(part): v for name, v in tensors.items() if name.startswith(part)}, folder / file)
    return tensors, folder


OPENED = {}


def opened(stored, layout):
    """(the experiment, its parameters) of the run that the command makes."""
    if layout not in OPENED:
        weights = ("--from", stored[1] / "model.safetensors", "--layout", layout, "--heads", 2)
        assert ends(*weights, "--autoencoder", stored[1] / "vae", "--to", stored[1] / layout) == 0
        OPENED[layout] = open_run(stored[1] / layout)[:2]
    return OPENED[layout]


def as_flow(stored):
    """SiT with the weights of `opened(stored, "dit")`: what its own layout gives (nightly), without its conversion."""
    experiment, params = opened(stored, "dit")
    final = jax.tree.map(lambda leaf: leaf.reshape(*leaf.shape[:-1], 4, 2, 4)[..., 0, :], params["final"])
    final = jax.tree.map(lambda leaf: leaf.reshape(*leaf.shape[:-2], 16), final)
    model = dataclasses.replace(experiment.model, process=convert.SIT)
    preview = dataclasses.replace(experiment.preview, plan=SamplingPlan(Euler(), STEPS, Guidance(4.0, channels=3)))
    return dataclasses.replace(experiment, model=model, preview=preview), params | {"final": final}


def walked(stored, experiment, params, plan):
    """The latents after every step of a plan, from the stored start, labels and noise."""
    tensors = stored[0]
    noise, given = last(tensors["in/noise"]), {"label": jnp.asarray(tensors["in/y"], jnp.int32)}
    keys = jax.random.split(jax.random.key(0), noise.shape[1])
    denoise, process, grid, _ = experiment.model.sampling(params, given, ("image",), keys, plan)
    assert len(grid) == STEPS + 1
    match plan.sampler:
        case Ddpm():
            step = lambda x, pair, w: ddpm(denoise, process, x, pair, keys, lambda *_: w)  # noqa: E731
        case Euler():
            step = lambda x, pair, w: euler(denoise, process, x, pair, keys)  # noqa: E731
        case _:  # the step to the mean, and the others, which it follows with length 0
            inner = jax.jit(
                lambda x, pair, w: sde(denoise, process, x, pair[jnp.asarray([0, 1, 1])], keys, draw=lambda *_: w)
            )
            final = jax.jit(
                lambda x, pair, w: sde(denoise, process, x, pair[jnp.asarray([0, 0, 1])], keys, draw=lambda *_: 0 * w)
            )
            step = lambda x, pair, w: (inner if pair[1] > 0 else final)(x, pair, w)  # noqa: E731
    call = step if isinstance(plan.sampler, Sde) else jax.jit(step)
    x, found = last(tensors["in/start"]), []
    for i in range(STEPS):
        x = call(x, jnp.asarray(grid[i : i + 2]), noise[min(i, len(noise) - 1)])
        found.append(x)
    return np.stack(found)


def error(found, want):
    """The largest difference over the largest value."""
    return float(np.abs(found - want).max() / np.abs(want).max())


def errors(stored, name, found):
    return [error(a, b) for a, b in zip(found, last(stored[0][f"{name}/latents"]), strict=True)]


def compared(stored, experiment, params, plan, name):
    """Asserts that the latents after every step are the stored ones, and the picture of the last."""
    found = walked(stored, experiment, params, plan)
    assert max(errors(stored, name, found)) < 1e-4
    (stream,) = experiment.model.streams
    picture = jax.jit(stream.from_space)(params, found[-1])
    assert error(picture, last(stored[0][f"{name}/picture"])) < 1e-3


def test_dit_and_its_autoencoder_draw_what_the_published_programs_drew(stored):
    experiment, params = opened(stored, "dit")
    plan = experiment.preview.plan
    assert (plan.sampler, plan.steps, plan.guidance) == (Ddpm(), 250, Guidance(4.0, channels=3))
    assert (experiment.model.process.variance, experiment.model.process.schedule) == ("learned_range", "linear")
    (stream,) = experiment.model.streams
    assert (stream.modality.shape, stream.shape, stream.cut) == ((24, 24, 3), (6, 6, 4), (2, 2))
    assert experiment.model.stages[0].model.scale == (0.18215,)
    compared(stored, experiment, params, dataclasses.replace(plan, steps=STEPS), "dit")


def test_sit_draws_it_too_and_with_guidance_on_all_channels_something_else(stored):
    experiment, params = as_flow(stored)
    plan = experiment.preview.plan
    compared(stored, experiment, params, plan, "ode")
    every = dataclasses.replace(plan, guidance=Guidance(4.0))
    assert min(errors(stored, "ode", walked(stored, experiment, params, every))) > 1e-3


@pytest.mark.nightly
def test_sit_is_drawn_by_its_sde_from_its_own_layout(stored):
    experiment, params = opened(stored, "sit")
    plan = experiment.preview.plan
    assert (plan.sampler, plan.guidance) == (Dopri5(), Guidance(4.0, channels=3))
    compared(stored, experiment, params, dataclasses.replace(plan, sampler=Sde(), steps=STEPS), "sde")
    left, right = (jax.tree.leaves(uj.models.stages.own(p)) for p in (params, as_flow(stored)[1]))
    assert all(np.array_equal(a, b) for a, b in zip(left, right, strict=True))


@pytest.mark.nightly
def test_the_run_goes_back_to_its_layout(stored):
    opened(stored, "dit")
    back = stored[1] / "back.safetensors"
    assert ends("--from", stored[1] / "dit", "--layout", "dit", "--to", back) == 0
    theirs = load_file(back)
    assert all(v.tobytes() == stored[0][f"model/{n}"].tobytes() for n, v in theirs.items() if n != "pos_embed")


def test_an_autoencoder_of_other_latents_is_refused(stored, capsys):
    config = json.loads((stored[1] / "vae/config.json").read_text())
    other = stored[1] / "other"
    other.mkdir()
    (other / "config.json").write_text(json.dumps(config | {"latent_channels": 3}))
    weights = ("--from", stored[1] / "model.safetensors", "--layout", "dit", "--heads", 2, "--to", stored[1] / "x")
    save_file(load_file(stored[1] / "vae/diffusion_pytorch_model.safetensors"), other / "model.safetensors")
    assert ends(*weights, "--autoencoder", other) == 2
    assert "error" in capsys.readouterr().err
    opened(stored, "dit")
    assert ends("--from", stored[1] / "dit", "--to", stored[1] / "y.safetensors", "--autoencoder", other) == 2
    assert "--autoencoder has no meaning" in capsys.readouterr().err


@pytest.mark.nightly
def test_lightningdit_becomes_a_run_and_goes_back_bitwise(request, tmp_path):
    theirs = load_file(request.config.rootpath / "tests/goldens/lightningdit_mixed.safetensors")
    weights = {name[6:]: value for name, value in theirs.items() if name.startswith("param/")}
    save_file(weights, tmp_path / "lightning.safetensors")
    flags = ("--from", tmp_path / "lightning.safetensors", "--layout", "lightningdit", "--to", tmp_path / "run")
    assert ends(*flags) == 0
    experiment, params = open_run(tmp_path / "run")[:2]
    plan = experiment.preview.plan
    times = 1.0 - plan.prepare(experiment.model.process)[1]
    wanted = np.linspace(0.0, 1.0, 250)
    np.testing.assert_allclose(times, 0.3 * wanted / (1.0 - 0.7 * wanted), atol=1e-6)
    y, t = jnp.asarray(theirs["in/y"], jnp.int32), 1.0 - jnp.asarray(theirs["in/t"])
    given = experiment.model.conditions_of(params, {"label": y}, len(y))
    x = jnp.asarray(last(theirs["in/x"]))
    out = experiment.model.apply(params, experiment.model.process, x, t, given)[0]
    assert error(out, last(theirs["out/y"])) < 1e-5
    assert ends("--from", tmp_path / "run", "--layout", "lightningdit", "--to", tmp_path / "back.safetensors") == 0
    back = load_file(tmp_path / "back.safetensors")
    assert set(back) == set(weights)
    computed = ("pos_embed", "feat_rope.freqs_cos", "feat_rope.freqs_sin")
    assert all(value.tobytes() == weights[name].tobytes() for name, value in back.items() if name not in computed)
    assert ends("--from", tmp_path / "back.safetensors", "--layout", "lightningdit", "--to", tmp_path / "again") == 0
    assert open_run(tmp_path / "again")[0].model == experiment.model
    assert ends("--from", tmp_path / "run", "--layout", "sit", "--to", tmp_path / "no.safetensors") == 2

"""Exports: the other side's code computes the same function, or the run is refused with every reason."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unified_jax.cli import convert
from unified_jax.cli.entry import run_command
from unified_jax.errors import UserError
from unified_jax.interop import diffusers_dit, files
from unified_jax.interop.names import flatten
from unified_jax.modalities.image import Image
from unified_jax.modalities.label import Label
from unified_jax.models.diffusion import Diffusion
from unified_jax.networks.dit import DiT
from unified_jax.processes.edm import Edm
from unified_jax.processes.gaussian import DiscreteGaussian
from unified_jax.processes.interpolant import Interpolant
from unified_jax.processes.paths import Gvp, InterpolatedVp, Vp
from unified_jax.runs.exports import export_run, sizes_of
from unified_jax.runs.opened import open_run

pytestmark = pytest.mark.usefixtures("one_device")
CHAIN = DiscreteGaussian(variance="learned_range")
FLOW = Interpolant(time_scale=1.0, reversed_time=True)
MODEL = Diffusion(
    network=DiT(depth=2, width=16, heads=4, frequency_shift=1.0),
    process=CHAIN,
    modality=Image(8, 8, 4, 2),
    conditions=(Label("label", 999),),  # 1,000 rows: the table alone would be taken to have no null row
)


def changed(**fields):
    """MODEL with fields of its network, or its own, replaced."""
    own = {name: value for name, value in fields.items() if hasattr(MODEL, name)}
    network = {name: value for name, value in fields.items() if name not in own}
    return dataclasses.replace(MODEL, **({"network": MODEL.network.clone(**network)} | own))


def at(shift, **fields):
    return changed(frequency_shift=shift, **fields)


def made(folder, model, layout):
    """A run of this model with random weights, none of them zero as at the start."""
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32), shapes)
    experiment = convert.experiment_of(sizes_of(model, layout), model.process, 999)
    convert.write_run(folder / "run", dataclasses.replace(experiment, model=model), params, {})
    return folder / "run", params


@pytest.mark.parametrize(
    ("layout", "model", "words"),
    [
        ("diffusers_dit", at(0.0), "frequency_shift 1, found 0"),
        ("diffusers_dit", at(0.5), "frequency_shift 1, found 0.5"),
        ("dit", at(1.0), "it has no frequency_shift, found 1"),
        ("dit", at(0.0, qk_norm=True), "adaln_zero without qk_norm"),
        ("dit", at(0.0, conditioning="adaln"), "adaln_zero without qk_norm"),
        ("dit", at(0.0, conditions=()), "it has one label, found 0"),
        ("dit", at(0.0, modality=Image(8, 4, 4, 2)), "its images are square, found 8 x 4"),
        ("dit", at(0.0, modality=Image(9, 9, 4, 2)), "whole patches, found side 9 in patches of 2"),
        ("dit", at(0.0, process=Edm()), "discrete Gaussian chain with target eps or x0"),
        ("dit", at(0.0, process=DiscreteGaussian(target="v")), "discrete Gaussian chain with target eps or x0"),
        ("dit", at(0.0, process=DiscreteGaussian(schedule="sigmoid")), "linear or squared_cosine"),
        ("dit", at(0.0, process=DiscreteGaussian(zero_snr=True, target="x0")), "linear or squared_cosine"),
        ("dit", at(0.0, process=DiscreteGaussian(steps=2, table=(0.1, 0.9))), "linear or squared_cosine"),
        ("dit", at(0.0, process=DiscreteGaussian(beta_end=0.01)), "from 1e-4 to 0.02"),
        ("dit", at(0.0, process=DiscreteGaussian(steps=500, rescale_betas=False)), "from 1e-4 to 0.02"),
        ("dit", at(0.0, process=DiscreteGaussian(steps=9, rescale_betas=False)), "from 1e-4 to 0.02"),
        ("dit", at(0.0, process=DiscreteGaussian(timesteps=(0, 10))), "its chain is whole"),
        ("sit", at(1.0, process=FLOW), "it has no frequency_shift, found 1"),
        ("sit", at(0.0, process=Interpolant(time_scale=1.0)), "sees time from noise (0) to data (1)"),
        ("sit", at(0.0, process=Interpolant(reversed_time=True)), "sees time from noise (0) to data (1)"),
        ("sit", at(0.0, process=dataclasses.replace(FLOW, target="x0")), "velocity, eps or score, found x0"),
        (
            "sit",
            at(0.0, process=dataclasses.replace(FLOW, path=Vp(0.2), data_end=0.1)),
            "its path is Linear, Gvp or Vp",
        ),
        ("sit", at(0.0, process=dataclasses.replace(FLOW, path=InterpolatedVp(), data_end=0.1)), "its path is Linear"),
    ],
)
def test_what_the_other_code_computes_otherwise_is_refused(layout, model, words):
    with pytest.raises(UserError) as caught:
        sizes_of(model, layout)
    assert words in str(caught.value)
    assert str(caught.value).startswith(f"This run cannot be written as {layout}: ")


@pytest.mark.parametrize(
    ("layout", "shift", "process", "name", "said"),
    [
        ("dit", 0.0, DiscreteGaussian("squared_cosine", 200, target="x0"), "diffusion", {
            "noise_schedule": "squaredcos_cap_v2", "diffusion_steps": 200, "predict_xstart": True, "sigma_small": True,
            "learn_sigma": False, "timestep_respacing": "",
        }),
        ("diffusers_dit", 1.0, DiscreteGaussian(steps=500, variance="learned_range"), "scheduler", {
            "num_train_timesteps": 500, "beta_schedule": "linear", "beta_start": 2e-4, "beta_end": 0.04,
            "prediction_type": "epsilon", "variance_type": "learned_range", "clip_sample": False,
        }),
        ("sit", 0.0, dataclasses.replace(FLOW, path=Gvp(), target="score", noise_end=0.99), "transport", {
            "path_type": "GVP", "prediction": "score",
        }),
    ],
)  # fmt: skip
def test_an_exported_file_is_read_as_the_model_that_it_was(tmp_path, layout, shift, process, name, said):
    """Heads, size, classes, process and frequency shift come from what the file says, though its arrays do not."""
    model = at(shift, process=process)
    run, params = made(tmp_path, model, layout)
    path = tmp_path / "x.safetensors"
    words = export_run(run, path, layout, "0", trust=False)
    assert f"({layout}) in" in words
    assert json.loads(files.read_metadata(path)[name]) == said
    command = convert.ConvertCommand(source=str(path), to="", layout=layout)
    experiment, again, _ = convert.read_weights(path, command)
    for field in ("network", "process", "modality", "conditions"):
        assert getattr(experiment.model, field) == getattr(model, field)
    assert all(np.array_equal(flatten(again)[n], value) for n, value in flatten(params).items())
    process = json.loads(files.read_metadata(path)["process"]) | {"reversed_time": False, "target": "v"}
    metadata = files.read_metadata(path) | {"process": json.dumps(process)}
    files.write(tmp_path / "lie.safetensors", files.read(path), metadata)
    with pytest.raises(UserError):
        convert.read_weights(tmp_path / "lie.safetensors", command)


def test_diffusers_computes_what_our_export_computes(tmp_path):
    """One forward pass of its own class, built and loaded from the file alone, over all times and the null label."""
    torch = pytest.importorskip("torch", reason="not verified: torch is not installed")
    diffusers = pytest.importorskip("diffusers", reason="not verified: diffusers is not installed")
    run, params = made(tmp_path, MODEL, "diffusers_dit")
    path = tmp_path / "x.safetensors"
    assert run_command(convert.main, [str(run), str(path), "--layout", "diffusers_dit"]) == 0
    theirs = diffusers.DiTTransformer2DModel(**files.described(path)["config"]).eval()
    theirs.load_state_dict({name: torch.from_numpy(value) for name, value in files.read(path).items()})
    x = np.random.default_rng(1).normal(size=(6, 8, 8, 4)).astype(np.float32)
    t, y = np.asarray([0, 1, 37, 500, 998, 999]), np.asarray([0, 1, 500, 998, 999, 999])
    with torch.no_grad():
        chw = torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
        want = theirs(chw, torch.from_numpy(t), torch.from_numpy(y)).sample.numpy().transpose(0, 2, 3, 1)
    scheduler = diffusers.DDPMScheduler(**json.loads(files.read_metadata(path)["scheduler"]))
    np.testing.assert_allclose(scheduler.alphas_cumprod.numpy(), CHAIN.alphas_cumprod, rtol=1e-4)
    scale = np.abs(want).max()

    def error(model):
        ours = jax.jit(model.apply, static_argnums=1)(params, model.process, x, jnp.asarray(t), jnp.asarray(y)[:, None])
        return float(np.abs(np.asarray(ours) - want).max() / scale)

    assert error(MODEL) < 1e-4  # float32 at angles of a thousand
    assert error(at(0.0)) > 1e-2  # what a refused export would have meant: the comparison sees it


def test_a_folder_of_diffusers_is_read_as_its_config_says(tmp_path, capsys):
    """Half precision in two parts, under a prefix, with the config of its class beside."""
    run, params = made(tmp_path, MODEL, "diffusers_dit")
    export_run(run, tmp_path / "x.safetensors", "diffusers_dit", "0", trust=False)
    theirs = {f"module.{name}": value for name, value in files.read(tmp_path / "x.safetensors").items()}
    folder, names = tmp_path / "theirs", sorted(theirs)
    folder.mkdir()
    from safetensors.numpy import save_file

    for i, part in enumerate((names[::2], names[1::2]), 1):
        save_file({n: theirs[n].astype(np.float16) for n in part}, folder / f"d-0000{i}-of-00002.safetensors")
    config = files.described(tmp_path / "x.safetensors")["config"]
    (folder / "config.json").write_text(json.dumps(config | {"_class_name": "DiTTransformer2DModel"}))
    arguments = ["--from", str(folder), "--layout", "diffusers_dit", "--to"]
    assert run_command(convert.main, [*arguments, str(tmp_path / "again")]) == 0
    experiment, found, _ = open_run(tmp_path / "again")
    assert (experiment.model.network, experiment.model.modality) == (MODEL.network, MODEL.modality)
    assert experiment.model.conditions[0].classes == 999
    for name, value in flatten(params).items():
        np.testing.assert_array_equal(flatten(found)[name], value.astype(np.float16).astype(np.float32))
    (folder / "config.json").write_text(json.dumps(config | {"activation_fn": "gelu"}))
    assert run_command(convert.main, [*arguments, str(tmp_path / "no")]) == 2
    assert "has a model with activation_fn='gelu'" in capsys.readouterr().err
    assert diffusers_dit.check({"activation_fn": "gelu-approximate"}) == ()
    assert diffusers_dit.check({"norm_eps": 1e-5}) == ("its config says norm_eps 1e-05, here it is the trained 1e-6",)

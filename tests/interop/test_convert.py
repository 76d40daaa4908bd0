"""The command: converted models compute and sample what the published code did, and mistakes are one sentence."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.helpers import experiment as small_experiment
from unified_jax.cli import convert, sample
from unified_jax.cli.entry import run_command
from unified_jax.interop import diffusers_dit, dit, files
from unified_jax.interop.names import flatten
from unified_jax.layers.form import NoisyInput
from unified_jax.processes.targets import velocity
from unified_jax.runs.opened import open_run
from unified_jax.samplers.choice import Ddpm, Euler
from unified_jax.samplers.ddim import ddim
from unified_jax.samplers.ddpm import ddpm
from unified_jax.samplers.guidance import Guidance, classifier_free
from unified_jax.samplers.plan import SamplingPlan


def ends(*arguments):
    return run_command(convert.main, [str(a) for a in arguments])


def weights_file(golden, path):
    """The weights of a golden as a file of their own; returns the golden's arrays."""
    tensors = load_file(golden)
    save_file({n[6:]: v for n, v in tensors.items() if n.startswith("param/")}, path)
    return tensors


def last(x):
    """[..., c, h, w] as [..., h, w, c]."""
    return jnp.moveaxis(jnp.asarray(x), -3, -1)


def convert_to(folder, layout, *rest):
    run = folder / layout
    assert ends("--from", folder / "theirs.safetensors", "--layout", layout, "--to", run, *rest) == 0
    return run


@pytest.fixture(scope="module")
def drawn(request, tmp_path_factory):
    """(folder with theirs.safetensors, the arrays of interop_small)."""
    root = request.config.rootpath
    folder = tmp_path_factory.mktemp("drawn")
    return folder, weights_file(root / "tests/goldens/interop_small.safetensors", folder / "theirs.safetensors")


@pytest.fixture(scope="module")
def as_dit(drawn):
    """The run of those weights as DiT."""
    return convert_to(drawn[0], "dit", "--heads", 2)


class Case:
    """A converted run with the golden's start, noise and labels."""

    def __init__(self, run, tensors, sampler, steps=10):
        experiment, self.params, _ = open_run(run)
        self.model, self.tensors = experiment.model, tensors
        self.process, self.grid = SamplingPlan(sampler, steps=steps).prepare(self.model.process)
        self.x, self.noise = last(tensors["in/x"]), last(tensors["in/noise"])
        self.keys = jax.random.split(jax.random.key(0), len(self.x))
        self.given = {"label": jnp.asarray(tensors["in/y"], jnp.int32)}

    def denoiser(self, **given):
        conditions = self.model.conditions_of({}, given, len(self.x))
        return self.model.denoiser(self.params, self.process, conditions)

    def draw(self, keys, step, x):
        return self.noise[step]

    def error(self, name, found):
        """Largest difference over the largest value."""
        want = last(self.tensors[f"sample/{name}"])
        return float(jnp.abs(found - want).max() / jnp.abs(want).max())


def test_dit_samples_what_the_published_code_drew(drawn, as_dit):
    case = Case(as_dit, drawn[1], Ddpm())
    assert case.process.timesteps == (0, 111, 222, 333, 444, 555, 666, 777, 888, 999)
    plain, null = case.denoiser(**case.given), case.denoiser()
    guided = classifier_free(plain, null, case.process, Guidance(2.0, channels=3))
    for name, denoise in (("dit.ddpm", plain), ("dit.ddpm.cfg", guided)):
        assert case.error(name, ddpm(denoise, case.process, case.x, case.grid, case.keys, case.draw)) < 1e-5
    assert case.error("dit.ddim", ddim(plain, case.process, case.x, case.grid, case.keys)) < 1e-5


def test_sit_samples_what_the_published_code_drew(drawn):
    """Time runs the other way there: the same ten Euler steps from the same noise."""
    case = Case(convert_to(drawn[0], "sit", "--heads", 2), drawn[1], Euler())
    found = Euler()(case.denoiser(**case.given), case.process, case.x, case.grid, case.keys)
    assert case.error("sit.euler", found) < 1e-5


def test_diffusers_samples_what_its_code_drew(drawn, as_dit, capsys):
    """Its class computes 10000^(-i / 127) where DiT was trained with 128: both are there, as it is read."""
    folder, tensors = drawn
    theirs = diffusers_dit.write(*dit.read(files.read(folder / "theirs.safetensors"), 2))
    files.write(folder / "d.safetensors", theirs, {})
    flags = ("--from", folder / "d.safetensors", "--layout", "diffusers_dit", "--heads", 2, "--size", 4)
    for name, more in (("diffusers", ()), ("diffusers.published", ("--published-time",))):
        run = folder / name
        assert ends(*flags, *more, "--to", run) == 0
        case = Case(run, tensors, Ddpm())
        found = ddim(case.denoiser(**case.given), case.process, case.x, case.grid, case.keys)
        assert case.error(name, found) < 1e-5
    # What was read as diffusers computes it cannot be said in DiT's own layout, which has no such constant.
    assert ends("--from", folder / "diffusers", "--layout", "dit", "--to", folder / "no.safetensors") == 2
    assert "it has no frequency_shift, found 1" in capsys.readouterr().err
    # Nor the other way round: diffusers would compute another function.
    assert ends("--from", as_dit, "--layout", "diffusers_dit", "--to", folder / "no.safetensors") == 2
    assert "10000^(-i / 127), which is frequency_shift 1, found 0" in capsys.readouterr().err


def forward_error(golden, folder, layout, *flags):
    """Largest difference of one forward pass over its largest value."""
    tensors = weights_file(golden, folder / "theirs.safetensors")
    experiment, params, _ = open_run(convert_to(folder, layout, *flags))
    model, x, want = experiment.model, last(tensors["in/x"]), last(tensors["out/y"])
    t = jnp.asarray(tensors["in/t"], jnp.float32)
    conditions = model.conditions_of({}, {"label": tensors["in/y"]}, len(x))
    if layout == "sit":
        output, _ = jax.jit(model.apply, static_argnums=1)(params, model.process, x, 1.0 - t, conditions)
        inner = (t > 0) & (t < 1)
        prediction = model.process.predict(output, x, 1.0 - t)
        ours = velocity(model.process, prediction, 1.0 - t)
        np.testing.assert_allclose(ours[inner], -want[inner], atol=1e-4)
    else:
        noisy = NoisyInput(model.streams[0].form, x, t)
        output = jax.jit(model.network.apply)({"params": params}, (noisy,), conditions)[0]["image"]
    return float(jnp.abs(output - want).max() / jnp.abs(want).max())


def test_forward_of_the_small_golden(root, tmp_path):
    assert forward_error(root / "tests/goldens/dit_small.safetensors", tmp_path, "dit", "--heads", 2) < 1e-5


@pytest.mark.parametrize(
    ("name", "layout", "flags"),
    [
        ("dit_s2_learnsigma", "dit", ("--heads", 4)),
        ("dit_p4_nosigma_nodrop", "dit", ("--heads", 6, "--classes", 7)),
        ("sit_s2", "sit", ("--heads", 4)),
    ],
)
def test_forward_of_the_shared_goldens(shared_goldens, tmp_path, name, layout, flags):
    assert forward_error(shared_goldens / f"{name}.safetensors", tmp_path, layout, *flags) < 1e-5


def test_out_again_to_the_bit_in_every_layout(drawn, as_dit, tmp_path):
    theirs = load_file(drawn[0] / "theirs.safetensors")
    flat, back = tmp_path / "flat.safetensors", tmp_path / "back.safetensors"
    assert ends("--from", as_dit, "--to", flat) == 0
    found = files.read(flat)
    assert found["blocks/attention/qkv_kernel"].shape == (2, 16, 2, 3, 8)
    assert ends("--from", flat, "--to", tmp_path / "run") == 0
    assert open_run(tmp_path / "run")[0] == open_run(as_dit)[0]
    assert ends("--from", tmp_path / "run", "--layout", "dit", "--ema", "none", "--to", back) == 0
    written = load_file(back)
    assert set(written) == set(theirs)
    assert all(written[name].tobytes() == value.tobytes() for name, value in theirs.items())
    config = json.loads(files.read_metadata(back)["config"])
    assert config == {
        "input_size": 4, "patch_size": 2, "in_channels": 4, "hidden_size": 16, "depth": 2, "num_heads": 2,
        "mlp_ratio": 4.0, "class_dropout_prob": 0.1, "num_classes": 5, "learn_sigma": True,
    }  # fmt: skip


def test_a_converted_run_is_sampled_from_its_directory_alone(as_dit, tmp_path, capsys):
    flags = ["--run", as_dit, "--count", 8, "--steps", 2, "--given.label", "1,4", "--out", tmp_path, "--formats", "npz"]
    assert run_command(sample.main, [str(f) for f in flags]) == 0
    assert "8 samples" in capsys.readouterr().out
    with np.load(tmp_path / "samples.npz") as archive:
        assert archive["image"].shape == (8, 4, 4, 4)
    note = json.loads((as_dit / "conversion.json").read_text())
    assert (note["source"], note["layout"]) == ("theirs.safetensors", "dit")
    assert {"commit", "config_hash", "device", "versions"} <= set(note)


def test_a_table_without_a_null_row_gets_one_and_no_guidance(drawn, tmp_path):
    run = tmp_path / "run"
    flags = ("--layout", "dit", "--heads", 2, "--classes", 6)
    assert ends("--from", drawn[0] / "theirs.safetensors", *flags, "--to", run) == 0
    experiment, params, _ = open_run(run)
    assert experiment.model.conditions[0].classes == 6
    assert experiment.preview.plan.guidance.scale == 1
    assert not np.asarray(params["label_0"]["table"])[6].any()


def test_runs_of_other_models(tmp_path, capsys):
    """Any run is written in our layout; one that a layout has no words for is refused with all reasons."""
    experiment = small_experiment()
    params = jax.tree.map(np.asarray, jax.jit(experiment.model.init)(jax.random.key(0)))
    convert.write_run(tmp_path / "run", experiment, params, {})
    assert ends("--from", tmp_path / "run", "--ema", "1", "--to", tmp_path / "flat.safetensors") == 0
    assert ends("--from", tmp_path / "flat.safetensors", "--to", tmp_path / "again") == 0
    again, same, _ = open_run(tmp_path / "again")
    assert again == experiment
    for name, value in flatten(params).items():
        np.testing.assert_array_equal(flatten(same)[name], value)
    capsys.readouterr()
    for layout, words in (
        ("dit", "it has one label, found 2; it is a discrete Gaussian chain with target eps or x0"),
        ("sit", "its network sees time from noise (0) to data (1)"),
    ):
        assert ends("--from", tmp_path / "again", "--layout", layout, "--to", tmp_path / "y.safetensors") == 2
        assert words in capsys.readouterr().err


def test_mistakes_are_one_sentence(drawn, as_dit, tmp_path, capsys):
    theirs = drawn[0] / "theirs.safetensors"
    (tmp_path / "bad.safetensors").write_bytes(b"nonsense")
    out = tmp_path / "out"
    lie = {"class": "os.path.join"}
    save_file({"a": np.zeros(1, np.float32)}, tmp_path / "lie.safetensors", {"experiment": json.dumps(lie)})
    flat = tmp_path / "flat.safetensors"
    assert ends("--from", as_dit, "--to", flat) == 0
    short = load_file(flat)
    del short["final/bias"]
    save_file(short, tmp_path / "short.safetensors", files.read_metadata(flat))
    nan = load_file(theirs)
    nan["blocks.1.mlp.fc1.bias"][3] = np.nan
    save_file(nan, tmp_path / "nan.safetensors")
    capsys.readouterr()
    for arguments, words in (
        (("--from", tmp_path / "no.safetensors", "--to", out), "does not exist"),
        (("--from", tmp_path / "bad.safetensors", "--layout", "dit", "--to", out), "cannot be read"),
        (("--from", theirs, "--to", out), "carries no configuration, so it is not in our layout"),
        (("--from", theirs, "--layout", "dit", "--to", out), "give it with --heads"),
        (("--from", theirs, "--layout", "diffusers_dit", "--to", out), "unmapped: blocks.0.adaLN_modulation.1.bias"),
        (("--from", theirs, "--layout", "dit", "--heads", 2, "--ema", 1, "--to", out), "expected 0 or none"),
        (("--from", theirs, "--layout", "dit", "--heads", 2, "--to", as_dit), "exists already"),
        (("--from", as_dit, "--layout", "dit", "--to", out), "exported to a file that ends in .safetensors"),
        (("--from", as_dit, "--layout", "sit", "--to", tmp_path / "y.safetensors"), "cannot be written as sit"),
        (("--from", as_dit, "--ema", 3, "--to", tmp_path / "y.safetensors"), "this run keeps 1 EMA"),
        (("--from", tmp_path, "--to", tmp_path / "y.safetensors"), "is no run directory"),
        (("--from", tmp_path / "lie.safetensors", "--to", out), "is not of this package"),
        (("--from", tmp_path / "short.safetensors", "--to", out), "missing: final/bias."),
        (("--from", tmp_path / "nan.safetensors", "--layout", "dit", "--heads", 2, "--to", out), "are not finite"),
        (("--from", as_dit, "--heads", 2, "--to", tmp_path / "y.safetensors"), "--heads has no meaning where"),
        (("--from", theirs, "--layout", "dit", "--size", 4, "--to", out), "--size has no meaning where the layout dit"),
    ):
        assert ends(*arguments) == 2, arguments
        err = capsys.readouterr().err
        assert words in err
        assert err.count("\n") == 1
    assert not out.exists()

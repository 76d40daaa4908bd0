"""`import unified_jax as uj`: names on first use, a run as arrays, the same samples as the command's."""

import dataclasses
import itertools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import unified_jax as uj
from tests.helpers import EXPERIMENT, gaussian_denoiser
from unified_jax.cli import main, sample as command
from unified_jax.cli.entry import run_command
from unified_jax.models import sampling

SMALL = dataclasses.replace(
    EXPERIMENT, steps=2, validation=uj.Validation(), preview=dataclasses.replace(EXPERIMENT.preview, every=0)
)


@pytest.fixture(scope="module")
def run(tmp_path_factory, one_device):
    return uj.train(SMALL, tmp_path_factory.mktemp("run"), quiet=True)


def test_importing_takes_no_time_and_every_name_is_there():
    code = (
        "import sys, time; before = time.process_time(); import unified_jax as uj;"
        "seconds = time.process_time() - before;"
        "assert 'jax' not in sys.modules and 'load' in dir(uj); print(seconds)"
    )
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert float(said) < 0.5
    for name in dir(uj):
        assert getattr(uj, name) is not None, name
    with pytest.raises(AttributeError, match="no_such_name"):
        uj.no_such_name  # noqa: B018


def test_words_numbers_lists_and_arrays_mean_the_same(run):
    words = run.sample({"shape": "star", "colour": ["red", "blue"]}, count=4, seed=3)
    shapes, colours = (m.names for m in run.model.conditions)
    ids = {"shape": shapes.index("star"), "colour": np.asarray([colours.index("red"), colours.index("blue")])}
    numbers = run.sample(ids, count=4, seed=3, batch=1)
    assert set(words) == {"image"}
    assert words["image"].shape == (4, 16, 16, 3)
    assert words["image"].dtype == np.uint8
    assert np.abs(words["image"].astype(int) - numbers["image"]).max() <= 1  # batches of other sizes
    assert words.given["colour"].tolist() == [*ids["colour"], *ids["colour"]]
    caption = run.sample({"caption": "a red star"}, seed=3)
    np.testing.assert_array_equal(caption["image"], run.sample({"shape": "star", "colour": "red"}, seed=3)["image"])
    assert words._repr_png_().startswith(b"\x89PNG")


def test_it_draws_what_the_command_draws(run, tmp_path):
    flags = ["--run", str(run.folder), "--given.shape", "star,ring", "--count", "3", "--seed", "5", "--steps", "3"]
    assert run_command(command.main, [*flags, "--formats", "npz", "--out", str(tmp_path / "out")]) == 0
    drawn = np.load(tmp_path / "out" / "samples.npz")
    ours = run.sample({"shape": ["star", "ring"]}, count=3, seed=5, plan=run.plan(steps=3))
    np.testing.assert_array_equal(ours["image"], drawn["image"])
    np.testing.assert_array_equal(ours.given["shape"], drawn["given/shape"])


@pytest.mark.parametrize(
    ("given", "options", "words"),
    [
        ({"shape": "stra"}, {}, "shape 'stra': expected 0 .. 5 or one of"),
        ({"shape": 99}, {}, r"shape \(int\): expected an integer in 0 .. 5, found 99"),
        ({"shape": []}, {}, "shape: no value is given"),
        ({"shap": "star"}, {}, "conditioned on shape, colour; did you mean shape"),
        ({}, {"count": 0}, "count and batch must be at least 1"),
        ({}, {"generate": ("video",)}, "generate 'video' is unknown. This model generates image"),
    ],
)
def test_what_is_wrong_is_refused_as_on_the_command_line(run, given, options, words):
    with pytest.raises(uj.UserError, match=words):
        run.sample(given, **options)


def test_a_sampler_of_ones_own_runs_on_the_runs_denoiser(run):
    """Euler's rule, written here, gives the run's samples: same noise, grid and guidance."""
    plan = run.plan(uj.Euler(), steps=4, guidance=2.0)
    denoise, _, grid, x = run.sampling({"shape": "star"}, count=2, seed=1, plan=plan)

    @jax.jit
    def step(x, t, s):
        found = denoise(x, jnp.full(len(x), t))
        return x + (s - t) * (found.eps - found.x0)  # a rectified flow's velocity

    for t, s in itertools.pairwise(grid):
        x = step(x, t, s)
    ours = run.model.modality.from_model(np.asarray(x))
    assert np.abs(ours.astype(int) - run.sample({"shape": "star"}, count=2, seed=1, plan=plan)["image"]).max() <= 1
    found = run.denoiser({"shape": "star"}, count=2, plan=plan)(x, jnp.full(2, 0.5))
    assert found.x0.shape == (2, 16, 16, 3)


def test_the_loss_of_a_batch_is_the_models(run):
    batch = run.batch(0)
    found = run.loss(batch, seed=1)
    assert found["loss"] == pytest.approx(found["mse"])
    ours = run.encode({"image": batch["image"], "shape": batch["shape"], "colour": batch["colour"]})
    for name in ("image", "shape", "colour"):
        np.testing.assert_array_equal(ours[name], batch[name])
    assert run.loss(ours | {"slot": batch["slot"]}, seed=1) == found
    assert run.loss(ours | {"image": 255 - batch["image"], "slot": batch["slot"]}, seed=1) != found
    with pytest.raises(uj.UserError, match="lacks colour"):
        run.loss({name: ours[name] for name in ("image", "shape")})
    with pytest.raises(uj.UserError, match="'imag' is no field of this model; did you mean image"):
        run.encode({"imag": batch["image"]})


def test_samplers_run_on_any_denoiser():
    process = uj.RectifiedFlow()
    plan = uj.SamplingPlan(uj.DpmSolver(order=3), steps=20)
    process, grid = plan.prepare(process)
    x = jax.random.normal(jax.random.key(0), (4096,))
    x0 = plan.run(gaussian_denoiser(process, 2.0, 0.5), process, x, grid, uj.sample_keys(0, 0, 4096))
    assert float(x0.mean()) == pytest.approx(2.0, abs=0.03)
    assert float(x0.std()) == pytest.approx(0.5, abs=0.03)


def test_networks_stand_alone():
    image = uj.Image(16, 16, 3, patch=8)
    noisy = (uj.NoisyInput(uj.Form(image.name, image.shape, image.cut, 3), jnp.zeros((2, 16, 16, 3)), jnp.zeros(2)),)
    network = uj.DiT(depth=1, width=32, heads=4)
    variables = jax.eval_shape(network.init, jax.random.key(0), noisy, ())
    outputs, _ = jax.eval_shape(network.apply, variables, noisy, ())
    assert outputs["image"].shape == (2, 16, 16, 3)


def test_pictures_of_arrays():
    picture = uj.show(np.zeros((6, 16, 16, 3), np.uint8), columns=3, titles=list("abcdef"))
    assert picture.size[0] > picture.size[1] / 2
    with pytest.raises(uj.UserError, match=r"found float64 \[2, 2\]"):
        uj.show(np.zeros((2, 2)))
    with pytest.raises(uj.UserError, match="one title per image, found 1 for 2"):
        uj.show(np.zeros((2, 8, 8, 3), np.uint8), titles=["a"])


def test_one_name_runs_every_command(capsys):
    assert main.run(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in main.COMMANDS)
    for name in main.COMMANDS:
        assert callable(main.command_of(name))
    assert main.run(["smaple"]) == 2
    assert "Unknown command 'smaple'; did you mean sample?" in capsys.readouterr().err
    assert main.run(["sample", "--run", "nowhere"]) == 2
    assert "'nowhere' does not exist" in capsys.readouterr().err


def test_the_version_is_one(root):
    assert f'version = "{uj.__version__}"' in (root / "pyproject.toml").read_text()


def test_a_request_is_compiled_once_and_a_run_opens_in_silence(run, caplog, monkeypatch):
    traced, generate = [], uj.Diffusion.generate

    def counted(self, params, given, wanted, keys, plan):
        traced.append(1)
        return generate(self, params, given, wanted, keys, plan)

    monkeypatch.setattr(uj.Diffusion, "generate", counted)
    sampling._programs.cache_clear()
    plan = run.plan(steps=2)
    first = run.sample({"shape": "star", "colour": "red"}, count=2, plan=plan)
    caplog.clear()
    again = uj.load(run.folder).sample({"shape": "ring", "colour": "blue"}, count=2, seed=1, plan=plan)
    assert not [record for record in caplog.records if record.name == "absl"]
    assert np.any(first["image"] != again["image"])
    assert len(traced) == 1
    sampling._programs.cache_clear()

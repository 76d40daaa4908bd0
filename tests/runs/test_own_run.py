"""A folder outside the repository with own network, process, sampler, data set and rule: every command takes it."""

import json
import subprocess
import sys

import numpy as np
import pytest

from tests.helpers import ROOT, environment
from unified_jax.cli import ablate, evaluate, probe, sample, train
from unified_jax.cli.entry import run_command

RECIPE = """
import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from own_data import Blobs

from unified_jax.layers.mlp import Dense
from unified_jax.modalities.image import Image
from unified_jax.models.diffusion import Diffusion
from unified_jax.processes.grids import Needs, time_grid
from unified_jax.processes.targets import coefficients, expand, mean_per_example, rates, solve
from unified_jax.samplers.ddim import ddim
from unified_jax.samplers.plan import SamplingPlan
from unified_jax.training.experiment import Checkpointing, Experiment, Previews
from unified_jax.training.optimizer import Optimization


class Mixer(nn.Module):
    width: int = 16
    takes: ClassVar = ("label",)
    streams: ClassVar = "one"

    @nn.compact
    def __call__(self, noisy, conditions=(), *, layout=None, capture=()):
        (one,) = noisy
        h = Dense(self.width, ("patch", "embed"), name="into")(one.form.patches(one.x))
        h = jax.nn.gelu(h + h.mean(1, keepdims=True) + jnp.cos(one.t / 100.0)[:, None, None])
        out = Dense(one.form.out_features, ("embed", "patch"), name="out")(h)
        return {one.form.name: one.form.unpatch(out)}, {}


PROCESS

@dataclasses.dataclass(frozen=True)
class Stride:
    eta: float = 0.0
    needs = Needs()

    def __call__(self, denoise, process, x, grid, keys):
        return ddim(denoise, process, x, grid, keys, self.eta)


@dataclasses.dataclass(frozen=True)
class SignDescent:
    def transform(self, rate, decay, stacked):
        return optax.chain(optax.scale_by_sign(), optax.scale_by_learning_rate(rate))


def experiment(size: int = 8):
    return Experiment(
        model=Diffusion(Mixer(), Circle(), Image(size, size, 1, patch=4)), data=Blobs(size), steps=4, batch_size=8,
        optimizer=Optimization(SignDescent(), learning_rate=1e-3), log_every=1, checkpoint=Checkpointing(every=2),
        preview=Previews(every=0, plan=SamplingPlan(Stride(), steps=2)),
    )
"""
DATA = """
import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Blobs:
    size: int = 8

    @property
    def name(self):
        return "blobs"

    def parts(self, split, fields):
        rows = np.random.default_rng(0).integers(0, 256, (64, self.size, self.size, 1), np.uint8)
        return ((1.0, "blobs", [{"image": row} for row in rows]),)
"""
STUDY = """
from unified_jax.studies.study import Metric, Study, Variant

def study():
    return Study("RECIPE", (Variant("wide", {"model.network.width": 24}),), seeds=1, samples=4,
                 metrics=(Metric("frechet/pooled_pixels", "lower"),))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("own")
    page = (ROOT / "docs" / "adding_a_process.md").read_text()
    circle = page.split("```python\n")[1].split("```")[0]
    process = circle[circle.index("@dataclasses") :].replace("@dataclasses", "\n@dataclasses", 1)
    (made / "own_recipe.py").write_text(RECIPE.replace("PROCESS", process))
    (made / "own_data.py").write_text(DATA)
    (made / "own_study.py").write_text(STUDY.replace("RECIPE", str(made / "own_recipe.py")))
    before = list(sys.path)
    yield made
    sys.path[:] = before
    for name in ("own_recipe", "own_data", "own_study"):
        sys.modules.pop(name, None)


def lines(run):
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_every_command_takes_it(folder, capfd, one_device):
    run, recipe = folder / "run", str(folder / "own_recipe.py")
    assert run_command(train.main, [recipe, "--run-dir", str(folder / "whole"), "--size", "12"]) == 0
    assert run_command(train.main, [recipe, "--run-dir", str(run), "--size", "12", "--steps", "2"]) == 0
    assert run_command(train.main, [recipe, "--run-dir", str(run), "--size", "12", "--evaluate", "4"]) == 0
    assert lines(run) == lines(folder / "whole")
    assert "frechet" in capfd.readouterr().out
    assert sorted(p.name for p in (run / "code").iterdir()) == ["code.json", "own_data.py", "own_recipe.py"]
    assert (
        run_command(sample.main, ["--run", str(run), "--count", "2", "--formats", "npz", "--out", str(folder / "o")])
        == 0
    )
    assert run_command(evaluate.main, ["--run", str(run), "--count", "4"]) == 0
    assert run_command(probe.main, ["noise", "--run", str(run), "--batches", "1", "--parts", "2"]) == 0
    tuned = ["--tuning.train", "--tuning.lora", "into", "--tuning.rank", "2", "--steps", "1", "--size", "12"]
    assert run_command(train.main, [recipe, "--init-from", str(run), "--run-dir", str(folder / "lora"), *tuned]) == 0
    assert run_command(ablate.main, [str(folder / "own_study.py"), "--out", str(folder / "study")]) == 0
    found = np.load(folder / "o" / "samples.npz")["image"]
    script = [
        str(ROOT / "sample.py"),
        "--run",
        str(run),
        "--count",
        "2",
        "--formats",
        "npz",
        "--out",
        str(folder / "p"),
    ]
    for trust, code in (([], 2), (["--trust"], 0)):
        again = subprocess.run([sys.executable, *script, *trust], env=environment(1), capture_output=True, text=True)
        assert again.returncode == code, again.stderr
        assert code or not again.stderr.startswith("error")
    np.testing.assert_allclose(np.load(folder / "p" / "samples.npz")["image"].astype(int), found.astype(int), atol=1)


def test_changed_code_is_refused_on_resume_unless_it_is_meant(folder, capfd, one_device):
    run, recipe = folder / "changed", folder / "own_recipe.py"
    assert run_command(train.main, [str(recipe), "--run-dir", str(run), "--steps", "2"]) == 0
    recipe.write_text(recipe.read_text().replace("one.t / 100.0", "one.t / 50.0"))
    assert run_command(train.main, [str(recipe), "--run-dir", str(run)]) == 2
    assert "was begun with other code in own_recipe" in capfd.readouterr().err
    assert run_command(train.main, [str(recipe), "--run-dir", str(run), "--code-changed"]) == 0
    table = json.loads((run / "code" / "code.json").read_text())
    assert [change["step"] for change in table["changes"]] == [2]


@pytest.mark.parametrize(
    ("gone", "words"),
    [
        ("    def unit_time(self, t):\n        return t\n", "Circle lacks unit_time"),
        ('    takes: ClassVar = ("label",)\n', "Mixer lacks takes"),
        ("    needs = Needs()\n", "Stride lacks needs"),
        ("    def transform(self, rate, decay, stacked):\n", "SignDescent lacks transform"),
        ("*, layout=None, capture=()", "without layout, capture"),
    ],
)
def test_one_method_missing_is_a_sentence_before_anything_is_compiled(folder, capfd, gone, words):
    whole = (folder / "own_recipe.py").read_text()
    assert gone in whole
    broken = folder / "own_broken.py"
    instead = {"    def transform": "    def other(self, rate, decay, stacked):\n", "*, layout": "**_"}
    put = next((new for start, new in instead.items() if gone.startswith(start)), "")
    broken.write_text(whole.replace(gone, put))
    assert run_command(train.main, [str(broken), "--run-dir", str(folder / "none"), "--steps", "1"]) == 2
    assert words in " ".join(capfd.readouterr().err.replace("│", " ").split())
    assert not (folder / "none").exists()

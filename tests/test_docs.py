"""The code of the pages on adding things runs, and does what the page says."""

import json
import re
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow_datasets as tfds

from tests.helpers import gaussian_denoiser, stirred
from tests.samplers.test_solvers import order_of
from unified_jax.cli import sample, train
from unified_jax.cli.entry import run_command
from unified_jax.modalities.image import Image
from unified_jax.modalities.label import Label
from unified_jax.models.diffusion import Diffusion
from unified_jax.processes.grids import uniform_grid
from unified_jax.processes.interpolant import RectifiedFlow
from unified_jax.processes.targets import Prediction
from unified_jax.samplers.choice import Heun
from unified_jax.samplers.ddim import ddim
from unified_jax.samplers.loop import START, normal_like
from unified_jax.samplers.plan import SamplingPlan


def test_the_example_of_a_new_sampler():
    page = (Path(__file__).parents[1] / "docs" / "adding_a_sampler.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    room: dict = {}
    exec(compile(code, "adding_a_sampler.md", "exec"), room)

    def denoise(x, t):
        return Prediction(0.5 * x, x - 0.1 * t[:, None])

    x, keys = jnp.ones((2, 3)), jax.random.split(jax.random.key(0), 2)
    found = room["halves"](denoise, RectifiedFlow(), x, uniform_grid(5), keys)
    np.testing.assert_allclose(found, ddim(denoise, RectifiedFlow(), x, uniform_grid(5), keys), rtol=1e-5)
    asked = re.search(r"`order_of\((\w+), (\w+)\) > ([\d.]+)`", page)
    assert asked and asked.group(1, 2) == ("halves", "process")
    assert order_of(room["halves"], RectifiedFlow()) > float(asked.group(3))


def code_of(page):
    """The one example of a page, run: its names."""
    (code,) = re.findall(r"```python\n(.*?)```", (Path(__file__).parents[1] / "docs" / page).read_text(), re.DOTALL)
    room = types.ModuleType("example")
    sys.modules["example"] = room  # a dataclass looks its module up
    exec(compile(code, page, "exec"), room.__dict__)
    return room


def test_the_example_of_a_new_process_draws_a_gaussian():
    process = code_of("adding_a_process.md").Circle()
    process, grid = SamplingPlan(Heun(), 40).prepare(process)
    keys = jax.random.split(jax.random.key(0), 4000)
    noise = normal_like(keys, START, jnp.zeros((4000, 1)))
    found = SamplingPlan(Heun()).run(gaussian_denoiser(process, 0.3, 0.5), process, noise, grid, keys)
    assert float(found.mean()) == pytest.approx(0.3, abs=0.03) and float(found.std()) == pytest.approx(0.5, abs=0.03)


def test_the_example_of_a_new_backbone_trains_and_is_conditioned():
    network = code_of("adding_a_backbone.md").Mixer(width=16, depth=1)
    model = Diffusion(network, modality=Image(8, 8, 1, patch=4), conditions=(Label("shape", 3),), drop_all=0.0)
    params = stirred(model.init)
    batch = {"image": np.zeros((4, 8, 8, 1), np.uint8), "shape": np.arange(4) % 3, "slot": np.arange(4)}
    loss = lambda p, b: model.losses(p, {}, b, jax.random.key(0))[0]["mse"][0].sum()  # noqa: E731
    slopes = jax.grad(loss)(params, batch)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(slopes))
    assert float(loss(params, batch)) != float(loss(params, batch | {"shape": np.zeros(4, int)}))


def test_the_example_of_own_classes_trains(tmp_path, one_device, capfd):
    page = (Path(__file__).parents[1] / "docs" / "own_classes.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "page_blobs.py").write_text(code)
    words = ["--size", "12", "--steps", "1", "--preview.every", "0", "--run-dir", str(tmp_path / "run")]
    assert run_command(train.main, [str(tmp_path / "page_blobs.py"), *words]) == 0, capfd.readouterr().err


RECIPE = """
from unified_jax.data.tfds import Tfds
from unified_jax.modalities.series import Series
from unified_jax.modalities.text import Text
from unified_jax.samplers.plan import SamplingPlan
from unified_jax.models.transfusion import Stream, Transfusion
from unified_jax.networks.transfusion import Trunk
from unified_jax.training.experiment import Experiment, Previews


def experiment():
    LINE
    return Experiment(
        model=Transfusion(Trunk(depth=1, width=32, heads=2, remat="none"), Text(12), streams, 40),
        data=Tfds("weather", data_dir=FOLDER, rename=(("caption", "town"),)),
        steps=2, batch_size=8, log_every=1, preview=Previews(every=2, count=2, plan=SamplingPlan(steps=2)),
    )
"""


class Weather(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Eight days in two towns."""

    VERSION = tfds.core.Version("1.0.0")
    name = "weather"
    pkg_dir_path = None

    def _info(self):
        features = {"town": tfds.features.Text(), "series": tfds.features.Tensor(shape=(24, 1), dtype=np.float32)}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(), "test": self._generate_examples()}

    def _generate_examples(self):
        for i in range(8):
            curve = 10 * np.sin(np.arange(24) / 4 + i)[:, None].astype(np.float32)
            yield i, {"town": ("Bern", "Oslo")[i % 2], "series": curve}


@pytest.fixture
def series_room(monkeypatch):
    """The page's first block as unified_jax/modalities/series.py."""
    page = (Path(__file__).parents[1] / "docs" / "adding_a_modality.md").read_text()
    file, line = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    module = types.ModuleType("unified_jax.modalities.series")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(file, "series.py", "exec"), module.__dict__)
    return module, line.strip()


def test_the_example_of_a_new_modality(series_room, tmp_path, capsys):
    """The page's file and line train on a TFDS set, sample from a caption, and are given as a file."""
    module, line = series_room
    Weather(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    (tmp_path / "weather.py").write_text(RECIPE.replace("LINE", line).replace("FOLDER", repr(str(tmp_path))))
    run = str(tmp_path / "run")
    assert run_command(train.main, [str(tmp_path / "weather.py"), "--run-dir", run]) == 0
    assert (tmp_path / "run" / "previews" / "step_0000002.png").exists()
    out = ["--run", run, "--out", str(tmp_path / "out"), "--count", "2", "--steps", "2"]
    assert run_command(sample.main, [*out, "--given.caption", "Oslo"]) == 0
    made = tmp_path / "out" / "series" / "000001.csv"
    assert np.loadtxt(made, delimiter=",", ndmin=2).shape == (24, 1)
    module.Series(24, low=-30.0, high=45.0).save(tmp_path / "mine.csv", np.zeros((24, 1)))
    assert run_command(sample.main, [*out, "--given.series", f"@{tmp_path / 'mine.csv'}", "--generate", "caption"]) == 0
    capsys.readouterr()
    (tmp_path / "hot.csv").write_text("\n".join(["99"] * 24))
    assert run_command(sample.main, [*out, "--given.series", f"@{tmp_path / 'hot.csv'}"]) == 2
    assert "expected -30.0 .. 45.0, found 99 .. 99" in capsys.readouterr().err


PAGES = {
    "benchmarks/README.md",
    *(
        f"docs/{name}.md"
        for name in (
            "backbones",
            "data",
            "kernels",
            "launch",
            "scaling",
            "studies",
            "finetuning",
            "evaluation",
            "recipes",
            "transfusion",
        )
    ),
}


@pytest.mark.parametrize("page", sorted(PAGES))
def test_tables_are_those_of_the_result_files(root, monkeypatch, page):
    """After a new result: python benchmarks/pages.py."""
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    import pages

    assert set(pages.TABLES) == PAGES
    assert (root / page).read_text() == pages.filled(page)


def test_measurements_are_those_of_their_file(root, monkeypatch):
    """After a new run: python benchmarks/figures.py."""
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    import figures

    kept = json.loads((root / "docs" / "measurements.json").read_text())
    assert (root / "docs" / "measurements.md").read_text() == figures.table(kept)
    assert set(kept) >= {"quickstart", "transfusion_world"}

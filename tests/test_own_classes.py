"""Classes of one's own: wrong answers, studies, weights files, probes, state beside parameters."""

import dataclasses
import sys
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import EXPERIMENT
from tests.models.small import Words
from unified_jax.cli.convert import main
from unified_jax.cli.probing.noise import losses_at
from unified_jax.config import config_hash
from unified_jax.errors import UserError
from unified_jax.modalities.image import Image
from unified_jax.models.base import Declared
from unified_jax.models.diffusion import Diffusion
from unified_jax.models.streams import Condition
from unified_jax.models.tuned import Tuning
from unified_jax.runs.code import import_file
from unified_jax.runs.directory import load_experiment
from unified_jax.runs.exports import write_unified
from unified_jax.runs.loop import train
from unified_jax.runs.opened import open_run
from unified_jax.runs.start import Start
from unified_jax.sharding import MeshShape, Rules, make_mesh, parameter_shardings
from unified_jax.studies.cells import Arm, Cell
from unified_jax.training.ema import Ema
from unified_jax.training.experiment import Experiment, Previews, Validation
from unified_jax.training.optimizer import Optimization
from unified_jax.training.program import assemble


class Odd(nn.Module):
    """A network that does not answer as a backbone does, in one way."""

    way: str = ""
    takes: ClassVar = ()
    streams: ClassVar = "one"

    @nn.compact
    def __call__(self, noisy, conditions=(), *, layout=None, capture=()):
        (one,) = noisy
        axes = {"collide": ("embed", "embed"), "unknown": ("embed", "width"), "few": ("embed",)}.get(
            self.way, (None, None)
        )
        init = nn.with_logical_partitioning(nn.initializers.zeros, axes)
        scale = 1.0 + self.param("kernel", init, (2, 2)).sum()
        if self.way == "state":
            self.variable("batch_stats", "mean", jnp.zeros, ())
        if self.way == "bare":
            return one.x
        if self.way == "name":
            return {"out": scale * one.x}, {}
        return {"image": scale * one.x[..., :1] if self.way == "shape" else scale * one.x}, {}


ODD = {
    "collide": r"parameter 'kernel': Logical axes \('embed', 'embed'\) collide",
    "unknown": r"Unknown logical axis 'width'",
    "few": r"parameter 'kernel' of shape \[2, 2\] needs 2 axis names",
    "state": r"Odd keeps batch_stats beside its parameters",
    "bare": r"Odd returns \w+, expected \(\{name: output\}, captured\)",
    "name": r"Odd gives no output 'image'; it gives out",
    "shape": r"output 'image' is \[1, 4, 4, 1\], expected \[1, 4, 4, 3\]",
}


@pytest.mark.parametrize("way", ODD)
def test_a_network_that_does_not_answer_as_a_backbone_is_a_sentence(way):
    model = Diffusion(Odd(way), modality=Image(4, 4, 3, patch=2))
    experiment = Experiment(model, batch_size=8, preview=Previews(every=0))
    with pytest.raises(UserError, match=ODD[way]):
        assemble(experiment, make_mesh(MeshShape()))


def test_a_model_whose_axes_are_of_other_parameters_is_a_sentence():
    shapes = {"a": jax.ShapeDtypeStruct((2,), "float32"), "b": jax.ShapeDtypeStruct((2,), "float32")}
    with pytest.raises(UserError, match="only one has b, c"):
        parameter_shardings(make_mesh(MeshShape()), Rules(), {"a": (None,), "c": (None,)}, shapes)


def test_cells_of_a_study_know_the_code_they_were_trained_by(tmp_path, monkeypatch):
    """The hash of a configuration is the same after an edit of the user's own code."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    file, found = tmp_path / "own_cell_rule.py", []
    for rate in (1.0, 2.0):
        file.write_text(RULE.format(rate))
        rule = import_file(file).Rule()
        experiment = Experiment(Diffusion(Odd()), optimizer=Optimization(rule), preview=Previews(every=0))
        cell = Cell(Arm("base", experiment, (0,), 1, 1.0), 0, tmp_path)
        found.append((config_hash(experiment), cell.run_dir.name))
    assert found[0][0] == found[1][0] and found[0][1] != found[1][1]
    plain = Cell(Arm("base", Experiment(preview=Previews(every=0)), (0,), 1, 1.0), 0, tmp_path)
    assert "code" not in plain.run_dir.name  # what was trained without own code is found again


RULE = """
import dataclasses


@dataclasses.dataclass(frozen=True)
class Rule:
    def transform(self, rate, decay, stacked):
        return {}
"""


def test_the_probe_of_noise_hands_on_aux_and_step():
    class Model:
        def losses(self, params, aux, batch, key):
            return params["a"], params["stages"], aux, batch["step"]

    at = losses_at(Model(), {"buffers": {"book": 3}, "stages": "s"}, 7)
    assert at({"a": 1}, {}, {"step": 0}, None) == (1, "s", {"book": 3}, 7)


NETWORK = """
from typing import ClassVar

import flax.linen as nn


class Scale(nn.Module):
    takes: ClassVar = ()
    streams: ClassVar = "one"

    @nn.compact
    def __call__(self, noisy, conditions=(), *, layout=None, capture=()):
        (one,) = noisy
        return {one.form.name: one.x * self.param("scale", nn.initializers.ones, ())}, {}
"""


def test_a_weights_file_finds_own_classes_beside_it_and_its_run_keeps_them(tmp_path, monkeypatch, one_device):
    monkeypatch.setattr(sys, "path", list(sys.path))
    made, held = tmp_path / "made", tmp_path / "held"
    for folder in (made, held):
        folder.mkdir()
    (made / "own_scale.py").write_text(NETWORK)
    network = import_file(made / "own_scale.py").Scale()
    experiment = Experiment(Diffusion(network, modality=Image(4, 4, 3, patch=2)), preview=Previews(every=0))
    weights = held / "scale.safetensors"
    write_unified(weights, experiment, jax.tree.map(np.asarray, experiment.model.init(jax.random.key(0))), 0)
    del sys.modules["own_scale"]
    sys.path.remove(str(made))
    convert = ["--from", str(weights), "--to", str(tmp_path / "run")]
    for flags, words in (([], "pass --trust"), (["--trust"], "No module named 'own_scale'; a module of your own lies")):
        with pytest.raises(UserError, match=words):
            main([*convert, *flags])
    (held / "own_scale.py").write_text(NETWORK)
    main([*convert, "--trust"])
    assert (tmp_path / "run" / "code" / "own_scale.py").read_text() == NETWORK
    del sys.modules["own_scale"]
    assert load_experiment(tmp_path / "run", trust=True).model.network.takes == ()


@dataclasses.dataclass(frozen=True)
class Padded(Words):
    """Tokens of which some are there: the others are 9."""

    def to_condition(self, raw):
        return jnp.asarray(raw), jnp.sum(jnp.asarray(raw)[..., 0] != 9, axis=1)


def test_tokens_of_an_own_modality_have_lengths():
    raw = np.asarray([[[1, 1], [2, 2], [9, 9]], [[1, 1], [9, 9], [9, 9]]], np.float32)
    for padding, lengths, last in (("mask", [2, 1], 9), ("zero", None, 0), ("keep", None, 9)):
        shown = Condition(Padded(), padding=padding).shown({"words": raw}, 2)
        assert shown.length is None if lengths is None else shown.length.tolist() == lengths
        assert float(shown.value[0, 2, 0]) == last and bool(shown.present.all())
    absent = Condition(Padded()).shown({}, 2)
    assert not absent.present.any() and absent.value.shape == (2, 3, 2) and absent.length.shape == (2,)
    assert Condition(Words()).shown({"words": raw}, 2).length is None


@dataclasses.dataclass(frozen=True)
class Copies(Declared):
    """Its aux is a copy of a parameter, and its loss moves it."""

    modality: Image = Image(4, 4, 3, patch=2)

    @property
    def modalities(self):
        return (self.modality,)

    def init(self, key):
        return {"a": {"kernel": jax.random.normal(key, (3, 3))}, "b": {"kernel": jnp.zeros((3, 3))}}

    def axes(self):
        return {"a": {"kernel": (None, None)}, "b": {"kernel": (None, None)}}

    def init_aux(self, params):
        return {"copy": params["b"]["kernel"] + params["a"]["kernel"]}

    def losses(self, params, aux, batch, key):
        rows = jnp.ones(len(batch["slot"]))
        size = jnp.sum((params["a"]["kernel"] + params["b"]["kernel"]) ** 2)
        return {"size": (rows * size + 0.0 * jnp.sum(aux["copy"]), rows)}, {"copy": rows.sum()}, {}

    def settle_aux(self, aux, statistics):
        return {"copy": aux["copy"] + 0.0 * statistics["copy"] + 1.0}


def test_a_run_takes_the_aux_of_what_it_starts_from(tmp_path, one_device):
    small = dataclasses.replace(
        EXPERIMENT, model=Copies(), data=Grey(), steps=2, batch_size=2, ema=(Ema(0.0),), preview=Previews(every=0),
        validation=Validation(), tuning=Tuning(),
    )  # fmt: skip
    train(small, Start(tmp_path / "first", quiet=True))
    book = open_run(tmp_path / "first")[1]["buffers"]["copy"]
    lora = dataclasses.replace(small, steps=1, tuning=Tuning(train=(), lora=("b/",), rank=2))
    train(lora, Start(tmp_path / "lora", init_from=tmp_path / "first", quiet=True))
    np.testing.assert_array_equal(open_run(tmp_path / "lora")[1]["buffers"]["copy"], book + 1.0)


@dataclasses.dataclass(frozen=True)
class Grey:
    name: str = "grey"

    def parts(self, split, fields):
        return ((1.0, "grey", [{"image": np.full((4, 4, 3), i, np.uint8)} for i in range(8)]),)

"""Open fields: any class of the protocol, and what it lacks by name; old paths of what moved."""

import dataclasses
import importlib
import sys
import warnings
from typing import Any, ClassVar, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unified_jax.cli.convert import main
from unified_jax.cli.probing.noise import losses_at
from unified_jax.config import Open, check_kinds, config_hash, from_plain, lacking, to_plain
from unified_jax.errors import UserError
from unified_jax.modalities.image import Image
from unified_jax.models.base import Player
from unified_jax.models.diffusion import Diffusion
from unified_jax.models.streams import Stream
from unified_jax.moved import MOVED, old_path, present_path
from unified_jax.processes.grids import Needs
from unified_jax.processes.interpolant import Interpolant
from unified_jax.runs.code import import_file
from unified_jax.runs.directory import load_experiment
from unified_jax.runs.exports import write_unified
from unified_jax.runs.flags import parse
from unified_jax.samplers.plan import Plan
from unified_jax.sharding import MeshShape, Rules, make_mesh, parameter_shardings
from unified_jax.studies.cells import Arm, Cell
from unified_jax.training.experiment import Experiment, Previews
from unified_jax.training.optimizer import Optimization
from unified_jax.training.program import assemble


class Works(Protocol):
    size: int

    def begin(self) -> int: ...

    def __call__(self, x: Any, keys: Any) -> Any: ...


@dataclasses.dataclass(frozen=True)
class Whole:
    size: int = 3

    def begin(self):
        return self.size

    def __call__(self, x, keys, more=0):
        return x


@dataclasses.dataclass(frozen=True)
class Half:
    def __call__(self, x, key):
        return x


@dataclasses.dataclass(frozen=True)
class Holder:
    part: Open[Works] = Whole()


@dataclasses.dataclass
class Thawed:
    size: int = 4
    begin = __call__ = Whole.__call__


class Plain:
    size, begin = 3, None


def test_any_class_of_the_protocol_is_taken():
    check_kinds(Holder(Whole(5)))
    assert from_plain(to_plain(Holder(Whole(5))), trust=True) == Holder(Whole(5))


def test_a_tuple_may_hold_any_class_of_the_protocol_and_its_flags_follow_what_it_holds():
    @dataclasses.dataclass(frozen=True)
    class Several:
        parts: Open[tuple[Holder | Open[Works], ...]] = ()

    held = Several((Whole(5), Holder()))
    check_kinds(held)
    assert parse(Several, "x", ["--parts.0.size", "7"], held) == Several((Whole(7), Holder()))
    with pytest.raises(
        UserError, match=r"Several.parts.1 is 'Half\(\)', expected Holder \| Works .*; Half lacks begin, size"
    ):
        check_kinds(Several((Whole(), Half())))
    with pytest.raises(UserError, match=r"Several.parts is .* expected tuple\["):
        check_kinds(Several(Whole()))


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (Half(), r"expected Works \(.*test_open\); Half lacks begin, size"),
        (Thawed(), r"Thawed cannot be hashed: write @dataclass\(frozen=True\)"),
        (Plain(), "Plain is no dataclass"),
        (3, "int is no dataclass"),
    ],
)
def test_what_it_lacks_is_named(part, words):
    with pytest.raises(UserError, match=words):
        check_kinds(Holder(part))


def test_parameters_of_the_call_are_compared_by_name():
    @dataclasses.dataclass(frozen=True)
    class Misnamed(Whole):
        def __call__(self, x, key):
            return x

    assert "without keys" in lacking(Misnamed, Works)


def test_properties_are_never_run_to_see_whether_they_are_there():
    @dataclasses.dataclass(frozen=True)
    class Costly(Whole):
        @property
        def begin(self):
            raise RuntimeError

    assert lacking(Costly, Works) == ""


def test_a_sampler_of_ones_own_is_a_plan():
    @dataclasses.dataclass(frozen=True)
    class Jump:
        needs = Needs()

        def __call__(self, denoise, process, x, grid, keys):
            return denoise(x, grid[0]).x0

    plan = Plan(Jump(), 3)
    check_kinds(plan)
    assert len(plan.prepare(Interpolant())[1]) == 4


def test_old_class_paths_are_read_for_ever_and_hashed_as_first_saved():
    plain = to_plain(Plan(steps=7))
    assert plain["class"] == "unified_jax.samplers.plan.Plan"
    assert from_plain(plain | {"class": "unified_jax.models.plan.Plan"}) == Plan(steps=7)
    assert old_path(present_path("unified_jax.models.plan.Plan")) == "unified_jax.models.plan.Plan"


def test_a_field_at_its_default_is_no_part_of_the_hash():
    @dataclasses.dataclass(frozen=True)
    class Before:
        size: int = 3

    @dataclasses.dataclass(frozen=True)
    class After:
        size: int = 3
        more: float = 0.0

    for cls in (Before, After):
        cls.__module__, cls.__qualname__ = "somewhere", "Thing"
    assert config_hash(Before(5)) == config_hash(After(5)) != config_hash(After(5, 1.0))


@pytest.mark.parametrize("old", sorted(name for name in MOVED if name.rpartition(".")[2].islower()))
def test_old_names_of_modules_import_the_same_module_with_a_warning(old):
    new = importlib.import_module(MOVED[old])
    spec = new.__spec__
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert importlib.import_module(old) is new
    assert new.__spec__ is spec and new.__name__ == MOVED[old]
    assert any("the old name goes in the next release" in str(w.message) for w in said)


def test_what_is_lacking_is_named_where_it_would_be_used_first():
    """A plan asks its sampler what it needs, and an experiment its model's processes, while they are made."""

    @dataclasses.dataclass(frozen=True)
    class Needless:
        def __call__(self, denoise, process, x, grid, keys):
            return x

    @dataclasses.dataclass(frozen=True)
    class Nothing:
        packer = None

    with pytest.raises(UserError, match=r"Plan.sampler is .*Needless lacks needs"):
        Plan(Needless())
    with pytest.raises(UserError, match=r"Experiment.model is .*Nothing lacks axes, .*processes"):
        Experiment(model=Nothing())
    with pytest.raises(UserError, match=r"Stream.process is .*Nothing lacks alpha_sigma, channels_per_output"):
        Stream(process=Nothing())
    with pytest.raises(UserError, match=r"Experiment.scores.0 is .*expected Score .*Nothing lacks __call__, suits"):
        Experiment(scores=(Nothing(),))
    with pytest.raises(UserError, match=r"'critic' needs .* start = -1"):
        Player("critic", ("a",), ("b",), start=-1)


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

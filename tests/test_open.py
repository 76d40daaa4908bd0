"""Open fields: any class of the protocol, and what it lacks by name; old paths of what moved."""

import dataclasses
import importlib
import warnings
from typing import Any, Protocol

import pytest

import unified_jax
from unified_jax.config import Open, check_kinds, config_hash, from_plain, lacking, to_plain
from unified_jax.errors import UserError
from unified_jax.models.base import Player
from unified_jax.models.streams import Stream
from unified_jax.moved import MOVED, old_path, present_path
from unified_jax.processes.grids import Needs
from unified_jax.processes.interpolant import Interpolant
from unified_jax.runs.flags import parse
from unified_jax.samplers.plan import SamplingPlan
from unified_jax.training.experiment import Experiment


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

    plan = SamplingPlan(Jump(), 3)
    check_kinds(plan)
    assert len(plan.prepare(Interpolant())[1]) == 4


def test_old_class_paths_are_read_for_ever_and_hashed_as_first_saved():
    plain = to_plain(SamplingPlan(steps=7))
    assert plain["class"] == "unified_jax.samplers.plan.SamplingPlan"
    for old in ("unified_jax.models.plan.Plan", "unified_jax.samplers.plan.Plan"):
        assert from_plain(plain | {"class": old}) == SamplingPlan(steps=7)
    assert config_hash(SamplingPlan(steps=7)) == "6d9029dab1bb"
    for home in (unified_jax, unified_jax.samplers.plan):
        with pytest.warns(DeprecationWarning, match="Plan is now SamplingPlan"):
            assert home.Plan is SamplingPlan
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

    with pytest.raises(UserError, match=r"SamplingPlan.sampler is .*Needless lacks needs"):
        SamplingPlan(Needless())
    with pytest.raises(UserError, match=r"Experiment.model is .*Nothing lacks axes, .*processes"):
        Experiment(model=Nothing())
    with pytest.raises(UserError, match=r"Stream.process is .*Nothing lacks alpha_sigma, channels_per_output"):
        Stream(process=Nothing())
    with pytest.raises(UserError, match=r"Experiment.scores.0 is .*expected Score .*Nothing lacks __call__, suits"):
        Experiment(scores=(Nothing(),))
    with pytest.raises(UserError, match=r"'critic' needs .* start = -1"):
        Player("critic", ("a",), ("b",), start=-1)

"""Numbers that are not finite are never saved as good, called good, or restored from; and what is no damage at all."""

import dataclasses
import errno
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.faults import states
from tests.helpers import EXPERIMENT
from unified_jax.data.pipeline import HostBatch
from unified_jax.errors import RunError, UserError
from unified_jax.runs import checkpoints as checkpoint, checksums, manager
from unified_jax.runs.checkpoints import Checkpoints
from unified_jax.runs.finite import finite_by_program, not_finite
from unified_jax.runs.metrics import MetricsWriter, Pending, Progress, count_lines, read_lines
from unified_jax.runs.monitor import Watch
from unified_jax.training.experiment import Previews, Validation

STATE = states.like(states.make_state(1))
ROTTEN = {
    "params/dense/kernel": lambda s: s.params["dense"],
    "ema/0/mean": lambda s: s.ema[0],
}


def rotten(step, name="params/dense/kernel", value=jnp.nan):
    """A state with one number that is not finite."""
    state = states.make_state(step)
    part, key = ROTTEN[name](state), name.rpartition("/")[2]
    part[key] = part[key].at[7].set(value)
    return state


@pytest.mark.parametrize("value", [jnp.nan, -jnp.inf])
@pytest.mark.parametrize("name", ROTTEN)
def test_a_state_that_is_not_finite_is_not_saved_and_the_last_good_one_is_named(tmp_path, name, value):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save_last(states.make_state(1), 1)
        for save in (checkpoints.save, checkpoints.save_last, lambda s, i: checkpoints.save_best(s, i, 0.5)):
            with pytest.raises(RunError, match=rf"After step 2 {name} .* last good checkpoint is step 1.*clip-norm"):
                save(rotten(2, name, value), 2)
        assert checkpoints.steps() == [1]
    assert [p.name for p in (tmp_path / "checkpoints").glob("*/*")] == ["1"]


def test_a_loss_that_is_not_finite_is_never_the_best(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        for loss in (float("nan"), float("inf")):
            checkpoints.save_best(states.make_state(1), 1, loss)
        assert checkpoints.best.latest_step() is None


@pytest.fixture
def old_run(tmp_path, monkeypatch):
    """Checkpoints 1 (finite) and 2 (not), as an earlier version wrote them."""
    with Checkpoints(tmp_path) as checkpoints, monkeypatch.context() as patch:
        patch.setattr(checkpoint, "not_finite", lambda tree: [])
        for step, state in ((1, states.make_state(1)), (2, rotten(2))):
            checkpoints.save_last(state, step)
    return tmp_path


def test_an_old_checkpoint_that_is_not_finite_is_refused_and_the_finite_one_before_it_is_used(old_run, capsys):
    words = r"rolling/2 cannot be used: params/dense/kernel .*not finite; delete that folder to go back to step 1"
    reader = Checkpoints(old_run, write=False)
    with pytest.raises(UserError, match=words):
        reader.restore(STATE)
    whole = {"params": STATE.params, "step": STATE.step}
    with pytest.raises(UserError, match=words):
        reader.restore(whole)
    assert reader.restore({"ema": STATE.ema})["ema"]  # what is not asked for is not judged
    with Checkpoints(old_run) as checkpoints:
        assert states.same(checkpoints.restore_newest(STATE, fall_back=True), states.make_state(1))
        assert "goes on from step 1" in capsys.readouterr().err
        assert checkpoints.last_good() == "The last good checkpoint is step 1."


def test_where_no_checkpoint_is_finite_nothing_is_moved_and_the_way_out_is_said(old_run):
    with Checkpoints(old_run) as checkpoints:
        checkpoints.rolling.delete(1)
        checkpoints.rolling.wait_until_finished()
        with pytest.raises(UserError, match=r"no other checkpoint is kept: start a new run .*learning-rate"):
            checkpoints.restore_newest(STATE, fall_back=True)
        assert checkpoints.steps() == [2]


def test_a_checkpoint_that_is_being_written_is_not_the_last_good_one(tmp_path, monkeypatch):
    go_on, seal = threading.Event(), checksums.seal
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save_last(states.make_state(1), 1)
        monkeypatch.setattr(manager, "seal", lambda folder: (go_on.wait(30), seal(folder)))
        checkpoints.save(states.make_state(2), 2)
        assert 2 in checkpoints.rolling.all_steps()
        assert checkpoints.steps() == [1]
        assert checkpoints.last_good() == "The last good checkpoint is step 1."
        go_on.set()
        assert checkpoints.last_good(wait=True) == "The last good checkpoint is step 2."


def test_a_program_and_numpy_find_the_same_arrays():
    tree = {"a": jnp.ones(3, jnp.bfloat16).at[1].set(jnp.inf), "b": jnp.ones((2, 2)), "c": jnp.arange(3)}
    assert not_finite(tree) == ["a"]
    assert finite_by_program([tree["a"], tree["b"]]).tolist() == [False, True]
    cut = jax.sharding.NamedSharding(jax.make_mesh((8,), ("data",)), jax.sharding.PartitionSpec("data"))
    assert not_finite({"x": jax.device_put(np.r_[np.zeros(15), np.nan].astype("float32"), cut)}) == ["x"]


RIGHTS = (PermissionError(errno.EACCES, "Permission denied", "d/0"), r"permission denied .*d/0.*chmod")
DISK = (OSError(errno.EIO, "Input/output error"), "Input/output error; start the same command again")
MEMORY = (ValueError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate"), "not enough memory")


@pytest.mark.parametrize(
    ("place", "fault"),
    [("checksums", RIGHTS), ("checksums", DISK), ("arrays", RIGHTS), ("arrays", MEMORY)],
    ids=["rights", "disk", "rights_later", "memory"],
)
def test_what_cannot_be_read_is_not_called_damaged_and_stays(tmp_path, monkeypatch, place, fault):
    error, words = fault

    def refuse(*_, **__):
        raise error

    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step in (1, 2):
            checkpoints.save_last(states.make_state(step), step)
        broken = (checksums, "_entry") if place == "checksums" else (checkpoints.rolling, "restore")
        monkeypatch.setattr(*broken, refuse)
        with pytest.raises(RunError, match=words) as refused:
            checkpoints.restore_newest(STATE, fall_back=True)
        assert "delete" not in str(refused.value) and "amaged" not in str(refused.value)
        assert checkpoints.steps() == [1, 2]


def test_a_whole_checkpoint_of_another_model_is_to_be_kept(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save_last(states.make_state(1), 1)
    other = {"params": {"dense": {"bias": jax.ShapeDtypeStruct((4,), "float32", sharding=STATE.step.sharding)}}}
    with pytest.raises(UserError, match=r"Requested shape.*as they were written.*keep it"):
        Checkpoints(tmp_path, write=False).restore(other)


def test_a_path_that_is_no_text_in_this_locale_names_the_cause(tmp_path):
    with pytest.raises(UserError, match=r"not text in this locale.*PYTHONUTF8=1.*as they were"):
        Checkpoints(tmp_path / "l\udcc3\udcbc", write=False)


def watch(folder, checkpoints, **fields):
    e = dataclasses.replace(EXPERIMENT, preview=Previews(every=0), validation=Validation(every=0), **fields)
    writer, progress = MetricsWriter(folder, 0), Progress(e.steps, 0, show=False)
    return Watch(e, {}, writer, progress, checkpoints, folder)


def step(index, finite=True, norm=1.0):
    loss = np.float32(0.5 if finite else np.nan)
    metrics = {"loss": loss, "finite": np.bool_(finite), "param_norm": np.float32(norm)}
    return Pending(index, metrics, HostBatch({}, np.arange(2), 0))


@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_a_finite_gradient_that_made_parameters_that_are_not_ends_the_run(tmp_path, policy):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(states.make_state(1), 1)  # under way
        looking = watch(tmp_path, checkpoints, non_finite=policy)
        looking.note(step(1))
        looking.note(step(2, norm=np.inf))  # the sum of squares overflows: no number need be wrong
        looking.note(step(3, norm=np.nan))
        with pytest.raises(RunError, match=r"Step 3 left parameters that .*last good checkpoint is step 1"):
            looking.drain(0)
        looking.close()
    assert [line["step"] for line in read_lines(tmp_path / "non_finite.jsonl")] == [3]


def test_a_run_whose_every_step_was_skipped_has_failed(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        looking = watch(tmp_path, checkpoints, non_finite="skip", steps=3)
        for index in (1, 2, 3):
            looking.note(step(index, finite=False))
        with pytest.raises(RunError, match=r"All 3 step\(s\) had a loss .* nothing was learned"):
            looking.drain(0)
        looking.close()
        assert count_lines(tmp_path / "non_finite.jsonl", 2) == 2
        again = watch(tmp_path, checkpoints, non_finite="skip", steps=3)
        again.note(step(1))
        for index in (2, 3):
            again.note(step(index, finite=False))
        again.drain(0)
        assert again.summary(3, 1)["skipped"] == 2
        again.close()

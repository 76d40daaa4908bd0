"""Damaged checkpoints and disks that refuse them. Each line of docs/faults.md names a test."""

import gc
import resource
import shutil
import sys
from contextlib import contextmanager

import pytest
from hypothesis import given, strategies as st

from tests.faults import states
from tests.fuzz.cases import cases, complaint, damaged
from unified_jax.errors import RunError, UserError
from unified_jax.runs.checkpoints import Checkpoints

STATE = states.like(states.make_state(1))
WAYS = {
    states.flip_a_bit: "was changed after it was written",
    states.truncate: r"has \d+ bytes, expected \d+",
    states.delete_a_file: "is missing",
    states.write_half: "has 0 bytes",
}


@pytest.fixture
def run_dir(tmp_path):
    """Checkpoints of steps 1, 2 and 3."""
    with Checkpoints(tmp_path, keep=3) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(states.make_state(step), step)
    return tmp_path


@pytest.fixture
def echoes(monkeypatch):
    """Orbax's coroutines and TensorStore's threads complain after a failure; `cli.entry` keeps that from the screen."""
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: None)
    yield
    gc.collect()


@contextmanager
def files_of_at_most(size):
    """The kernel refuses what is written beyond `size` bytes of a file, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("damage", WAYS, ids=lambda way: way.__name__)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(run_dir, damage, capsys):
    damage(run_dir / "checkpoints" / "rolling" / "3")
    with pytest.raises(UserError, match=rf"rolling/3 cannot be read: .*{WAYS[damage]}.* go back to step 2"):
        Checkpoints(run_dir, write=False).restore(STATE)
    with Checkpoints(run_dir, keep=3) as checkpoints:
        with pytest.raises(UserError, match="rolling/3 cannot be read"):
            checkpoints.restore_newest(STATE, fall_back=False)
        assert checkpoints.steps() == [1, 2, 3]
        assert states.same(checkpoints.restore_newest(STATE, fall_back=True), states.make_state(2))
        said = capsys.readouterr().err
        assert "rolling/3 cannot be read" in said
        assert "moved to" in said and "goes on from step 2" in said
        assert (run_dir / "checkpoints" / "damaged" / "3").is_dir()
        checkpoints.save(states.make_state(3), 3)
    assert states.same(Checkpoints(run_dir, write=False).restore(STATE), states.make_state(3))


def test_where_every_checkpoint_is_damaged_nothing_is_moved(run_dir):
    for step in (1, 2, 3):
        states.flip_a_bit(run_dir / "checkpoints" / "rolling" / str(step))
    with Checkpoints(run_dir, keep=3) as checkpoints:
        with pytest.raises(UserError, match="rolling/3 cannot be read"):
            checkpoints.restore_newest(STATE, fall_back=True)
        assert checkpoints.steps() == [1, 2, 3]


@pytest.mark.parametrize("content", [None, b"", b"{", b'{"state": 3}', b"[]"])
def test_a_checkpoint_without_readable_checksums_is_used_as_it_is(run_dir, content):
    path = run_dir / "checkpoints" / "rolling" / "3" / "checksums.json"
    path.unlink() if content is None else path.write_bytes(content)
    assert states.same(Checkpoints(run_dir, write=False).restore(STATE), states.make_state(3))


def test_without_its_checksums_a_flipped_bit_goes_unnoticed(run_dir):
    """Why there are checksums; if this fails, Orbax has learnt it."""
    step = run_dir / "checkpoints" / "rolling" / "3"
    (step / "checksums.json").unlink()
    states.flip_a_bit(step)
    assert not states.same(Checkpoints(run_dir, write=False).restore(STATE), states.make_state(3))


def test_a_save_that_was_cut_short_is_no_checkpoint(run_dir):
    rolling = run_dir / "checkpoints" / "rolling"
    (rolling / "3").rename(rolling / "3.orbax-checkpoint-tmp")
    assert states.same(Checkpoints(run_dir, write=False).restore(STATE), states.make_state(2))
    with Checkpoints(run_dir, keep=3) as checkpoints:
        assert checkpoints.steps() == [1, 2]
    assert not (rolling / "3.orbax-checkpoint-tmp").exists()


def test_a_damaged_best_loss_is_replaced(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save_best(states.make_state(1), 1, 0.5)
        checkpoints.best.wait_until_finished()
        (tmp_path / "checkpoints" / "best" / "1" / "loss" / "metadata").write_text("{torn")
        checkpoints.save_best(states.make_state(2), 2, 0.9)
    assert states.same(Checkpoints(tmp_path, write=False, keep=1).restore_best(STATE), states.make_state(2))


def test_the_best_by_another_measurement_is_replaced(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        for step, loss, of in (
            (1, 0.01, "validation/loss"),
            (2, 5.0, "frechet"),
            (3, 0.5, "frechet"),
            (4, 2.0, "frechet"),
        ):
            checkpoints.save_best(states.make_state(step), step, loss, of)
        checkpoints.best.wait_until_finished()
        assert list(checkpoints.best.all_steps()) == [3]


def test_a_full_disk_costs_one_checkpoint_and_not_the_run(tmp_path, capsys, echoes):
    with Checkpoints(tmp_path, keep=3) as checkpoints:
        checkpoints.save_last(states.make_state(1), 1)
        with files_of_at_most(20_000):
            checkpoints.save(states.make_state(2), 2)  # the next save tells
            checkpoints.save(states.make_state(3), 3)
            with pytest.raises(RunError, match=r"step, 4, could not be saved .* goes on from step 1"):
                checkpoints.save_last(states.make_state(4), 4)
        assert states.same(checkpoints.restore(STATE), states.make_state(1))
        checkpoints.save_last(states.make_state(5), 5)
        assert checkpoints.steps() == [1, 5]
    said = capsys.readouterr().err
    assert said.count("A checkpoint could not be written") == 4
    assert "the next save tries again. The last good checkpoint is step 1." in said
    assert not list((tmp_path / "checkpoints" / "rolling").glob("*tmp*"))
    assert states.same(Checkpoints(tmp_path, write=False).restore(STATE), states.make_state(5))


@cases(40)
@given(data=st.data())
def test_fuzzed_checkpoint_folders(tmp_path_factory, echoes, data):
    """With checksums, any accident is noticed; without them it still ends in a sentence or a state."""
    root = tmp_path_factory.getbasetemp() / "fuzzed"
    if not (root / "good").exists():
        with Checkpoints(root / "good") as checkpoints:
            checkpoints.save_last(states.make_state(1), 1)
    shutil.rmtree(root / "bad", ignore_errors=True)
    shutil.copytree(root / "good", root / "bad")
    step = root / "bad" / "checkpoints" / "rolling" / "1"
    files = sorted(p for p in step.rglob("*") if p.is_file())
    victim = data.draw(st.sampled_from(files), label="file")
    content = victim.read_bytes()
    change = data.draw(st.sampled_from(["damage", "damage", "delete"]), label="change")
    victim.unlink() if change == "delete" else victim.write_bytes(data.draw(damaged(content)))
    sealed = data.draw(st.booleans(), label="with checksums")
    if not sealed:
        (step / "checksums.json").unlink(missing_ok=True)
    found = []
    said = complaint(lambda: found.append(Checkpoints(root / "bad", write=False).restore(STATE)))
    if not sealed or not victim.is_relative_to(step / "state"):
        assert said or found
    elif victim.exists() and victim.read_bytes() == content:
        assert found
    else:
        assert "cannot be read" in said

"""Background threads that fail or die, and clocks that jump."""

import itertools
import json
import math
import threading
import time

import numpy as np
import pytest

from unified_jax.data.pipeline import HostBatch
from unified_jax.data.prefetch import Prefetcher
from unified_jax.errors import RunError
from unified_jax.runs.metrics import Clock, MetricsWriter, Progress, read_lines
from unified_jax.runs.tensorboard import Appender


def test_items_come_in_order_and_never_too_many_ahead():
    made = []

    def make(index):
        time.sleep(0.002 * (index % 3))
        made.append(index)
        return index

    stream = Prefetcher(make, 5, threads=3, buffer=4)
    assert list(itertools.islice(stream, 20)) == list(range(5, 25))
    time.sleep(0.05)
    assert max(made) <= 24 + 4
    stream.close()
    assert not any(thread.is_alive() for thread in stream.threads)


@pytest.mark.parametrize(
    ("error", "expected", "words"),
    [
        (ValueError("torn"), ValueError, "torn"),
        (SystemExit(0), RunError, "failed with SystemExit"),
        (KeyboardInterrupt(), RunError, "failed with KeyboardInterrupt"),
    ],
)
def test_a_loader_that_raises_is_an_error_for_its_item(error, expected, words):
    def make(index):
        if index == 3:
            raise error
        return index

    stream = Prefetcher(make, 0)
    assert [next(stream) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(expected, match=words):
        next(stream)
    stream.close()


class Dying(Prefetcher):
    """Its threads end as if they were killed: without a word, one of them with an item in hand."""

    def _work(self):
        with self.changed:
            self.owners[self.claimed] = threading.current_thread()
            self.claimed += 1


def test_a_loader_whose_threads_died_is_an_error_and_not_a_hang():
    for first in (0, 7):
        with pytest.raises(RunError, match=f"ended before item {first}; start the same command again"):
            next(Dying(lambda index: index, first))
    orphan = Dying(lambda index: index, 0)
    orphan.owners.clear()
    with pytest.raises(RunError, match="ended before item 0"):
        next(orphan)


JUMPS = (0.0, -1e9, 1e9, 5.0, 5.0, float(-(2**40)), 0.0, 1e12, 3.0, 2.0, 1.0, 1.5)


def test_clock_jumps_give_finite_positive_rates(monkeypatch, tmp_path, capsys):
    times = itertools.cycle(JUMPS)
    for name in ("time", "perf_counter", "monotonic"):
        monkeypatch.setattr(time, name, lambda: next(times))
    clock, writer, progress = Clock(), MetricsWriter(tmp_path, 0), Progress(50, 0, show=True)
    for step in range(1, 50):
        before = time.perf_counter()
        clock.wait(time.perf_counter() - before)
        values = clock.read(8, 1e9, 1e12)
        assert all(math.isfinite(v) and v >= 0 for v in values.values()), values
        assert values["time/data_wait_share"] <= 1
        writer.write(step, values)
        progress.update(step, values)
    seconds, share = clock.whole()
    assert seconds > 0 and 0 <= share <= 1
    progress.close()
    writer.close()
    monkeypatch.undo()
    assert len(read_lines(tmp_path / "metrics.jsonl")) == 49
    assert "nan" not in capsys.readouterr().err.lower()


def test_a_clock_goes_on_from_the_seconds_of_earlier_processes():
    clock = Clock(before=1e4)
    clock.wait(1e3)  # more than has passed
    assert 1e4 < clock.read(8, 1e9, None)["time/seconds"] < 1e4 + 60
    assert clock.whole()[1] == 1.0  # of this process's own seconds


def test_tensorboard_events_read_back_and_hide_what_a_resumed_run_repeats(tmp_path):
    for first in (0, 2):
        writer = MetricsWriter(tmp_path, first)
        for step in range(first + 1, first + 4):
            values = {"loss": 1.0 / step, "loss_by_time": [0.5, None], "loss_by_time/film": [None, 0.25]}
            writer.write(step, values | {"examples": [0, 1, 2]})
        writer.close()
    files = sorted((tmp_path / "tensorboard").iterdir())
    assert [path.name.split(".")[3] for path in files] == ["0000000001", "0000000002"]
    events = [events_of(path) for path in files]
    assert [e.step for e in events[1]] == [0, 3, 3, 4, 5]
    assert events[1][1].session_log.status == 1
    tags = {value.tag: value.simple_value for value in events[1][2].summary.value}
    assert tags == {"loss": pytest.approx(1 / 3), "loss_by_time/00": 0.5, "loss_by_time/film/01": 0.25}


def events_of(path):
    """The events of a file, their checksums compared."""
    import struct

    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c

    data, found = path.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        body = data[12 : 12 + length]
        assert struct.unpack("<I", data[8:12])[0] == masked_crc32c(data[:8])
        assert struct.unpack("<I", data[12 + length : 16 + length])[0] == masked_crc32c(body)
        found.append(Event.FromString(body))
        data = data[16 + length :]
    return found


def test_lines_that_the_disk_refuses_are_kept_and_written_later(tmp_path, monkeypatch, capsys):
    import os

    writer, real, room = MetricsWriter(tmp_path, 0), os.write, [True]

    def write(descriptor, data):
        if room[0]:
            return real(descriptor, data)
        if len(data) > 10:
            return real(descriptor, data[:10])  # a disk that fills up takes a piece of a line
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", write)
    for step in range(1, 7):
        room[0] = step not in (2, 3, 4)
        writer.write(step, {"loss": 0.5})
    room[0] = False
    batch = HostBatch({}, np.arange(3), 0)
    writer.write_non_finite(6, batch, {"loss": None})
    writer.close()
    assert [line["step"] for line in read_lines(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6]
    said = capsys.readouterr().err
    assert said.count("its lines are kept and tried again") == 2
    assert "is written again; no line was lost" in said
    assert "non_finite.jsonl lacks its last 1 line(s)" in said
    monkeypatch.undo()
    file = Appender(tmp_path / "metrics.jsonl")
    assert file.append(json.dumps({"step": 7}).encode()) is None
    file.close()

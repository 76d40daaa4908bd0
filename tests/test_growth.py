"""Slopes of cost against size, and what they are compared with."""

import numpy as np
import pytest


@pytest.fixture
def growth(root, monkeypatch):
    """The script, which is no module of the package."""
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    import growth

    return growth


def test_the_slope_is_that_of_a_power_law_and_fixed_cost_does_not_hide_a_steeper_end(growth):
    sizes = np.asarray([64, 256, 1024, 4096])
    assert growth.slope(sizes, 3e-4 * sizes**1.5) == pytest.approx(1.5)
    hidden = 1.0 + 1e-6 * sizes**2.0
    assert growth.slope(sizes, hidden) > 1.2 > float(np.polyfit(np.log(sizes), np.log(hidden), 1)[0])
    assert growth.slope([1, 2], [1.0, 4.0]) == pytest.approx(2.0)


@pytest.mark.parametrize(("power", "holds"), [(1.0, True), (1.09, True), (1.2, False)])
def test_a_cost_may_grow_a_tenth_steeper_than_its_flops(growth, power, holds):
    def rows(flops):
        return [{"size": n, "seconds": 1e-3 * n**power, "flops": flops(n), "memory": 8 * n} for n in (1, 2, 4, 8)]

    counted = growth.judged(growth.Axis("step", (), (), lambda n: None), rows(lambda n: 5.0 * n))
    assert (counted["wanted"], counted["slope_memory"], counted["holds"]) == (1.0, 1.0, holds)
    stated = growth.judged(growth.Axis("reading", (), (), lambda n: None, wanted=0.0), rows(lambda n: None))
    assert stated["wanted"] == 0.0 and not stated["holds"]


def test_every_size_is_timed_and_the_minimum_counts(growth, monkeypatch, capsys):
    ticks = iter(np.cumsum([0, 9, 0, 2, 0, 5, 0, 4, 0, 8, 0, 7]))  # two rounds and three sizes, in pairs
    monkeypatch.setattr(growth.time, "perf_counter", lambda: next(ticks))
    calls = []
    axis = growth.Axis("step", (), (), lambda n: growth.Point(lambda: calls.append(n), flops=float(n)))
    found = growth.measure(axis, (1, 2, 4), rounds=2)
    assert [row["seconds"] for row in found["rows"]] == [2, 4, 7]
    assert calls == [1, 1, 1, 2, 2, 2, 4, 4, 4]  # each once before it is timed
    assert "step, 4" in capsys.readouterr().out


def test_the_table_says_what_was_not_measured_and_what_does_not_hold(growth, monkeypatch):
    import pages

    monkeypatch.setattr(pages, "whole", lambda name: {})
    assert "not measured" in "\n".join(pages.growth())
    one = {"what": "step", "rows": [{"size": 1}, {"size": 2048}], "slope_seconds": 1.31, "wanted": 1.2}
    held = {"axes": {"a": one | {"slope_memory": None, "holds": False}}}
    monkeypatch.setattr(pages, "whole", lambda name: held)
    assert "step | 1 to 2,048 | 1.31 | 1.20 |  | no" in "\n".join(pages.growth())

"""The any-to-any matrix: perfect answers score 1, wrong ones what they should, and Holm's correction by hand."""

import numpy as np
import pytest

from unified_jax.data.base import prepare_example
from unified_jax.data.world import World
from unified_jax.data.world.scene import ATTRIBUTES
from unified_jax.evaluation import matrix
from unified_jax.evaluation.finite import check_figures
from unified_jax.modalities.action import Action
from unified_jax.modalities.audio import Audio
from unified_jax.modalities.image import Image
from unified_jax.modalities.points import Points
from unified_jax.modalities.text import Text
from unified_jax.modalities.video import Video

MODALITIES = (Text(), Image(32, 32, 3, 8), Video(), Audio(), Points(), Action())
NAMES = tuple(m.name for m in MODALITIES)


@pytest.fixture(scope="module")
def scenes():
    source = World(max_objects=1).source("test", NAMES)
    found = [prepare_example("world", i, source[i], MODALITIES) for i in range(24)]
    truth = {name: np.asarray([getattr(source.scene(i).objects[0], name) for i in range(24)]) for name, _ in ATTRIBUTES}
    return truth, {name: np.stack([one[name] for one in found]) for name in NAMES}


def opened(raw):
    return {m.name: m.from_model(raw[m.name]) if isinstance(m, Text) else raw[m.name] for m in MODALITIES}


@pytest.fixture
def read_once(monkeypatch):
    """Arrays that come back in many requests are read once."""
    known, read = {}, matrix.read

    def remembered(modality, examples):
        key = modality.name, id(examples)
        if key not in known:
            known[key] = read(modality, examples), examples  # which is kept, so that no other takes its id
        return known[key][0]

    monkeypatch.setattr(matrix, "read", remembered)


@pytest.mark.usefixtures("read_once")
def test_true_renders_score_one(scenes):
    truth, raw = scenes
    people = opened(raw)
    apart = (("image", "points"),)
    rows = matrix.evaluate_split(
        MODALITIES, truth, raw, "test", lambda given, wanted: {n: people[n] for n in wanted}, apart
    )
    scored = [row for row in rows if row["value"] is not None]
    assert {row["value"] for row in scored} == {1.0}
    assert all(row["above_chance"] for row in scored)
    asked = {(tuple(row["given"]), tuple(row["wanted"])) for row in rows}
    assert (("action",), ("audio",)) not in asked  # they show nothing in common
    # Both directions of 15 pairs but one, all others to each, and together: every pair but one, and everything.
    assert len(asked) == 6 * 5 - 2 + 6 + 14 + 1
    never = {(*row["given"], *row["wanted"]) for row in rows if row.get("never_together")}
    assert never == {("image", "points"), ("points", "image")}
    assert "1.00*" in matrix.table(rows, NAMES)
    text = matrix.table(rows, NAMES)
    assert "1.00" in text
    assert "everything e" in text
    assert matrix.heat_map(rows, NAMES).size[0] > 400


def test_wrong_answers_score_what_they_should(scenes):
    truth, raw = scenes
    shifted = {name: np.roll(value, 1, axis=0) for name, value in opened(raw).items()}
    given = [matrix.read(MODALITIES[1], raw["image"])]
    values, chances = matrix.scores(truth, given, matrix.read(MODALITIES[2], shifted["video"]))
    names = ("shape", "colour", "size", "place")
    by_hand = np.mean([truth[name] == np.roll(truth[name], 1) for name in names], axis=0)
    np.testing.assert_allclose(values, by_hand)
    np.testing.assert_allclose(chances, np.mean([1 / 6, 1 / 8, 1 / 3, 1 / 9]))
    empty = matrix.read(MODALITIES[1], np.zeros_like(raw["image"]))
    assert matrix.scores(truth, given, empty)[0].max() == 0
    nonsense = matrix.read(MODALITIES[0], np.asarray(["gibberish"] * 24))
    assert matrix.scores(truth, given, nonsense)[0].max() == 0
    named = matrix.read(MODALITIES[0], np.asarray(["a red object"] * 24))
    np.testing.assert_array_equal(matrix.scores(truth, given, named)[0], truth["colour"] == 0)


def test_consistency(scenes):
    _, raw = scenes
    people = opened(raw)
    made = {name: matrix.read(m, people[name]) for m, name in zip(MODALITIES[1:3], NAMES[1:3], strict=True)}
    assert matrix.consistency(made)[0].tolist() == [1.0] * 24
    made["audio"] = matrix.read(MODALITIES[3], np.zeros((24, 8000)))
    agree, _ = matrix.consistency(made)
    np.testing.assert_allclose(agree, 4 / (4 + 3 + 3))


def test_holm_by_hand():
    rows = [{"value": 0.5, "p": p} for p in (0.04, 0.001, 0.03, 0.012)]
    matrix.correct([*rows, {"value": None, "p": 1.0}])
    assert [row["above_chance"] for row in rows] == [
        False,
        True,
        False,
        True,
    ]  # 0.001 <= .05/4, 0.012 <= .05/3, 0.03 > .05/2


def test_a_row_has_an_interval_and_a_p_value():
    rng = np.random.default_rng(0)
    found = (rng.random(400) < 0.5).astype(float), np.full(400, 0.25)
    row = matrix.make_row(("a",), ("b",), "test", "attribute_accuracy", found)
    assert row["low"] < row["value"] < row["high"]
    assert row["p"] < 1e-10
    assert matrix.make_row(("a",), ("b",), "test", "m", (found[1], found[1]))["p"] == pytest.approx(0.5, abs=0.01)
    empty = matrix.make_row(("a",), ("b",), "test", "m", (np.zeros(0), np.zeros(0)))
    assert empty["value"] is None
    check_figures([empty])  # of no sample, and no fault
    for n, least in ((1, 0.05), (2, 0.01), (3, 1e-3)):  # all right by chance: 1/3, 1/9, 1/27
        assert least < matrix.make_row(("a",), ("b",), "test", "m", (np.ones(n), np.full(n, 1 / 3)))["p"] < 0.34

"""Scores: true renders of captions are right, others are not; a custom score is used, an unsuitable one refused."""

import dataclasses
from dataclasses import dataclass

import jax
import numpy as np
import pytest

import unified_jax as uj
from tests.helpers import MODEL
from unified_jax.data.pipeline import Pipeline
from unified_jax.data.world import World
from unified_jax.data.world.render import render_image
from unified_jax.errors import UserError
from unified_jax.evaluation.evaluate import bits_row, label_rows, rows_of, scores_for
from unified_jax.evaluation.scores import PixelFrechet, Samples, WorldAttributes, WorldCaptions
from unified_jax.modalities.label import Label
from unified_jax.modalities.text import Text
from unified_jax.models.stages import Stage
from unified_jax.models.streams import Condition
from unified_jax.models.text_classifier import TextClassifier
from unified_jax.models.text_encoder import TextEncoder
from unified_jax.networks.bert import Bert
from unified_jax.runs.bench import Bench
from unified_jax.runs.evaluate import _evaluate_labels

TEXT, WORLD = Text(160), World(resolution=32)
ENCODER = TextClassifier(
    TextEncoder(Bert(vocabulary=256, length=160, width=8, depth=1, heads=2, hidden=8), TEXT), (Label("count", 3),)
)
READER = dataclasses.replace(MODEL, conditions=(Condition(TEXT, encoder=Stage("text", ENCODER, "somewhere")),))


@pytest.fixture(scope="module")
def examples():
    source = WORLD.source("test", ("caption", "image", "count"))
    found = [source[i] for i in range(48)]
    return {name: np.stack([one[name] for one in found]) for name in ("image", "count")} | {
        "caption": np.stack([TEXT.prepare(str(one["caption"])) for one in found])
    }


def scored(examples, made, **changed):
    given = {"caption": examples["caption"]} | changed
    samples = Samples("test", READER, given, "image", examples["image"], made)
    return {row["metric"]: row["value"] for row in rows_of(samples, (WorldCaptions(),))}


def test_true_renders_are_right_and_others_are_not(examples):
    images, count = examples["image"], examples["count"]
    true = scored(examples, images)
    assert true["attribute_accuracy"] > 0.97 and true["count_accuracy"] > 0.97
    other = scored(examples, np.roll(images, 1, axis=0))
    assert other["attribute_accuracy"] < 0.4
    assert other["count_accuracy"] == pytest.approx((np.roll(count, 1) == count).mean(), abs=0.05)
    # A picture with the first object twice, side by side, has another number of objects: all of it counts as wrong.
    one = count == 1
    doubled = np.where(one[:, None, None, None], np.concatenate([images[:, ::2], images[:, ::2]], axis=1), images)
    assert scored(examples, doubled)["count_accuracy/1"] < 0.2
    assert scored(examples, doubled)["count_accuracy/2"] == true["count_accuracy/2"]


def test_two_right_colours_at_the_wrong_shapes_are_not_bound(examples):
    """Colours of both objects swapped: their number, shapes and places are right, and so are the colours that occur."""
    swapped = []
    for i in range(48):
        scene = WORLD.source("test", ()).scene(i)
        colours = [one.colour for one in scene.objects][::-1]
        pairs = zip(scene.objects, colours, strict=True)
        objects = tuple(dataclasses.replace(one, colour=colour) for one, colour in pairs)
        swapped.append(render_image(dataclasses.replace(scene, objects=objects), 32))
    true, other = scored(examples, examples["image"]), scored(examples, np.stack(swapped))
    assert min(true[f"binding/{name}"] for name in ("colour", "size", "place")) > 0.95
    assert other["binding/colour"] < 0.05 and other["count_accuracy"] > 0.97
    assert (other["binding/place"], other["binding/size"]) == (true["binding/place"], true["binding/size"])


@dataclass(frozen=True)
class Brightness:
    """The mean of all pixels."""

    def suits(self, data, model):
        """Everything suits."""
        return ""

    def __call__(self, samples):
        """One row."""
        return [
            {"metric": "brightness", "value": float(samples.made.mean()), "low": None, "high": None, "chance": None}
        ]


def test_scores_are_chosen_by_what_suits_or_by_the_experiment(examples):
    assert scores_for((), WORLD, READER) == (WorldCaptions(), PixelFrechet())
    assert scores_for((), World(max_objects=1), MODEL) == (WorldAttributes(), PixelFrechet())
    assert scores_for((Brightness(),), WORLD, MODEL) == (Brightness(),)
    with pytest.raises(UserError, match=r"The score WorldAttributes does not suit this run: it reads the world of one"):
        scores_for((WorldAttributes(),), WORLD, READER)
    (row,) = rows_of(Samples("test", READER, {}, "image", examples["image"], examples["image"]), (Brightness(),))
    assert (row["metric"], row["split"], row["wanted"]) == ("brightness", "test", ["image"])
    assert row["given"] == []  # what was given, not all that could be


def test_labels_that_a_model_predicts_are_scored(examples):
    params = ENCODER.init(jax.random.key(0))
    always_two = {**params, "heads": {"count": {**params["heads"]["count"], "bias": np.asarray([0.0, 0.0, 9.0, 0.0])}}}
    rows = label_rows(ENCODER, always_two, examples, "test")
    share = (examples["count"] == 2).mean()
    assert [(row["metric"], row["value"]) for row in rows] == [("label_accuracy", share), ("accuracy/count", share)]
    assert rows[1]["chance"] == pytest.approx(max(share, 1 - share))
    assert label_rows(ENCODER, always_two, examples, "test", rows=3) == rows


def test_no_example_of_a_split_counts_twice(monkeypatch):
    """Of a test split of six pictures, 512 asked for."""
    params = ENCODER.init(jax.random.key(0))
    experiment = uj.Experiment(model=ENCODER, data=WORLD)
    bench = Bench(experiment, params, 512, 4, 0, experiment.preview.plan, show=False)
    monkeypatch.setattr(Pipeline, "size", 6)
    rows = _evaluate_labels(bench, ("test", "held_out"))
    assert [(row["split"], row["n"]) for row in rows] == [(s, 6) for s in ("test", "held_out") for _ in range(2)]


def test_captions_that_cannot_be_read_are_not_scored(examples):
    """Cut within a word, or of another world: the figures are those of the others, and say how many these are."""
    captions, made = examples["caption"].copy(), examples["image"]
    captions[::3] = TEXT.prepare("a red car to the ri")
    found = WorldCaptions()(Samples("test", READER, {"caption": captions}, "image", made, made))
    rest = np.arange(48) % 3 > 0
    given = {"caption": examples["caption"][rest]}
    assert found == WorldCaptions()(Samples("test", READER, given, "image", made[rest], made[rest]))
    assert next(row["n"] for row in found if row["metric"] == "count_accuracy") == 32
    captions[:] = captions[0]
    assert WorldCaptions()(Samples("test", READER, {"caption": captions}, "image", made, made)) == []


def test_scores_of_what_is_not_given_are_left_out(examples):
    """`evaluate --only` gives some conditions; what a picture of others shows cannot be right or wrong."""
    made = examples["image"]
    assert WorldCaptions()(Samples("test", READER, {}, "image", made, made)) == []
    rows = WorldAttributes()(Samples("test", READER, {}, "image", made, made))
    assert [row["metric"] for row in rows] == ["count_accuracy"]


def test_bits_of_one_example_have_no_interval():
    row = bits_row(np.asarray([3.0]), READER, "test")
    assert (row["value"], row["low"], row["high"], row["n"]) == (3.0, None, None, 1)

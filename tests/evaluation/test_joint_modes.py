"""Total variation against the world's own distribution, round trips and readable shares, on samples that are known."""

import numpy as np
import pytest

from unified_jax.data.world import World
from unified_jax.evaluation import joint_modes
from unified_jax.evaluation.joint_modes import JOINT, expected, kept_row, readable_row, total_variation, tv_rows
from unified_jax.evaluation.matrix import VALUES


def scenes(count, split="train"):
    source = World(max_objects=1).source(split, ())
    objects = [source.scene(i).objects[0] for i in range(count)]
    return {name: np.asarray([getattr(one, name) for one in objects]) for name in JOINT}


def found_of(values):
    return {name: (value, np.ones(len(value), bool)) for name, value in values.items()}


def test_the_probabilities_are_those_of_the_worlds_scenes():
    values = scenes(6000)
    for names in (("shape",), ("place", "colour"), ("size", "shape")):
        p = expected(names)
        assert p.shape == tuple(VALUES[name] for name in names) and p.sum() == pytest.approx(1)
        counts = np.zeros(p.shape)
        np.add.at(counts, tuple(values[name] for name in names), 1)
        np.testing.assert_allclose(counts / 6000, p, atol=5 * np.sqrt(p.max() / 6000))
    assert expected(("shape", "colour")).min() < expected(("shape", "colour")).max()  # some combinations are held out


def test_an_exact_sampler_lies_at_its_floor_and_a_chain_that_returns_its_input_far_above():
    rows = tv_rows(found_of(scenes(1000)), ("caption",), "image", "test", "gibbs_tv")
    assert {row["metric"] for row in rows} >= {"gibbs_tv/shape", "gibbs_tv/colour_place"} and len(rows) == 10
    assert joint_modes.excess(rows, "gibbs_tv") < 0.02
    still = {name: np.repeat(value[:1], 1000) for name, value in scenes(1).items()}
    rows = tv_rows(found_of(still), ("caption",), "image", "test", "gibbs_tv")
    assert min(row["value"] + row["floor"] for row in rows) > 0.6
    half = scenes(1000) | {"colour": np.repeat(scenes(1)["colour"], 1000)}  # one attribute never leaves its start
    assert joint_modes.excess(tv_rows(found_of(half), (), "image", "test", "tv"), "tv/colour") > 0.8


def test_what_cannot_be_read_counts_as_lost():
    values = scenes(1000)["place"]
    whole = total_variation(("place",), [values])[0]
    lost = total_variation(("place",), [np.where(np.arange(1000) < 300, -1, values)])[0]
    assert lost == pytest.approx(0.3, abs=0.03) and whole < 0.08
    row = readable_row({"place": (np.where(np.arange(1000) < 300, -1, values), np.ones(1000, bool))}, "image", "test")
    assert (row["value"], row["n"], row["metric"]) == (0.7, 1000, "readable")


def test_a_round_trip_is_scored_on_what_its_middle_says():
    nothing = np.zeros(2, bool)
    between = {name: (np.asarray([1, 2]), nothing) for name in VALUES} | {
        "colour": (np.asarray([1, 2]), np.ones(2, bool)),
        "place": (np.asarray([1, 2]), np.asarray([True, False])),
    }
    last = found_of({"colour": np.asarray([1, 0]), "place": np.asarray([5, 5]), "shape": np.asarray([0, 0])})
    row = kept_row(between, last, ("image", "caption"), "test")
    assert row["value"] == pytest.approx((0.5 + 0.0) / 2)  # colour right and place wrong, then colour wrong alone
    assert (row["given"], row["wanted"], row["through"]) == (["image"], ["image"], "caption")


def test_a_round_trip_may_choose_what_its_start_left_out():
    """A caption that names a colour, a picture of some shape, and a caption of that picture: nothing is lost."""
    drawn = found_of({"colour": np.asarray([1, 2]), "shape": np.asarray([4, 5])})
    assert kept_row(drawn, drawn, ("caption", "image"), "test")["value"] == 1.0
    other = found_of({"colour": np.asarray([1, 2]), "shape": np.asarray([4, 0])})
    assert kept_row(drawn, other, ("caption", "image"), "test")["value"] == 0.75

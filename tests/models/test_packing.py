"""The policy of documents by its rates and orders, and positions of spans of one, two and three axes."""

import numpy as np
import pytest

from unified_jax.data.packing import Documents, Packer, choose_items, token_positions
from unified_jax.modalities.action import Action
from unified_jax.modalities.image import Image
from unified_jax.modalities.label import Label
from unified_jax.modalities.text import Text
from unified_jax.modalities.video import Video

MODALITIES = (Text(3), Image(4, 4, 3, 2), Action(), Label("digit", 10))
RECORD = {"caption": np.asarray([7, 8, 9], np.int32), "digit": np.asarray(4)}
WRITTEN, IMAGE, ACTION = {0, 3}, 1, 2


def documents(count=400, **fields):
    """Items of many documents."""
    policy = Documents(**fields)
    return [choose_items(policy, MODALITIES, RECORD, np.random.default_rng(i)) for i in range(count)]


def orders(found):
    return [[item.modality for item in items] for items in found]


def test_what_is_kept_and_given_clean_has_rates_of_its_own():
    found = documents(keep=0.8, keep_of=(("image", 0.3),), clean=0.1, clean_of=(("action", 0.7),))
    there = {m: np.mean([m in order for order in orders(found)]) for m in range(4)}
    assert there == pytest.approx({0: 0.8, IMAGE: 0.3, ACTION: 0.8, 3: 0.8}, abs=0.08)
    clean = {m: np.mean([i.clean for items in found for i in items if i.modality == m]) for m in (IMAGE, ACTION)}
    assert clean == pytest.approx({IMAGE: 0.1, ACTION: 0.7}, abs=0.08)


def test_all_are_there_as_often_as_whole_says():
    found = orders(documents(keep=0.5, whole=0.4))
    assert np.mean([len(order) == 4 for order in found]) == pytest.approx(0.4 + 0.6 * 0.5**4, abs=0.08)


def test_texts_come_first_or_last_by_chance():
    for fields, front, back in (({"text_first": 1.0}, 1.0, 0.0), ({"text_last": 1.0}, 0.0, 1.0), ({}, 1 / 6, 1 / 6)):
        found = orders(documents(**fields))
        assert np.mean([set(order[:2]) == WRITTEN for order in found]) == pytest.approx(front, abs=0.08)
        assert np.mean([set(order[2:]) == WRITTEN for order in found]) == pytest.approx(back, abs=0.08)
    assert orders(documents(5, order="given")) == [[0, 1, 2, 3]] * 5


def test_of_a_pair_that_is_apart_the_later_one_is_left_out():
    both, found = orders(documents(60)), orders(documents(60, apart=(("image", "action"),)))
    for whole, order in zip(both, found, strict=True):
        first, later = sorted((IMAGE, ACTION), key=whole.index)
        assert order == [m for m in whole if m != later]
        assert first in order


def test_the_ids_of_a_document_are_those_of_its_texts():
    packer = Packer(MODALITIES, 40, Documents(order="given", per_row=1))
    spans = {m.name: m.blank() for m in MODALITIES[1:3]}
    arrays = packer.pack([RECORD | spans], np.zeros(1, np.int32), 0, 0)
    words, ids = packer.vocabulary, arrays["ids"][0, : arrays["used"][0]].tolist()
    text, label = ([words.first[m] + one for one in values] for m, values in ((0, (7, 8, 9)), (3, (4,))))
    assert ids[:6] == [words.bos, words.begin(0), *text, words.end(0)]
    assert ids[-4:] == [words.begin(3), *label, words.end(3), words.eos]
    assert label[0] >= MODALITIES[0].vocabulary  # a label's ids are not the text's


def test_one_axis_is_time_two_are_rows_and_columns():
    steps = token_positions(Action())
    assert (steps[:, 0] == np.arange(len(steps))).all()
    assert not steps[:, 1:].any()
    assert token_positions(Image(4, 6, 3, 2)).tolist() == [[0, r, c] for r in range(2) for c in range(3)]
    found = token_positions(Video(4, 16, 16, 3, (2, 8, 8)))
    assert found[:4].tolist() == [[0, r, c] for r in range(2) for c in range(2)]
    assert found[4].tolist() == [1, 0, 0]

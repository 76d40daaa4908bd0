"""Texts that are too long or empty: refused, cropped or left out, by a rule that knows neither step nor process."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from unified_jax.data import texts
from unified_jax.data.pipeline import PART_BITS, Pipeline
from unified_jax.errors import UserError
from unified_jax.modalities.label import Label
from unified_jax.modalities.text import Text, learn_bpe

WORDS = ("ring", "a ring that is far too long", "star", "  \n", "moon", "sun", "漢字漢字漢字", "box", "arc", "dot")
SHORT = (0, 2, 4, 5, 7, 8, 9)
"""Those of at most eight bytes that are not empty."""


@dataclass(frozen=True)
class Captions:
    """A set of captions, each with its number; `light` as that of a TFDS set."""

    words: tuple[str, ...] = WORDS
    light: ClassVar[bool] = False
    name: str = "captions"

    def parts(self, split, fields):
        return ((1.0, self.name, self),)

    def __len__(self):
        return len(self.words)

    def __getitem__(self, index):
        return {"caption": self.words[index], "label": np.int64(index)}


class LightCaptions(Captions):
    """Whose texts are read in no time."""

    light: ClassVar[bool] = True


def pipeline(text, data=None, rows=None, seed=0):
    return Pipeline(data or Captions(), "train", (text, Label("label", len(WORDS))), 4, seed, rows)


def test_skipping_leaves_records_out_before_the_list_is_shuffled():
    text = Text(8, too_long="skip", empty="skip")
    batches = [pipeline(text).batch(step) for step in range(7)]
    ids = np.concatenate([batch.ids for batch in batches])
    for epoch in range(4):
        assert sorted(ids[7 * epoch : 7 * epoch + 7]) == list(SHORT)
    for batch in batches:  # ids are those of the source, and of what was read
        np.testing.assert_array_equal(batch.arrays["label"], batch.ids & ((1 << PART_BITS) - 1))
        assert [text.decode(row) for row in batch.arrays["caption"]] == [WORDS[i] for i in batch.ids]


def test_skipping_is_the_same_on_every_process_and_after_a_resume():
    text = Text(8, too_long="skip", empty="skip")
    whole = pipeline(text)
    for step in (5, 2):
        cuts = [pipeline(text, rows=rows).batch(step) for rows in np.arange(4, dtype=np.int32).reshape(2, 2)]
        assert all(cut.examples == whole.batch(step).examples for cut in cuts)
        joined = np.concatenate([cut.arrays["caption"] for cut in cuts])
        np.testing.assert_array_equal(joined, whole.batch(step).arrays["caption"])


@pytest.mark.parametrize("too_long", ["skip", "crop"])
def test_a_clean_set_has_the_batches_it_always_had(too_long):
    data = Captions(tuple(WORDS[i] for i in SHORT))
    for step in range(3):
        old, new = (pipeline(t, data).batch(step) for t in (Text(8), Text(8, too_long=too_long, empty="skip")))
        assert old.examples == new.examples
        np.testing.assert_array_equal(old.arrays["caption"], new.arrays["caption"])


def test_refused_texts_are_told_before_the_start_where_that_is_cheap(monkeypatch):
    words = r"'captions': 3 of 10 records have texts that are refused, the first is record 1: .* 8 tokens, found 27"
    with pytest.raises(UserError, match=words + r" in 'a ring.*set too_long to crop or skip"):
        pipeline(Text(8), LightCaptions())
    with pytest.raises(UserError, match=r"1 of 10 records .* record 3: expected a text, found an empty one"):
        pipeline(Text(8, too_long="crop"), LightCaptions())
    for slow in (Captions(), LightCaptions()):
        monkeypatch.setattr(texts, "LOOKED_THROUGH", 9)  # one less than there are
        later = pipeline(Text(8), slow)
        with pytest.raises(UserError, match=r"record \d, field 'caption': .*(too_long to crop or skip|an empty one)"):
            for step in range(3):
                later.batch(step)


def test_a_set_of_which_nothing_is_left_is_refused():
    with pytest.raises(UserError, match="every one of its 1 texts is skipped"):
        pipeline(Text(2, too_long="skip"), Captions(("ring",)))


def test_how_many_were_left_out_is_said(capsys):
    pipeline(Text(8, too_long="skip", empty="skip"), Captions(WORDS[::-1]))
    assert "'captions': 3 of 10 records are left out" in capsys.readouterr().err


def test_cropping_keeps_whole_characters():
    text = Text(8, too_long="crop")
    assert text.decode(text.prepare("a ring that is too long")) == "a ring t"
    assert text.decode(text.prepare("漢字漢字")) == "漢字"
    assert text.decode(text.prepare("abcde漢")) == "abcde漢"
    assert text.decode(text.prepare("abcdef漢")) == "abcdef"
    with pytest.raises(ValueError, match="empty"):
        text.prepare(" " * 9 + "ring")
    bpe = Text(3, learn_bpe(["a ring", "a star"], 300), too_long="crop")
    whole = bpe.encode("a ring漢 a star")
    cut = bpe.decode(bpe.prepare("a ring漢 a star"))
    assert len(whole) > 3
    assert "a ring漢 a star".startswith(cut)
    assert cut


def test_what_was_given_by_hand_is_refused_where_a_set_would_skip():
    with pytest.raises(ValueError, match="at most 8 tokens, found 27"):
        Text(8, too_long="skip").prepare(WORDS[1])


@pytest.mark.parametrize("first", [0, 1])
def test_labels_that_count_from_one_are_refused(first):
    class Labelled(Captions):
        def __getitem__(self, index):
            return {"label": np.int64(index + first)}

    opened = Pipeline(Labelled(), "train", (Label("label", 10),), 10, 0) if not first else None
    if opened:
        assert sorted(opened.batch(0).arrays["label"]) == list(range(10))
        return
    with pytest.raises(UserError, match=r"field 'label': expected an integer in 0 .. 9, found 10; labels count from 0"):
        Pipeline(Labelled(), "train", (Label("label", 10),), 10, 0).batch(0)

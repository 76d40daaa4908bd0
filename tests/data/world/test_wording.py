"""Captions in free words say the same as the grammar's; strange words are refused by the reader."""

import numpy as np
import pytest

from unified_jax.data.world import World
from unified_jax.data.world.caption import read_caption
from unified_jax.data.world.wording import Wording, free_caption, with_strangers


def test_free_captions_say_the_same():
    plain = World().source("train", ("caption",))
    rng, seen = np.random.default_rng(0), set()
    for i in range(2000):
        said = read_caption(str(plain[i]["caption"]))
        text = free_caption(said, rng)
        assert read_caption(text) == said, (text, said)
        seen |= set(text.lower().replace(",", " ").split())
    assert {"huge", "disc", "rhombus", "violet", "upper", "annulus", "center", "stationary"} <= seen


def test_labels_are_those_of_the_words():
    """The source's labels are what its own caption says, in either wording; its words differ from the grammar's."""
    fields = ("caption", "named_shape", "named_place_2")
    free, plain = World(wording=Wording(free=1.0)).source("test", fields), World().source("test", fields)
    different = 0
    for i in range(300):
        one, other = free[i], plain[i]
        assert read_caption(str(one["caption"])) == read_caption(str(other["caption"]))
        assert one["named_shape"] == other["named_shape"] and one["named_place_2"] == other["named_place_2"]
        different += one["caption"] != other["caption"]
    assert different > 280
    assert free[7] == World(wording=Wording(free=1.0)).source("test", fields)[7]


def test_shares():
    source = World(wording=Wording(free=0.5, strange=0.4)).source("train", ("caption",))
    plain = World().source("train", ("caption",))
    same = np.mean([source[i] == plain[i] for i in range(1000)])
    assert 0.45 < same < 0.57  # half, and a few that are worded alike by chance
    refused = 0
    for i in range(1000):
        try:
            read_caption(str(source[i]["caption"]))
        except ValueError as error:
            refused += "is not understood" in str(error)
    assert 120 < refused < 250  # 0.2 of all, less those whose strange words the reader happens to know


def test_strange_words_leave_phrases_whole():
    text = with_strangers("a star moving to the left", np.random.default_rng(0))
    assert "a star moving to the left" in text and len(text.split()) > 6


@pytest.mark.parametrize("wrong", [{"free": 1.5}, {"strange": -0.1}])
def test_shares_lie_in_the_unit_interval(wrong):
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        Wording(**wrong)


def test_a_cache_of_plain_captions_is_not_read(tmp_path, monkeypatch):
    import unified_jax.data.world.source as module

    asked = []
    monkeypatch.setattr(module, "read_cached", lambda folder, split, fields, world, id: asked.append(fields) or {})
    free = World(wording=Wording(free=1.0), cache=str(tmp_path)).source("test", ("caption", "image"))
    assert read_caption(str(free[0]["caption"])) and asked == [("image",)]

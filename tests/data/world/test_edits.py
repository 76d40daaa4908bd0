"""Edits: the instruction says what changes, nothing else does, and no split sees another's combinations."""

import numpy as np
import pytest

from unified_jax.data.world import World
from unified_jax.data.world.edits import EDITED
from unified_jax.data.world.read import read_image
from unified_jax.data.world.scene import ATTRIBUTES, held_out
from unified_jax.evaluation.edits import score_edits


@pytest.mark.parametrize("jitter", [False, True], ids=["finite", "jitter"])
def test_one_attribute_changes_and_is_named(jitter):
    world = World(max_objects=1, jitter=jitter)
    source = world.source("train", ("image", "instruction", "edited"))
    seen = set()
    for i in range(300):
        record, (edit, after) = source[i], source.edit(i)
        before, changed = source.scene(i).objects[0], after.objects[0]
        differ = {name for name in (*EDITED, "motion") if getattr(before, name) != getattr(changed, name)}
        assert differ == {edit.attribute}
        assert not held_out(changed.shape, changed.colour, changed.size)
        assert record["instruction"] == edit.instruction
        assert dict(ATTRIBUTES)[edit.attribute][edit.value] in edit.instruction
        seen.add(edit.attribute)
    assert seen == set(EDITED)


def test_the_picture_after_it_is_read_as_asked():
    world = World(resolution=32, max_objects=1, jitter=True)
    source = world.source("held_out", ("image", "edited"))
    records = [source[i] for i in range(150)]
    edits, after = zip(*(source.edit(i) for i in range(150)), strict=True)
    pictures = {name: np.stack([np.asarray(r[name]) for r in records]) for name in ("image", "edited")}
    assert (read_image(pictures["edited"]).count == 1).all()
    right = {r["metric"]: r["value"] for r in score_edits(pictures["edited"], list(edits), list(after), "held_out")}
    left = {r["metric"]: r["value"] for r in score_edits(pictures["image"], list(edits), list(after), "held_out")}
    assert min(right.values()) > 0.99
    assert left["edit_accuracy"] == left["edit_and_kept"] == 0
    assert left["kept_accuracy"] > 0.99


def test_edits_are_of_one_object_and_only_where_asked_for():
    with pytest.raises(ValueError, match=r"'instruction' where max_objects=1, found 2"):
        World().source("train", ("instruction",))
    assert "edited" not in World(max_objects=1).source("train")[0]

"""Whether edits of the world's images were made: what the reader finds in an image after its instruction.

    edit_accuracy    the attribute that the instruction names has the new value
    kept_accuracy    mean over the other attributes that an image shows: still as before
    edit_and_kept    all four are right

An image in which the reader does not find one object has none of them. Chance is the rate of guessing each attribute;
`unchanged` beside it is the rate of an image that was left as it is.
"""

from typing import Any

import numpy as np

from unified_jax.data.world.edits import EDITED, Edit
from unified_jax.data.world.read import read_image
from unified_jax.data.world.scene import ATTRIBUTES, Scene
from unified_jax.evaluation.statistics import wilson_interval

SIZES = {name: len(values) for name, values in ATTRIBUTES}


def score_edits(pictures: np.ndarray, edits: list[Edit], after: list[Scene], split: str) -> list[dict[str, Any]]:
    """Rows of evaluation.json for uint8 images `[b, h, w, 3]` made after these instructions."""
    reading = read_image(pictures)
    single = reading.count == 1
    right = {
        name: single & (getattr(reading, name)[:, 0] == [getattr(scene.objects[0], name) for scene in after])
        for name in EDITED
    }
    named = {name: np.asarray([edit.attribute == name for edit in edits]) for name in EDITED}
    changed = sum(right[name] & named[name] for name in EDITED)
    kept = sum(right[name] & ~named[name] for name in EDITED) / (len(EDITED) - 1)
    every = np.all([right[name] for name in EDITED], axis=0)
    guess = float(np.mean([1 / SIZES[edit.attribute] for edit in edits]))
    guess_kept = float(np.mean([np.mean([1 / SIZES[n] for n in EDITED if n != edit.attribute]) for edit in edits]))
    all_four = float(np.prod([1 / SIZES[name] for name in EDITED]))
    rows = [
        ("kept_accuracy", kept, guess_kept, 1.0),
        ("edit_and_kept", every, all_four, 0.0),
        ("edit_accuracy", changed, guess, 0.0),
    ]
    return [_row(name, np.asarray(hits, float), split, chance, left) for name, hits, chance, left in rows]


def _row(metric: str, hits: np.ndarray, split: str, chance: float, unchanged: float) -> dict[str, Any]:
    value = float(hits.mean())
    low, high = wilson_interval(value, len(hits))
    row = {"given": ["instruction", "image"], "wanted": ["edited"], "split": split, "metric": metric, "n": len(hits)}
    return row | {"value": value, "low": low, "high": high, "chance": chance, "unchanged": unchanged}

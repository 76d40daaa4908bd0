"""Edits: an instruction, and the edited scene. One attribute that an image shows takes another value.

    colour   "make it red", "paint it red", ...      shape   "turn it into a star", ...
    size     "make it large", ...                    place   "move it to the top left", ...

The new value is sampled among the combinations that the split admits, so that training on edits never shows a held-out
one; held-out objects may take any value. The other attributes stay. So does the centre, unless the object moves, or
grows and would touch a wall.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np

from unified_jax.data.world.scene import (
    ATTRIBUTES,
    RADII,
    SPEED,
    Scene,
    centre_of,
    combinations,
)

EDITED = ("shape", "colour", "size", "place")
"""Attributes that an edit changes."""

_SAYINGS = {
    "shape": ("turn it into a {}", "make it a {}", "change the shape to a {}", "replace it by a {}"),
    "colour": ("make it {}", "paint it {}", "change the colour to {}", "turn it {}"),
    "size": ("make it {}", "change the size to {}", "resize it to {}"),
    "place": ("move it to the {}", "put it at the {}", "shift it to the {}"),
}


@dataclass(frozen=True)
class Edit:
    """The changed attribute and its value."""

    attribute: str
    value: int
    """Index into the attribute's values."""
    instruction: str


def draw_edit(scene: Scene, split: str, jitter: bool, rng: np.random.Generator) -> tuple[Edit, Scene]:
    """An edit of a scene of one object, and the edited scene."""
    before = scene.objects[0]
    attribute = EDITED[int(rng.integers(len(EDITED)))]
    values = dict(ATTRIBUTES)[attribute]
    admitted = [
        value
        for value in range(len(values))
        if value != getattr(before, attribute) and (attribute == "place" or _admitted(before, attribute, value, split))
    ]
    value = int(rng.choice(admitted)) if admitted else -1
    if value < 0:  # no neighbour of this combination is admitted; a change of place always is
        attribute, values = "place", dict(ATTRIBUTES)["place"]
        value = (before.place + 1 + int(rng.integers(len(values) - 1))) % len(values)
    sayings = _SAYINGS[attribute]
    instruction = sayings[int(rng.integers(len(sayings)))].format(values[value])
    after = dataclasses.replace(before, **{attribute: value})
    x, y = before.x, before.y
    radius = RADII[after.size]
    if attribute == "place":
        x, y = centre_of(value, radius, float(rng.random()), float(rng.random()), jitter)
    elif attribute == "size" and jitter:
        wall = radius + SPEED
        x, y = (float(np.clip(v, wall, 1 - wall)) for v in (x, y))
    return Edit(attribute, value, instruction), Scene((dataclasses.replace(after, x=x, y=y, radius=radius),))


def _admitted(before: object, attribute: str, value: int, split: str) -> bool:
    if split == "held_out":
        return True
    triple = tuple(value if name == attribute else getattr(before, name) for name in EDITED[:3])
    return triple in combinations(split)

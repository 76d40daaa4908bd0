"""What was cut out of a picture, told as a condition (SDXL, Podell et al. 2023): a network learns what crops look like,
and is asked for none.

    (original height, original width, top, left)      and with `mirror` whether it was mirrored

The original sizes are those of the record's picture; top and left say where the picture begins in the whole one, scaled
as it was. Of a mirrored picture they count in the mirrored whole. Not given in sampling: the picture's own size, and
nothing cut off.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from unified_jax.modalities.base import check_array
from unified_jax.modalities.conditions import ConditionForm
from unified_jax.modalities.fitting import Draw, part_of
from unified_jax.modalities.image import Image
from unified_jax.modalities.numbers import Numbers
from unified_jax.modalities.pictures import upright_size
from unified_jax.modalities.reading import File


@dataclass(frozen=True)
class Crop:
    """How an image was cut out of its record's picture; no data set holds it."""

    image: Image = Image()
    """The image, as the model has it."""
    name: str = "crop"
    """Field of the batch and name on the command line: --given.NAME."""
    kind: Literal["vector", "scalars"] = "vector"
    """One vector, or scalars that a network embeds one by one."""
    unit: Literal["image", "pixel"] = "image"
    """What is counted: sides of the image, or pixels (SDXL)."""
    mirror: bool = False
    """Also tell whether it was mirrored, as a number more, 0 or 1."""

    @property
    def numbers(self) -> Numbers:
        """The same without its origin."""
        return Numbers(self.name, 4 + self.mirror, self.kind)

    @property
    def varies(self) -> bool:
        """As the image does."""
        return self.image.varies

    def vary(self, record: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """The record with what the image's draw cuts out; before the image is fitted."""
        drawn = self.image.drawn(record, rng)
        return record | {self.name: self.told(sizes_of(record[self.image.name]), drawn)}

    def derive(self, record: dict[str, Any]) -> Float[np.ndarray, " v"]:
        """The value of a record that is not varied."""
        return self.told(sizes_of(record[self.image.name]), None)

    def told(self, sizes: tuple[int, int], drawn: Draw | None) -> Float[np.ndarray, " v"]:
        """The numbers of a picture of this (height, width)."""
        image, turned = self.image, bool(self.image.flip and drawn is not None and drawn.mirrored)
        target = (image.height, image.width)
        top, left = 0.0, 0.0
        if image.fit in ("center_crop", "random_crop"):
            part = part_of(sizes, target, image.fit, drawn, image.crop)
            whole = part.halved[-1][0] if part.halved else sizes[1]
            across = part.size[0] / (part.box[2] - part.box[0])
            down = part.size[1] / (part.box[3] - part.box[1])
            left, top = part.box[0] * across + part.cut[0], part.box[1] * down + part.cut[1]
            left = max(0.0, whole * across - left - image.width) if turned else left
        found = np.asarray([*sizes, top, left], np.float32)
        found = found / np.asarray([*target, *target], np.float32) if self.unit == "image" else found
        return np.append(found, np.float32(turned)) if self.mirror else found

    def blank(self) -> Float[np.ndarray, " v"]:
        """The image whole."""
        return self.told((self.image.height, self.image.width), None)

    def prepare(self, raw: Any) -> Float[np.ndarray, " v"]:
        """Finite numbers."""
        return check_array(np.asarray(raw, np.float32), self.blank().shape, np.float32)

    def parse(self, text: str) -> Float[np.ndarray, " v"]:
        """Parses numbers separated by spaces. Raises ValueError."""
        return self.numbers.parse(text)

    def load(self, path: Path) -> Float[np.ndarray, " v"]:
        """A text file with the numbers."""
        return self.numbers.load(path)

    def title(self, value: Any) -> str:
        """The numbers as text."""
        return self.numbers.title(value)

    def condition_form(self) -> ConditionForm:
        """Where it is not given, the image whole; guidance leaves it in its place."""
        return ConditionForm(self.name, self.kind, 4 + self.mirror, null="default")

    def to_condition(self, raw: Array) -> Float[Array, "b v"]:
        """Unchanged."""
        return jnp.asarray(raw, jnp.float32)


def sizes_of(raw: Any) -> tuple[int, int]:
    """(height, width) of a picture of a record, upright. Raises ValueError for what is none."""
    if isinstance(raw, File):
        return upright_size(raw.content)
    shape = np.shape(raw)
    if len(shape) == 2:
        return shape[0], shape[1]
    if len(shape) not in (3, 4) or not np.prod(shape):
        raise ValueError(f"expected a picture, found an array of {list(shape)}")
    return shape[-3], shape[-2]

"""preprocessor_config.json: how a published image encoder wants its images.

size         {"shortest_edge": n} or n: the shorter side; {"height": n, "width": n}: both sides
crop_size    the central square that is kept, with do_center_crop
resample     2 bilinear, 3 bicubic (Pillow's numbers)
image_mean, image_std
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from unified_jax.errors import UserError
from unified_jax.interop.folder import read_json

FILE = "preprocessor_config.json"
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class Preprocessing:
    """Sizes, filter and statistics."""

    resize: int
    """The shorter side after resizing (both sides with `stretch`)."""
    side: int
    """Side of the central square that is kept."""
    stretch: bool
    """Whether both sides are resized, and the shape of an image is lost."""
    filter: Literal["linear", "cubic"]
    """Kernel of the resizing, which averages where it shrinks."""
    mean: tuple[float, float, float]
    """Subtracted from each channel in [0, 1]."""
    std: tuple[float, float, float]
    """Divided by afterwards."""


DEFAULTS: Mapping[str, Preprocessing] = {
    "clip": Preprocessing(224, 224, False, "cubic", CLIP_MEAN, CLIP_STD),
    "siglip": Preprocessing(224, 224, True, "cubic", HALF, HALF),
    "dinov2": Preprocessing(256, 224, False, "cubic", IMAGENET_MEAN, IMAGENET_STD),
}
"""Of a family without the file."""


def preprocessing(folder: Path, family: str, size: int) -> Preprocessing:
    """What a folder says; where it says nothing, its family's. Raises UserError for what is not served.

    size   side of the network's table of positions, at which CLIP and SigLIP take their images
    """
    path = folder / FILE
    config = read_json(path, optional=True)
    start, what = DEFAULTS[family], f"{str(path)!r}"
    if family != "dinov2":
        start = replace(start, resize=size, side=size)
    if not config:
        return start
    if skipped := [name for name in ("do_resize", "do_rescale", "do_normalize") if config.get(name, True) is not True]:
        raise UserError(
            f"{what}: {skipped[0]} is {config[skipped[0]]!r}; pictures are resized, rescaled and normalised."
        )
    resize, stretch = _resize(config.get("size", start.resize), what, start)
    crops = config.get("do_center_crop", not stretch)
    side = _square(config.get("crop_size", start.side), what, "crop_size") if crops else resize
    if not crops and not stretch:
        raise UserError(f"{what} resizes the shorter side and crops nothing; images of one size are expected.")
    filters: dict[Any, Literal["linear", "cubic"]] = {2: "linear", 3: "cubic"}
    resample = config.get("resample", 3)
    if resample not in filters:
        raise UserError(f"{what}: resample is {resample!r}; expected 2 (bilinear) or 3 (bicubic).")
    if config.get("rescale_factor", 1 / 255) not in (1 / 255, 0.00392156862745098):
        raise UserError(f"{what}: rescale_factor is {config['rescale_factor']!r}; expected 1 / 255.")
    mean, std = _three(config.get("image_mean", start.mean), what), _three(config.get("image_std", start.std), what)
    return Preprocessing(resize, side, stretch, filters[resample], mean, std)


def _resize(size: Any, what: str, start: Preprocessing) -> tuple[int, bool]:
    """(side, whether it is both)."""
    if isinstance(size, int):
        return size, start.stretch
    if isinstance(size, dict) and isinstance(size.get("shortest_edge"), int):
        return size["shortest_edge"], False
    return _square(size, what, "size"), True


def _square(size: Any, what: str, name: str) -> int:
    sides = (
        {size} if isinstance(size, int) else {size.get("height"), size.get("width")} if isinstance(size, dict) else {}
    )
    if len(sides) != 1 or not isinstance(side := next(iter(sides)), int):
        raise UserError(f"{what}: {name} is {size!r}; expected the side of a square.")
    return side


def _three(value: Any, what: str) -> tuple[float, float, float]:
    if not isinstance(value, list | tuple) or len(value) != 3:
        raise UserError(f"{what}: mean and std have three numbers, found {value!r}.")
    r, g, b = (float(one) for one in value)
    return r, g, b

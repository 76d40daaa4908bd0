"""Edits of images as a request: images, masks and places from files or arrays, and the flags of the command line."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float

from unified_jax.errors import UserError, meant
from unified_jax.modalities.pictures import decode_picture, pixels
from unified_jax.modalities.reading import read_bytes
from unified_jax.models.edited import FILL, IMAGE, OTHER, SHARE, Edit, Mode
from unified_jax.runs.given import field_rows, several
from unified_jax.samplers.plan import SamplingPlan


def check_edit(edit: Edit, model: Any, plan: SamplingPlan) -> None:
    """Raises UserError for a model or a sampler that the edit does not suit."""
    streams = getattr(model, "streams", ())
    if not hasattr(model, "conditions_of"):
        raise UserError(f"Edits are of Diffusion and JointDiffusion models; this one is a {type(model).__name__}.")
    if not streams or (len(streams) > 1 and edit.mode != "interpolate"):
        raise UserError(
            "Edits are of one denoised image, interpolation also of one of several streams; this model denoises "
            + ("several." if streams else "none.")
        )
    if len(streams) > 1 and len(streams[0].modality.shape) != 3:
        raise UserError(f"Interpolation is of images, and the first stream is {streams[0].modality.name!r}.")
    steps = edit.strength < 1 or (edit.fills and edit.repeats > 1)
    if not edit.inverts and steps and plan.sampler.needs.adaptive:
        raise UserError(
            f"An edit begins at one of the steps, or repeats them, and {type(plan.sampler).__name__} chooses its own; "
            "name another sampler."
        )
    if len(streams[0].shape) != 3 and edit.fills:
        raise UserError(f"Masks are of images; {streams[0].modality.name!r} is none.")


def edit_rows(
    edit: Edit, model: Any, which: range, image: Any, mask: Any = None, other: Any = None,
    at: tuple[int, int] | None = None,
) -> dict[str, np.ndarray]:  # fmt: skip
    """The fields of an edit, a row per sample: images repeat, shares of an interpolation go from 0 to 1.

    With `--first`, they are those of the last samples of all: of samples 3 to 7, 3/7 to 1.

    image, other   a file, an array, or a list with one for each sample
    mask           a file, or an array `[h, w]`: 1 (white) is filled
    at             row and column of the smaller image of an outpainting; None: the middle

    Raises UserError for values that are missing, of another size, or without use.
    """
    modality = model.streams[0].modality
    for name, value, used in (
        ("mask", mask, edit.mode == "inpaint"),
        ("other", other, edit.mode == "interpolate"),
        ("at", at, edit.mode == "outpaint"),
    ):
        if used and value is None and name != "at":
            raise UserError(f"The edit {edit.mode!r} needs {name}.")
        if value is not None and not used:
            raise UserError(f"{name} has no use in the edit {edit.mode!r}; leave it out.")
    if edit.mode == "outpaint":
        placed = [place(read_pixels(one, modality.shape[-1]), modality, at) for one in several(image, modality)]
        rows = {IMAGE: field_rows(modality, [whole for whole, _ in placed], which)}
        return rows | {FILL: np.stack([placed[i % len(placed)][1] for i in which])}
    rows = {IMAGE: field_rows(modality, image, which)}
    if mask is not None:
        fill = read_mask(mask, modality.shape[:2])
        rows[FILL] = np.broadcast_to(fill, (len(which), *fill.shape)).copy()
    if other is not None:
        rows[OTHER] = field_rows(modality, other, which)
        rows[SHARE] = np.linspace(0.0, 1.0, which.stop).astype(np.float32)[which.start :]
    return rows


def read_pixels(value: Any, channels: int) -> np.ndarray:
    """An array as it is, or a file in so many channels. Raises UserError for a file that cannot be read."""
    if not isinstance(value, str | Path):
        return np.asarray(value)
    try:
        return pixels(decode_picture(read_bytes(Path(value))), channels)
    except ValueError as error:
        raise UserError(f"{str(value)!r}: {error}.") from error


def read_mask(value: Any, size: tuple[int, ...]) -> Float[np.ndarray, "h w 1"]:
    """1 where a mask is white, true or above one half, else 0. Raises UserError for another size."""
    found = read_pixels(value, 1)
    found = found[..., 0] if found.ndim == 3 and found.shape[-1] == 1 else found
    if found.shape != tuple(size):
        raise UserError(f"The mask has the sizes {list(found.shape)}; the image has {list(size)}.")
    half = 127 if found.dtype == np.uint8 and found.max() > 1 else 0.5
    return (found > half).astype(np.float32)[..., None]


def place(image: np.ndarray, modality: Any, at: tuple[int, int] | None) -> tuple[np.ndarray, np.ndarray]:
    """(a canvas of the model's size with the image in its place and its edges repeated, 1 around it).

    Raises UserError for an image that does not fit there, or leaves nothing to fill.
    """
    image = image[..., None] if image.ndim == 2 else image
    if image.shape[-1] == 1 and modality.shape[-1] == 3:
        image = np.repeat(image, 3, axis=-1)
    size, found = tuple(modality.shape[:2]), tuple(image.shape[:2])
    spare = [whole - part for whole, part in zip(size, found, strict=True)]
    first = tuple(room // 2 for room in spare) if at is None else tuple(at)
    if min(spare) < 0 or max(spare) == 0 or any(not 0 <= a <= room for a, room in zip(first, spare, strict=True)):
        raise UserError(
            f"An image of {list(found)} at {list(first)} does not lie within {list(size)} with room around it; give a "
            "smaller one, or another place."
        )
    around = [(a, room - a) for a, room in zip(first, spare, strict=True)]
    return np.pad(image, [*around, (0, 0)], mode="edge"), np.pad(
        np.zeros((*found, 1), np.float32), [*around, (0, 0)], constant_values=1.0
    )


@dataclass(frozen=True)
class EditFlags:
    """Edit images instead of drawing new ones: --edit inpaint --image FILE --mask FILE."""

    edit: Literal["", "image", "vary", "inpaint", "outpaint", "invert", "interpolate"] = ""
    """What is done with --image: noised and denoised (image, vary), filled where the mask is white (inpaint), continued
    (outpaint), inverted and drawn under the conditions (invert), mixed with --other (interpolate)."""
    image: str = ""
    """The image file to edit."""
    mask: str = ""
    """Inpainting: an image file, white where it is filled."""
    other: str = ""
    """Interpolation: the second image file."""
    at: tuple[int, int] | None = None
    """Outpainting: row and column of the image; default: the middle."""
    strength: float | None = None
    """Share of the steps that are made; default: 0.6, for filling 1."""
    repeats: int = 1
    """Filling: times that each step is made (RePaint)."""

    def read(self, model: Any, plan: SamplingPlan, which: range) -> tuple[Edit | None, dict[str, np.ndarray]]:
        """(the edit, its rows); (None, {}) without --edit. Raises UserError."""
        if not self.edit:
            if self != EditFlags():
                raise UserError("--image, --mask, --other, --at, --strength and --repeats need --edit.")
            return None, {}
        if not self.image:
            raise UserError("--edit needs --image FILE.")
        edit = edit_of(self.edit, self.strength, self.repeats)
        check_edit(edit, model, plan)
        return edit, edit_rows(edit, model, which, self.image, self.mask or None, self.other or None, self.at)


def edit_of(mode: Mode, strength: float | None, repeats: int = 1, iterations: int = 3) -> Edit:
    """An edit with the strength that is usual for its mode. Raises UserError for what cannot be or has no use."""
    if mode not in get_args(Mode):
        known = get_args(Mode)
        raise UserError(f"The edit {mode!r} is unknown{meant(str(mode), known)} There are {', '.join(known)}.")
    usual = 1.0 if mode in ("inpaint", "outpaint") else 0.6
    try:
        edit = Edit(mode, usual if strength is None else strength, repeats, iterations)
    except ValueError as error:
        raise UserError(str(error)) from error
    for name, given, used in (
        ("strength", strength is not None, not edit.inverts),
        ("repeats", repeats != Edit.repeats, edit.fills),
        ("iterations", iterations != Edit.iterations, edit.inverts),
    ):
        if given and not used:
            raise UserError(f"{name} has no use in the edit {mode!r}; leave it out.")
    return edit

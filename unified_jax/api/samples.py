"""The result of sampling: arrays by modality, which a notebook shows as an image grid."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from unified_jax.errors import UserError
from unified_jax.modalities.image import sheet
from unified_jax.modalities.sheets import show_samples
from unified_jax.models.document_checks import ORDER


class Samples(dict[str, np.ndarray]):
    """{modality: `[count, ...]`} as raw values: images uint8 `[count, h, w, c]`, texts as strings, labels as numbers.

    A notebook shows it as an image grid.
    """

    def __init__(
        self, arrays: Mapping[str, np.ndarray], modalities: tuple[Any, ...], given: Mapping[str, np.ndarray],
        chosen: list[list[str]] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(arrays)
        self.modalities = modalities
        self.given = dict(given)
        """The conditions of the samples, as prepared arrays."""
        self.chosen = chosen
        """In free running, the modalities of each sample, in order."""

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        show(self).save(file, "PNG")
        return file.getvalue()


def opened(modalities: tuple[Any, ...], given: dict[str, np.ndarray], made: dict[str, np.ndarray]) -> Samples:
    """Samples from model space as raw values."""
    by_name: dict[str, Any] = {m.name: m for m in modalities}
    order = made.pop(ORDER, None)
    arrays = {name: by_name[name].from_model(value) for name, value in made.items()}
    if order is None:
        return Samples(arrays, modalities, given)
    names = [m.name for m in modalities]
    chosen = [[names[m] for m in row if m >= 0] for row in order]
    there = {name: value for name, value in arrays.items() if any(name in row for row in chosen)}
    return Samples(there, modalities, given, chosen)


def show(shown: "Samples | np.ndarray", titles: list[str] | None = None, columns: int = 8, limit: int = 64) -> Any:
    """An image grid (Pillow), which a notebook shows, of samples or of uint8 images `[n, h, w, 1 or 3]`.

    titles   one per image; samples are titled by their conditions
    limit    most samples that are shown

    Raises UserError for other arrays.

    >>> import numpy as np
    >>> show(np.zeros((4, 8, 8, 3), np.uint8), columns=2).mode
    'RGB'
    """
    if isinstance(shown, Samples):
        return show_samples(shown.modalities, shown.given, dict(shown), limit, shown.chosen)
    images = np.asarray(shown)
    images = images[None] if images.ndim == 3 else images
    if images.ndim != 4 or images.dtype != np.uint8 or images.shape[-1] not in (1, 3):
        raise UserError(
            f"show takes samples, or images as uint8 [n, h, w, 1 or 3]; found {images.dtype} {list(images.shape)}."
        )
    if titles is not None and len(titles) != len(images):
        raise UserError(f"show needs one title per image, found {len(titles)} for {len(images)}.")
    return sheet(images[:limit], columns=columns, titles=titles[:limit] if titles else None)

"""Any TFDS set on disk, read through `tfds.data_source` (no TensorFlow). Nothing is downloaded."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unified_jax.errors import RunError, UserError

LARGEST = 1 << 26
"""Pixels of the largest picture that is decoded; a broken header may claim any number."""


@dataclass(frozen=True)
class Tfds:
    """A prepared TFDS set in ArrayRecord format."""

    set: str = "fashion_mnist"
    """Name of the set, with an optional version: NAME or NAME/VERSION."""
    data_dir: str = "data/tfds"
    """Folder that holds NAME/VERSION/ (where `tfds build` or `download_and_prepare` put it)."""
    rename: tuple[tuple[str, str], ...] = ()
    """Pairs (field of the model, feature of the set) where the names differ."""

    @property
    def name(self) -> str:
        """The set's name."""
        return self.set

    def parts(self, split: str, fields: tuple[str, ...]) -> tuple[tuple[float, str, "TfdsSource"], ...]:
        """The one part of this set. Raises UserError: unknown folder, set, split or feature."""
        source = _open(self.set, self.data_dir, split)
        wanted = {field: dict(self.rename).get(field, field) for field in fields}
        features = sorted(source.dataset_info.features or {})
        for field, feature in wanted.items():
            if feature not in features:
                raise UserError(
                    f"Data set {self.set!r}: feature {feature!r} (for field {field!r}) is missing; it has "
                    f"{', '.join(features)}. Map names with --data.rename FIELD FEATURE."
                )
        return ((1.0, self.set, TfdsSource(self.set, split, source, tuple(wanted.items()))),)


@dataclass(frozen=True)
class TfdsSource:
    """Random access to one split."""

    name: str
    split: str
    source: Any
    wanted: tuple[tuple[str, str], ...]

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Record `index` under the model's field names. Raises RunError where it cannot be read."""
        try:
            record = self.source[index]
            return {field: decoded(record[feature]) for field, feature in self.wanted}
        except Exception as error:  # decoders and readers raise what they like; the record must be named
            lines = str(error).strip().splitlines()
            what = lines[0][:200] if lines else type(error).__name__
            raise RunError(
                f"Data set {self.name!r}, split {self.split!r}: record {index} cannot be read ({what}); "
                "prepare the set again."
            ) from error


def decoded(value: Any) -> Any:
    """Encoded pictures (PNG or JPEG bytes) as arrays; everything else as it is. Raises ValueError for a broken one."""
    if not (isinstance(value, bytes) and value.startswith((b"\x89PNG", b"\xff\xd8\xff"))):
        return value
    from PIL import Image as Pillow

    try:
        with Pillow.open(io.BytesIO(value), formats=("PNG", "JPEG")) as picture:
            if picture.width * picture.height > LARGEST:
                raise ValueError(f"it claims {picture.width} x {picture.height} pixels")
            picture.load()
            return np.asarray(picture)
    except Exception as error:  # Pillow's decoders raise what they like
        raise ValueError(f"a picture of {len(value)} bytes cannot be decoded: {error}") from error


def _open(name: str, data_dir: str, split: str) -> Any:
    import tensorflow_datasets as tfds

    folder = Path(data_dir).expanduser()
    if not folder.is_dir():
        raise UserError(
            f"Data set {name!r}: the folder {data_dir!r} does not exist; set --data.data-dir to the folder that holds "
            f"{name.split('/')[0]}/."
        )
    if not (folder / name.split("/")[0]).is_dir():
        found = ", ".join(sorted(p.name for p in folder.iterdir() if p.is_dir())) or "nothing"
        raise UserError(f"Data set {name!r} is not in {data_dir!r}, which holds: {found}.")
    try:
        head, _, version = name.rpartition("/")  # TFDS writes NAME:VERSION
        spelled = f"{head}:{version}" if head and version.replace(".", "").isdigit() else name
        builder = tfds.builder(spelled, data_dir=folder)
        splits = list(builder.info.splits)
    except Exception as error:
        raise UserError(f"Data set {name!r} in {data_dir!r} cannot be opened: {error}") from error
    if split not in splits:
        raise UserError(f"Data set {name!r} has no split {split!r}; it has: {', '.join(splits) or 'none'}.")
    opened: Any = builder
    # Pictures stay encoded until a record is read: Pillow decodes them, TFDS would ask for OpenCV.
    features: Any = builder.info.features or {}
    images = [key for key, kind in features.items() if isinstance(kind, tfds.features.Image)]
    try:
        return opened.as_data_source(split=split, decoders={key: tfds.decode.SkipDecoding() for key in images})
    except Exception as error:
        raise UserError(
            f"Data set {name!r} in {data_dir!r} cannot be read without TensorFlow: {error} "
            "(expected file format array_record)."
        ) from error

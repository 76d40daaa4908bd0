"""Any TFDS data set on disk, read through `tfds.data_source` (no TensorFlow). Nothing is downloaded."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from unified_jax.errors import RunError, UserError
from unified_jax.modalities.pictures import decode_picture, pixels
from unified_jax.modalities.reading import first_line

SIGNS = (b"\x89PNG", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"GIF87a", b"GIF89a")
"""First bytes of encoded images that the data set does not declare as images."""


@dataclass(frozen=True)
class Tfds:
    """A prepared TFDS data set in ArrayRecord format."""

    set: str = "fashion_mnist"
    """Name of the data set, with an optional version: NAME or NAME/VERSION."""
    data_dir: str = "data/tfds"
    """Folder that holds NAME/VERSION/ (where `tfds build` or `download_and_prepare` put it)."""
    rename: tuple[tuple[str, str], ...] = ()
    """Pairs (field of the model, feature of the data set) where the names differ."""
    places: ClassVar[tuple[str, ...]] = ("data_dir",)
    """See `data.base.DataSet`."""

    @property
    def name(self) -> str:
        """The data set's name."""
        return self.set

    def splits(self) -> tuple[str, ...]:
        """Those of the set."""
        return tuple(_builder(self.set, self.data_dir).info.splits)

    def columns(self, split: str) -> tuple[str, ...]:
        """Its features."""
        return tuple(_builder(self.set, self.data_dir).info.features or {})

    def parts(self, split: str, fields: tuple[str, ...]) -> tuple[tuple[float, str, "TfdsSource"], ...]:
        """The single part of this data set. Raises UserError for an unknown folder, data set, split or feature."""
        source = _open(self.set, self.data_dir, split)
        wanted = {field: dict(self.rename).get(field, field) for field in fields}
        features = sorted(source.dataset_info.features or {})
        for field, feature in wanted.items():
            if feature not in features:
                raise UserError(
                    f"Data set {self.set!r}: feature {feature!r} (for field {field!r}) is missing; it has "
                    f"{', '.join(features)}. Map names with --data.rename (`data`: --rename) FIELD FEATURE."
                )
        kinds = _pictures(source.dataset_info.features)
        pictures = tuple((name, kinds[name]) for name in wanted.values() if name in kinds)
        named = _class_names(source.dataset_info.features)
        names = tuple((field, named[feature]) for field, feature in wanted.items() if feature in named)
        return ((1.0, self.set, TfdsSource(self.set, split, source, tuple(wanted.items()), pictures, names)),)


@dataclass(frozen=True)
class TfdsSource:
    """Random access to one split. Images are decoded to the declared channels and dtype."""

    name: str
    split: str
    source: Any
    wanted: tuple[tuple[str, str], ...]
    """Pairs (field of the model, feature of the data set)."""
    pictures: tuple[tuple[str, tuple[int, str]], ...] = ()
    """Features that are images, or sequences of them: (channels, or 0 where the data set leaves them open; dtype)."""
    class_names: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """See `data.base.Named`."""
    light: ClassVar[bool] = True
    """See `texts.Light`."""

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Record `index` under the model's field names. Raises RunError if it cannot be read."""
        try:
            record = self.source[index]
            kinds = dict(self.pictures)
            return {field: _read(record[feature], kinds.get(feature)) for field, feature in self.wanted}
        except Exception as error:  # decoders and readers raise any exception; the message must name the record
            raise RunError(
                f"Data set {self.name!r}, split {self.split!r}: record {index} cannot be read ({first_line(error)}); "
                "prepare the data set again."
            ) from error


def _read(value: Any, kind: tuple[int, str] | None) -> Any:
    if kind is None:
        return decoded(value) if isinstance(value, bytes) and value.startswith(SIGNS) else value
    if isinstance(value, bytes):
        return decoded(value, *kind)
    return np.stack([decoded(frame, *kind) for frame in value])


def decoded(value: bytes, channels: int = 0, dtype: str = "uint8") -> np.ndarray:
    """An encoded image of any format as an array of this dtype with this many channels (0: as its colours need).

    Floats are stored in the bytes of four channels, as in TFDS. Raises ValueError for a broken image.
    """
    try:
        picture = decode_picture(value)
        if dtype == "float32":
            if picture.mode != "RGBA":
                raise ValueError(f"expected floats stored in four channels, found the mode {picture.mode}")
            return np.ascontiguousarray(picture).view(np.float32)
        if dtype == "uint16":
            if not picture.mode.startswith("I;16"):
                raise ValueError(f"expected grey of 16 bits, found the mode {picture.mode}")
            return np.asarray(picture).astype(np.uint16)[..., None]
        return pixels(picture, channels)
    except Exception as error:  # decoders raise any exception
        raise ValueError(f"an image of {len(value)} bytes cannot be decoded: {first_line(error)}") from error


def _pictures(features: Any) -> dict[str, tuple[int, str]]:
    """Features that are images or sequences of them, with their channels and dtype."""
    import tensorflow_datasets as tfds

    found = {}
    for name, feature in (features or {}).items():
        inner = feature.feature if isinstance(feature, tfds.features.Sequence) else feature
        if isinstance(inner, tfds.features.Image):
            kind: Any = inner
            found[name] = (int(kind.shape[-1] or 0), np.dtype(kind.np_dtype).name)
    return found


def _class_names(features: Any) -> dict[str, tuple[str, ...]]:
    """The names of the features that are classes; numbers are no names."""
    import tensorflow_datasets as tfds

    found = {name: tuple(f.names) for name, f in (features or {}).items() if isinstance(f, tfds.features.ClassLabel)}
    return {name: names for name, names in found.items() if names != tuple(map(str, range(len(names))))}


def _builder(name: str, data_dir: str) -> Any:
    import tensorflow_datasets as tfds

    try:
        folder = Path(data_dir).expanduser()
        there = sorted(p.name for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else None
    except (OSError, RuntimeError) as error:  # RuntimeError: ~ has no home folder
        raise UserError(f"Data set {name!r}: the folder {data_dir!r} cannot be read: {first_line(error)}.") from None
    if there is None:
        raise UserError(
            f"Data set {name!r}: the folder {data_dir!r} does not exist; set --data.data-dir to the folder that holds "
            f"{name.split('/')[0]}/, or fetch it where it is a public set: unified-jax data get."
        )
    if name.split("/")[0] not in there:
        found = ", ".join(one for one in there if one != "downloads") or "nothing"
        raise UserError(
            f"Data set {name!r} is not in {data_dir!r}, which holds: {found}. `unified-jax data get` lists the public "
            "sets that it fetches."
        )
    try:
        head, _, version = name.rpartition("/")  # TFDS writes NAME:VERSION
        spelled = f"{head}:{version}" if head and version.replace(".", "").isdigit() else name
        builder = tfds.builder(spelled, data_dir=folder)
        list(builder.info.splits)
        return builder
    except Exception as error:
        raise UserError(f"Data set {name!r} in {data_dir!r} cannot be opened: {first_line(error)}") from error


def _open(name: str, data_dir: str, split: str) -> Any:
    import tensorflow_datasets as tfds

    builder = _builder(name, data_dir)
    splits = list(builder.info.splits)
    if split not in splits:
        raise UserError(f"Data set {name!r} has no split {split!r}; it has: {', '.join(splits) or 'none'}.")
    opened: Any = builder

    class Encoded(tfds.decode.SkipDecoding):
        """Images, and those of a sequence, stay encoded until they are read: Pillow decodes them, not OpenCV."""

        def decode_batch_example_np(self, serialized_example: Any) -> Any:
            return serialized_example

    images = _pictures(builder.info.features)
    try:
        return opened.as_data_source(split=split, decoders={key: Encoded() for key in images})
    except Exception as error:
        raise UserError(
            f"Data set {name!r} in {data_dir!r} cannot be read without TensorFlow: {error} "
            "(expected file format array_record)."
        ) from error

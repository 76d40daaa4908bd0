"""Sets of pictures that are compared: a folder, an array of images, a split of a data set.

A folder is read as the published programs read it: every image below it in the order of its names, converted to RGB by
Pillow (transparency is dropped, EXIF rotation ignored), each at its own size.

    FOLDER          all images below it
    FILE.npz        uint8 [n, h, w, c] named arr_0 (ADM's sample batches), image, or the only such array; FILE.npy
    PATH:SPLIT      a split of the data set at a path (`data.files.Files`), field `image`
"""

import hashlib
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from unified_jax.data.base import read_raw
from unified_jax.data.files import Files
from unified_jax.data.folder import Folder
from unified_jax.data.kinds import KINDS
from unified_jax.data.listing import list_files
from unified_jax.data.pipeline import Pipeline
from unified_jax.errors import UserError
from unified_jax.modalities.image import Image
from unified_jax.modalities.pictures import as_bytes, check_pixels, known_formats, read_picture
from unified_jax.modalities.reading import File, first_line

Picture = UInt8[np.ndarray, "h w c"]


@runtime_checkable
class Pictures(Protocol):
    """A set of pictures in a fixed order."""

    @property
    def name(self) -> str:
        """What rows and sentences call it."""
        ...

    @property
    def digest(self) -> str:
        """Of what it holds: features of one digest are the same."""
        ...

    def __len__(self) -> int: ...

    def rows(self, first: int, count: int) -> Sequence[Any]:
        """Some of its pictures, read when they are asked for. Raises ValueError that names the file."""
        ...


class Lazy(Sequence[Any]):
    """A list whose elements are made when they are asked for."""

    def __init__(self, make: Callable[[int], Any], first: int, count: int) -> None:
        self.make, self.first, self.length = make, first, count

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < self.length:
            raise IndexError(index)
        return self.make(self.first + index)


@dataclass(frozen=True)
class FilePictures:
    """Image files of any sizes."""

    name: str
    paths: tuple[Path, ...]
    digest: str

    def __len__(self) -> int:
        return len(self.paths)

    def rows(self, first: int, count: int) -> Sequence[Any]:
        """See `Pictures`."""
        return Lazy(lambda i: read_rgb(self.paths[i]), first, count)


@dataclass(frozen=True)
class ArrayPictures:
    """Images of one array in a file, of which only the rows that are asked for are read."""

    name: str
    path: Path
    member: str
    """Name in the .npz; empty: a .npy."""
    shape: tuple[int, ...]
    digest: str

    def __len__(self) -> int:
        return self.shape[0]

    def rows(self, first: int, count: int) -> Sequence[Any]:
        """See `Pictures`."""
        if not self.member:
            return list(np.load(self.path, mmap_mode="r")[first : first + count])
        size = int(np.prod(self.shape[1:]))
        with zipfile.ZipFile(self.path) as archive, archive.open(f"{self.member}.npy") as file:
            _header(file)
            file.seek(first * size, 1)
            content = file.read(count * size)
        return list(np.frombuffer(content, np.uint8).reshape(-1, *self.shape[1:]))


@dataclass(frozen=True)
class DataPictures:
    """The images of a split, as a modality prepares them, or, with fit "exact" and no size asked for, as they are."""

    name: str
    sources: tuple[Any, ...]
    modality: Any
    """Prepares them; None: each at its own size."""
    digest: str
    field: str = "image"

    def __len__(self) -> int:
        return sum(map(len, self.sources))

    def rows(self, first: int, count: int) -> Sequence[Any]:
        """See `Pictures`."""
        return Lazy(self._one, first, count)

    def _one(self, index: int) -> Picture:
        part = 0
        while index >= len(self.sources[part]):
            index, part = index - len(self.sources[part]), part + 1
        raw = self.sources[part][index][self.field]
        if self.modality is not None:
            made: Any = self.modality.prepare(read_raw(self.modality, raw))
            return made[self.field] if isinstance(made, dict) else made
        value = as_bytes(read_picture(raw.content, 3), 3) if isinstance(raw, File) else np.asarray(raw)
        return value[..., None] if value.ndim == 2 else value


def open_pictures(source: str) -> Pictures:
    """The set that a word names. Raises UserError for none, or one that holds no pictures."""
    path, split = _divided(source)
    if path.suffix in (".npz", ".npy") and path.is_file():
        return _array(path)
    found = Files(str(path)).found()
    if isinstance(found, Folder) and not split:
        return _folder(path)
    splits = found.splits()
    chosen = split or ("train" if "train" in splits else splits[0])
    if chosen not in splits:
        raise UserError(f"The data set {str(path)!r} has no split {chosen!r}; it has {', '.join(splits)}.")
    return of_split(found, chosen, None, f"{path}:{chosen}")


def of_split(data: Any, split: str, modality: Image | None, name: str) -> DataPictures:
    """A split of a data set. Raises UserError where it has no such split or field."""
    field = modality.name if modality else "image"
    described = Pipeline(data, split, (modality,), 1, 0).described() if modality else None
    parts = data.parts(split, (field,))
    said = described or [[part, len(source), getattr(source, "digest", "")] for _, part, source in parts]
    made = hashlib.blake2b(repr((said, modality, split)).encode(), digest_size=12)
    if not described:  # sets without a digest of their own are told apart by some of their pictures
        probe = DataPictures(name, tuple(source for _, _, source in parts), None, "", field)
        for index in np.unique(np.linspace(0, max(len(probe) - 1, 0), 16).astype(int)):
            made.update(np.ascontiguousarray(probe.rows(int(index), 1)[0]).tobytes())
    return DataPictures(name, tuple(source for _, _, source in parts), modality, made.hexdigest(), field)


def _divided(source: str) -> tuple[Path, str]:
    """(path, split or "") of PATH[:SPLIT]."""
    whole = Path(source).expanduser()
    if whole.exists() or ":" not in source:
        return whole, ""
    path, _, split = source.rpartition(":")
    return Path(path).expanduser(), split


def _folder(path: Path) -> FilePictures:
    listing = list_files(path)
    rows = np.flatnonzero(listing.of_suffixes(tuple(KINDS["image"])))
    if not len(rows):
        raise UserError(f"The folder {str(path)!r} holds no images; expected files such as .png and .jpg.")
    paths = tuple(path / listing.name(int(i)) for i in rows)
    made = hashlib.blake2b(listing.digest(rows).encode(), digest_size=12)
    for one in paths:
        made.update(str(one.stat().st_mtime_ns).encode())
    return FilePictures(str(path), paths, made.hexdigest())


def _header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(file)


def _array(path: Path) -> ArrayPictures:
    """The images of a .npz or .npy. Raises UserError where it holds none."""
    heads: dict[str, tuple[tuple[int, ...], bool, np.dtype]] = {}
    try:
        if path.suffix == ".npy":
            with path.open("rb") as file:
                heads[""] = _header(file)
        else:
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    with archive.open(name) as file:
                        heads[name.removesuffix(".npy")] = _header(file)
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise UserError(f"The file {str(path)!r} cannot be read as an array: {first_line(error)}.") from None
    images = [
        name for name, (shape, fortran, dtype) in heads.items()
        if dtype == np.uint8 and len(shape) == 4 and not fortran and shape[-1] in (1, 3)
    ]  # fmt: skip
    chosen = [name for name in ("arr_0", "image") if name in images] or images
    if len(chosen) < 1 or (len(images) > 1 and chosen == images):
        held = ", ".join(f"{name or 'array'} {dtype} {list(shape)}" for name, (shape, _, dtype) in heads.items())
        raise UserError(f"The file {str(path)!r} holds {held or 'nothing'}; expected images uint8 [n, h, w, 1 or 3].")
    state = path.stat()
    text = f"{path.name} {state.st_size} {state.st_mtime_ns} {chosen[0]}"
    digest = hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
    return ArrayPictures(str(path), path, chosen[0], heads[chosen[0]][0], digest)


def read_rgb(path: Path) -> Picture:
    """An image file as RGB, as Pillow converts it. Raises ValueError that names the file."""
    from PIL import Image as Pillow

    try:
        with Pillow.open(path, formats=known_formats()) as file:
            check_pixels(file)
            return np.asarray(file.convert("RGB"))
    except Exception as error:  # decoders raise any exception
        raise ValueError(f"the image {str(path)!r} cannot be read ({first_line(error)})") from None

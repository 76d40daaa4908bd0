"""What a public set is: its original files, its licence, and how records are made of the originals."""

import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unified_jax.errors import UserError

Records = Iterator[tuple[str | int, dict[str, Any]]]
"""Pairs (key, record). The hash of the key decides the place of a record in its split, as TFDS has it."""


@dataclass(frozen=True)
class Original:
    """One file as its authors publish it."""

    file: str
    """Its name, also in a folder given by --source."""
    address: str
    """Where it is fetched from."""
    sha256: str = ""
    """Its checksum; empty: none is known."""
    size: int = 0
    """Its bytes; 0: not known."""


@dataclass(frozen=True)
class PublicSet:
    """A public data set and how it is built."""

    name: str
    """The name that recipes use."""
    short: str
    """A second name on the command line."""
    version: str
    """Of the TFDS set that is built."""
    summary: str
    """What it holds: one line."""
    records: str
    """How many records each split has."""
    licence: str
    """Its name."""
    licence_address: str
    """Where its text stands."""
    home: str
    """Page of the authors."""
    originals: tuple[Original, ...]
    """Files that are fetched."""
    features: Callable[[], dict[str, Any]]
    """The TFDS features of a record."""
    splits: Callable[[Mapping[str, Path]], dict[str, Callable[[], Records]]]
    """The records of each split, from the paths of the originals by their names."""
    supervised: tuple[str, str] | None = None
    """Input and target, as TFDS has them."""

    amount: str = ""
    """How much is fetched, where the originals' sizes are not known."""

    def to_fetch(self) -> str:
        """How much is fetched, in words."""
        return self.amount or f"{sum(original.size for original in self.originals) / 1e6:.0f} MB"


def unreadable(path: Path, why: object) -> UserError:
    """The error for an original that cannot be used."""
    return UserError(f"{str(path)!r} cannot be read: {why}; remove it and fetch it again.")


def png(pixels: np.ndarray) -> bytes:
    """A picture of one or three channels as PNG."""
    from PIL import Image as Pillow

    file = io.BytesIO()
    Pillow.fromarray(pixels).save(file, "PNG")
    return file.getvalue()

"""Reading user files: a file that cannot be opened, is too long or is not text raises a readable error."""

import codecs
import io
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Float

LARGEST = 1 << 28
"""Most bytes that are read of a file; /dev/zero has no end."""
LARGEST_TEXT = 1 << 24
"""Most bytes of a text or a table."""
MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # begins as UTF-16's does, so it is tested first
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
"""Byte order marks and their encodings."""


@dataclass(frozen=True)
class File:
    """A file that a data set holds, on disk or inside another one: a modality's `read` decodes it."""

    name: str
    """What messages call it; its suffix tells the format."""
    path: Path | None = None
    """Where it is on disk."""
    stored: bytes = field(default=b"", repr=False)
    """Its content, where it has no path."""

    @property
    def suffix(self) -> str:
        """Its suffix in lower case, with the dot."""
        return Path(self.name).suffix.lower()

    @property
    def content(self) -> bytes:
        """Its bytes. Raises ValueError as `read_bytes`."""
        return self.stored if self.path is None else read_bytes(self.path)

    @contextmanager
    def opened(self) -> Iterator[Any]:
        """Its content as an open file, which reads only what is asked for.

        Raises ValueError as `open_file`, and for an empty one.
        """
        with io.BytesIO(self.stored) if self.path is None else open_file(self.path) as content:
            if not content.seek(0, io.SEEK_END):
                raise ValueError("the file is empty")
            content.seek(0)
            yield content

    @contextmanager
    def on_disk(self) -> Iterator[Path]:
        """A path to it; a file inside another one gets a temporary copy."""
        if self.path is not None:
            yield self.path
            return
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / (Path(self.name).name or "file")
            path.write_bytes(self.stored)
            yield path


def first_line(error: BaseException) -> str:
    """An exception's message, at most 200 characters of its first line; its class name if empty."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


@contextmanager
def told(kind: str) -> Iterator[None]:
    """Turns whatever a decoder raises inside into the ValueError 'cannot be read as `kind`'; a ValueError stays."""
    try:
        yield
    except ValueError:
        raise
    except Exception as error:  # decoders raise any exception
        raise ValueError(f"it cannot be read as {kind} ({first_line(error)})") from None


def open_file(path: Path) -> BinaryIO:
    """The file, opened for reading bytes. Raises ValueError if it is missing, a folder, or cannot be opened."""
    try:
        return path.open("rb")
    except FileNotFoundError:
        if path.is_symlink():
            raise ValueError("it is a link to nothing") from None
        raise ValueError(f"no such file{_other_case(path)}") from None
    except IsADirectoryError:
        raise ValueError("it is a folder, expected a file") from None
    except PermissionError:
        raise ValueError("it cannot be read: its permissions forbid it") from None
    except (OSError, ValueError) as error:  # a name that is too long, or holds NUL
        raise ValueError(f"it cannot be opened ({first_line(error)})") from None


def _other_case(path: Path) -> str:
    """What to say about a file beside a missing one whose name differs by case alone; empty without one."""
    with suppress(OSError):
        for other in path.parent.iterdir():
            if other.name != path.name and other.name.lower() == path.name.lower():
                return f"; {other.name!r} is there, in another case"
    return ""


def read_bytes(path: Path, largest: int = LARGEST) -> bytes:
    """The file's content. Raises ValueError as `open_file` does, and if it is longer than `largest` bytes."""
    with open_file(path) as file:
        try:
            size = os.fstat(file.fileno()).st_size
            content = file.read(min(size, largest) + 1)  # a large request costs time of its own
            if len(content) > size:  # a device, a pipe, or a file that grows
                content += file.read(largest + 1 - len(content))
        except OSError as error:
            raise ValueError(f"it cannot be read ({first_line(error)})") from None
    if len(content) > largest:
        raise ValueError(f"it is longer than {largest} bytes")
    return content


def read_text(path: Path, largest: int = LARGEST_TEXT) -> str:
    """A text file of any system: UTF-8, or UTF-16 or UTF-32 with a byte order mark; lines end with a line feed.

    Raises ValueError as `read_bytes` does, and with file and offset if it is not such a text.
    """
    return decode_text(read_bytes(path, largest), path.name)


def read_table(path: Path) -> Float[np.ndarray, "rows columns"]:
    """A text file of numbers separated by commas, float32. Raises ValueError as `read_text`, and for no table."""
    text = read_text(path)
    if not any(line.partition("#")[0].strip() for line in text.split("\n")):
        raise ValueError("expected a table of numbers, found none")
    with told("a table of numbers"):
        return np.loadtxt(io.StringIO(text), delimiter=",", ndmin=2, dtype=np.float32)


def decode_text(content: bytes, name: str) -> str:
    """As `read_text`; `name` is the file's name in messages."""
    mark, codec = next(((m, c) for m, c in MARKS if content.startswith(m)), (b"", "utf-8"))
    try:
        text = content[len(mark) :].decode(codec)
    except UnicodeDecodeError as error:
        at = error.start + len(mark)
        raise ValueError(
            f"{name!r} is not {codec.upper()}: byte 0x{content[at]:02x} at offset {at} ({error.reason}); "
            "save it as UTF-8"
        ) from None
    if "\0" in text:
        raise ValueError(
            f"{name!r} holds a NUL at character {text.index(chr(0))}; if it is UTF-16 without a byte order mark, "
            "save it as UTF-8"
        )
    return text.replace("\r\n", "\n").replace("\r", "\n")

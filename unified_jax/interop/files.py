"""Named arrays on disk, in one file or several (`parts`).

`.safetensors` is always supported, torch files if torch is installed (`torch_files`). No code in a file is ever run.
Arrays become float32, exactly except for float64, and must be finite (`floats`); training prefixes are removed from
names (`names.unwrapped`).
"""

import contextlib
import json
import os
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from unified_jax.errors import UserError
from unified_jax.interop import floats, parts, torch_files
from unified_jax.interop.names import unwrapped

PLAIN = ("F64", "F32", "F16", "BF16")
WHOLE = ("BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64")
"""Dtypes that NumPy reads itself: floats, and others that are then refused."""


class Weights(NamedTuple):
    """The content of a file or a set of files."""

    tensors: dict[str, np.ndarray]
    said: tuple[str, ...]
    """Which of several sets of weights was read."""


def read(path: Path, average: bool = True) -> dict[str, np.ndarray]:
    """The float32 arrays of a file, an index of parts, or a folder of parts, by name.

    Of a training checkpoint {"model", "ema", ...} the EMA is read, or the trained weights with `average=False`. Raises
    UserError for a missing, incomplete or damaged file, or arrays that are not finite floats.
    """
    return read_weights(path, average).tensors


def read_weights(path: Path, average: bool = True) -> Weights:
    """As `read`, with notes on what was read."""
    files = parts.find(path)
    found: dict[str, np.ndarray] = {}
    held: dict[str, str] = {}
    said = []
    for file in files.paths:
        if file.suffix == parts.SAFETENSORS:
            tensors, words = read_safetensors(file), ""
        else:
            tensors, words = torch_files.read(file, average)
        said += [words] if words else []
        twice = sorted(set(tensors) & set(found))
        if twice:
            raise UserError(f"{held[twice[0]]} and {file.name} of {str(path)!r} both hold {', '.join(twice)}.")
        found |= tensors
        held |= dict.fromkeys(tensors, file.name)
    parts.check_listed(path, files, held)
    if not found:
        raise UserError(f"The weights file {str(path)!r} holds no array.")
    chosen, words = unwrapped(f"{str(path)!r}", floats.widened(f"{str(path)!r}", found), average)
    return Weights(chosen, (*said, words) if words else tuple(said))


def read_metadata(path: Path) -> dict[str, str]:
    """The text that a safetensors file carries next to its arrays. Raises UserError as `read` does."""
    if not path.is_file():
        raise UserError(f"The weights file {str(path)!r} does not exist.")
    with _opened(path) as opened:
        return dict(opened.metadata() or {})


def described(path: Path) -> dict[str, Any]:
    """A file's model metadata: {"config": arguments of its class, ...}, or {}.

    A safetensors file has it in its header, a diffusers folder in `config.json`.
    """
    texts: dict[str, str] = {}
    folder = path if path.is_dir() else path.parent
    if path.is_dir() or path.name.endswith(parts.INDEX):
        with contextlib.suppress(OSError, UnicodeDecodeError):
            texts["config"] = (folder / "config.json").read_text(encoding="utf-8-sig")
    elif path.suffix == parts.SAFETENSORS:
        texts = read_metadata(path)
        if "config" not in texts and path.stem in parts.PUBLISHED:
            with contextlib.suppress(OSError, UnicodeDecodeError):
                texts["config"] = (folder / "config.json").read_text(encoding="utf-8-sig")
    said: dict[str, Any] = {}
    for name in ("config", "process"):
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(texts.get(name, "null"))
            said |= {name: value} if isinstance(value, dict) else {}
    return said


def write(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Writes a safetensors file atomically.

    Raises UserError if it exists, is not called .safetensors, cannot be written, or the arrays are not finite.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    if path.suffix != parts.SAFETENSORS:
        raise UserError(f"{str(path)!r}: weights are written to a file that ends in .safetensors.")
    if path.exists():
        raise UserError(f"{str(path)!r} exists already; choose another name.")
    floats.refuse_non_finite(f"What was to be written to {str(path)!r}", tensors)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: np.asarray(value, order="C") for name, value in tensors.items()}, temporary, dict(metadata))
        temporary.chmod(0o644)  # the library writes with owner permissions only
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise UserError(f"{str(path)!r} cannot be written: {error}.") from error


@contextlib.contextmanager
def _opened(path: Path) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as opened:
            yield opened
    except (OSError, SafetensorError, TypeError, ValueError) as error:
        raise torch_files.unreadable(path, error) from error


def names(path: Path) -> list[str]:
    """Names of the arrays of a safetensors file."""
    with _opened(path) as opened:
        return list(opened.keys())


def read_safetensors(path: Path, wanted: Callable[[str], bool] = lambda name: True) -> dict[str, np.ndarray]:
    """The arrays whose names are wanted, in the precision of the file. Raises UserError for a damaged file."""
    found = {}
    unknown = []
    with _opened(path) as opened:
        for name in filter(wanted, opened.keys()):
            kind = opened.get_slice(name).get_dtype()
            if kind in floats.FLOAT8:
                found[name] = _float8(path, name, floats.FLOAT8[kind])
            elif kind in (*PLAIN, *WHOLE):
                found[name] = opened.get_tensor(name)
            else:
                unknown.append(f"{name} ({kind})")
    if unknown:
        raise UserError(
            f"{str(path)!r} holds arrays of an unsupported dtype: {', '.join(sorted(unknown))}; expected F64, "
            "F32, F16, BF16, F8_E4M3 or F8_E5M2."
        )
    return found


def _float8(path: Path, name: str, dtype: np.dtype) -> np.ndarray:
    """An F8 array, which the library's NumPy interface cannot build; the header is already checked."""
    with path.open("rb") as file:
        length = struct.unpack("<Q", file.read(8))[0]
        entry = json.loads(file.read(length))[name]
        start, stop = entry["data_offsets"]
        file.seek(8 + length + start)
        return np.frombuffer(file.read(stop - start), dtype).reshape(entry["shape"])

"""Weights in one file or several: `NAME.index.json` with its parts, a folder of parts, a folder with one file.

model.safetensors.index.json                {"weight_map": {array: file}}
model-00001-of-00003.safetensors ...        the parts, with or without the index
"""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from unified_jax.errors import UserError

TORCH = (".pt", ".pth", ".ckpt", ".bin")
"""Suffixes of torch files."""
SAFETENSORS = ".safetensors"
INDEX = ".index.json"
PUBLISHED = ("diffusion_pytorch_model", "model", "pytorch_model")
"""Names that diffusers and transformers read where no variant is asked for."""
PART = re.compile(r"(.+)-(\d+)-of-(\d+)(\.\w+)")


class Files(NamedTuple):
    """The files of one set of weights."""

    paths: tuple[Path, ...]
    listed: dict[str, str] | None = None
    """Array -> name of its file, where there is an index."""


def find(path: Path) -> Files:
    """The files of a path. Raises UserError for missing files or parts, several sets, or a damaged index."""
    if path.is_dir():
        return _folder(path)
    if not path.is_file():
        raise UserError(f"The weights file {str(path)!r} does not exist.")
    if path.name.endswith(INDEX):
        return _index(path)
    if path.suffix != SAFETENSORS and path.suffix not in TORCH:
        raise UserError(f"{str(path)!r}: expected a file that ends in .safetensors, {', '.join(TORCH)}.")
    part = PART.fullmatch(path.name)
    if part and int(part[3]) > 1:
        raise UserError(f"{str(path)!r} is one part of {int(part[3])}; give the index or the folder of them all.")
    return Files((path,))


def holds_weights(folder: Path) -> bool:
    """Whether a folder holds third-party weights, and is not a run."""
    return not (folder / "checkpoints").exists() and any(
        p.suffix == SAFETENSORS or p.suffix in TORCH or p.name.endswith(INDEX) for p in folder.iterdir()
    )


def check_listed(path: Path, files: Files, held: dict[str, str]) -> None:
    """Compares an index with its parts (array -> file). Raises UserError naming missing and extra arrays."""
    if files.listed is None:
        return
    missing = sorted(f"{name} ({file})" for name, file in files.listed.items() if held.get(name) != file)
    extra = sorted(f"{name} ({file})" for name, file in held.items() if name not in files.listed)
    titled = (("its parts lack", missing), ("it does not list", extra))
    words = [f"{title} {', '.join(names)}" for title, names in titled if names]
    if words:
        raise UserError(f"The parts of {str(path)!r} do not agree with their index: {'; '.join(words)}.")


def _folder(folder: Path) -> Files:
    """Safetensors before torch's files, an index before loose parts, a published name before its variants."""
    names = sorted(p.name for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    for endings in ((SAFETENSORS,), TORCH):
        indexes = [name for name in names if name.endswith(tuple(e + INDEX for e in endings))]
        if len(indexes) > 1:
            raise UserError(f"{str(folder)!r} holds several indexes: {', '.join(indexes)}; give one of them.")
        if indexes:
            return _index(folder / indexes[0])
        sets: dict[tuple[str, int], dict[int, str]] = {}
        for name in (name for name in names if name.endswith(endings)):
            part = PART.fullmatch(name)
            stem, number, count = (part[1] + part[4], int(part[2]), int(part[3])) if part else (name, 1, 1)
            place = sets.setdefault((stem, count), {})
            if number in place:
                raise UserError(f"{str(folder)!r} holds part {number} of {count} twice: {place[number]}, {name}.")
            place[number] = name
        sets = _without_variants(sets)
        if len(sets) > 1:
            every = [min(numbered.values()) for numbered in sets.values()]
            raise UserError(f"{str(folder)!r} holds several sets of weights: {', '.join(every)}; give one of them.")
        for (_, count), numbered in sets.items():
            _check_numbers(folder, count, set(numbered))
            return Files(tuple(folder / numbered[number] for number in sorted(numbered)))
    raise UserError(f"{str(folder)!r} holds no file that ends in .safetensors, {', '.join(TORCH)}.")


def _without_variants(sets: dict[tuple[str, int], dict[int, str]]) -> dict[tuple[str, int], dict[int, str]]:
    """The set with a published name alone where all others are variants of it: NAME.fp16, NAME.non_ema."""
    plain = [(stem, count) for stem, count in sets if Path(stem).stem in PUBLISHED]
    if len(plain) != 1:
        return sets
    (one,) = plain
    name, _, ending = one[0].rpartition(".")
    kin = all(stem.startswith(f"{name}.") and stem.endswith(f".{ending}") for stem, _ in sets)
    return {one: sets[one]} if kin else sets


def _check_numbers(folder: Path, count: int, found: set[int]) -> None:
    wanted = set(range(1, count + 1))
    if found != wanted:
        titled = (("missing", wanted - found), ("not among them", found - wanted))
        words = [f"{title}: {', '.join(map(str, sorted(numbers)))}" for title, numbers in titled if numbers]
        raise UserError(f"{str(folder)!r} should hold the parts 1 .. {count}; {'; '.join(words)}.")


def _index(path: Path) -> Files:
    """The parts that an index lists, all of them in its own folder."""
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_once)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"The index {str(path)!r} cannot be read; it is damaged or of another format: {error}."
        ) from error
    listed = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(listed, dict) or not listed or not all(isinstance(file, str) for file in listed.values()):
        raise UserError(f"The index {str(path)!r} lists no parts; expected {{'weight_map': {{array: file}}}}.")
    files = sorted(set(listed.values()))
    outside = [f for f in files if Path(f).name != f or not f.endswith((SAFETENSORS, *TORCH))]
    if outside:
        raise UserError(
            f"The index {str(path)!r} lists files that are not weights files of its folder: {', '.join(outside)}."
        )
    missing = [file for file in files if not (path.parent / file).is_file()]
    if missing:
        raise UserError(f"The index {str(path)!r} lists parts that are not there: {', '.join(missing)}.")
    stems = {(part[1], part[4]) for file in files if (part := PART.fullmatch(file))}
    beside = [p.name for p in path.parent.iterdir() if (part := PART.fullmatch(p.name)) and (part[1], part[4]) in stems]
    extra = sorted(set(beside) - set(files))
    if extra:
        raise UserError(f"The folder of the index {str(path)!r} holds parts that it does not list: {', '.join(extra)}.")
    return Files(tuple(path.parent / file for file in files), listed)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object with distinct names; the decoder itself keeps the last of equal ones."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it lists {', '.join(sorted({n for n in names if names.count(n) > 1})[:5])} more than once")
    return found

"""What a data set holds, in words and as a sheet of records: `unified-jax data show`."""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from unified_jax.data.base import Browsable, DataSet, Named, Source, open_parts
from unified_jax.data.buckets import bucketed
from unified_jax.data.kinds import FILMS, MEDIA, PICTURES, SOUNDS
from unified_jax.data.tfds import SIGNS
from unified_jax.errors import RunError, UserError
from unified_jax.modalities.files import draw_words
from unified_jax.modalities.image import to_pillow
from unified_jax.modalities.meshes import FORMATS as MESHES, read_cloud
from unified_jax.modalities.pictures import decode_picture, frames_of, shallow
from unified_jax.modalities.points import Points
from unified_jax.modalities.reading import File, first_line
from unified_jax.modalities.sheets import sheet_of_rows
from unified_jax.modalities.sounds import read_sound
from unified_jax.modalities.video import Video

SIDE = 96
"""Pixels of a picture of the sheet."""
LOOKED_AT = 1000
"""Most records, evenly spaced, whose files are opened."""


@dataclass(frozen=True)
class Look:
    """What `data show` says."""

    lines: tuple[str, ...]
    sheet: Any
    """A Pillow image."""


def look(data: DataSet, fields: tuple[str, ...] = (), splits: tuple[str, ...] = (), count: int = 64) -> Look:
    """Counts, sizes and lengths of a data set that needs no recipe, and `count` records of its first split.

    Raises UserError for a set that cannot be opened, and for one that does not list its splits and fields.
    """
    if not isinstance(data, Browsable):
        raise UserError(f"{type(data).__name__} does not say what it holds: it has no methods splits() and columns().")
    splits = splits or data.splits()
    fields = fields or data.columns(splits[0])
    lines = [f"{data.name}: fields {', '.join(fields)}"]
    sources = {split: open_parts(data, split, fields) for split in splits}
    for split, parts in sources.items():
        for _, name, source in parts:
            lines.append(f"split {split!r}: {len(source)} records of {name}")
            lines += [f"  {line}" for line in _summary(source)] if len(source) else []
    first = next((source for parts in sources.values() for _, _, source in parts if len(source)), None)
    return Look(tuple(lines), None if first is None else _sheet(first, count))


def bucket_lines(pipeline: Any, batch: int) -> list[str]:
    """The buckets of a pipeline, and how unevenly an epoch of such batches sees its records; none without buckets."""
    if pipeline.buckets is None:
        return []
    image, total = bucketed(pipeline.modalities), sum(pipeline.buckets.counts)
    imbalance = replace(pipeline.buckets, batch=batch).imbalance()
    lines = [
        f"bucket {height} x {width}: {count} records ({count / total:.1%})"
        for (height, width), count in zip(image.sizes, pipeline.buckets.counts, strict=True)
    ]
    return [*lines, f"imbalance: {imbalance:.1%} of an epoch's examples are repeated or left out"]


def spread(length: int, count: int) -> list[int]:
    """At most `count` indices, evenly spaced."""
    return sorted({length * k // count for k in range(count)}) if length else []


def _summary(source: Source) -> list[str]:
    """A line for each field, of records that are evenly spaced; a last one for those that cannot be read."""
    found: dict[str, list[Any]] = {}
    faults: list[str] = []
    indices = spread(len(source), LOOKED_AT)
    for index in indices:
        try:
            record = source[index]
            measured = {name: _measured(value) for name, value in record.items()}
        except (UserError, RunError, ValueError) as error:
            faults.append(str(error))
            continue
        for name, value in measured.items():
            found.setdefault(name, []).append(value)
    names = dict(source.class_names) if isinstance(source, Named) else {}
    lines = [f"{field}: {_told(values, names.get(field, ()))}" for field, values in found.items()]
    if len(indices) < len(source):
        lines.append(f"(of {len(indices)} records, evenly spaced)")
    if faults:
        lines.append(f"{len(faults)} cannot be read, the first: {faults[0].rstrip('.')}")
    return lines


def _measured(value: Any) -> tuple[str, Any]:
    try:
        return measure(value)
    except ValueError as error:
        file = f"{value.name}: " if isinstance(value, File) else ""
        raise ValueError(f"{file}{error}") from None


def measure(value: Any) -> tuple[str, Any]:
    """(kind, what is counted) of a value: (width, height) of a picture, seconds and rate of a sound, ...

    Raises ValueError for a file that cannot be read.
    """
    if isinstance(value, File):
        return _measure_file(value)
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if isinstance(value, str):
        return "text", len(value)
    array = np.asarray(value)
    if array.shape == () and np.issubdtype(array.dtype, np.integer):
        return "number", int(array)
    return "array", f"{array.dtype} {list(array.shape)}"


def _measure_file(file: File) -> tuple[str, Any]:
    content = file.content
    if not content:
        raise ValueError(f"{file.name!r} is empty")
    if file.suffix in PICTURES or content.startswith(SIGNS):
        picture = decode_picture(content)
        if file.suffix in FILMS and (frames := frames_of(content)) > 1:
            return "film", (picture.width, picture.height, frames)
        return "image", (picture.width, picture.height, picture.mode)
    if file.suffix in SOUNDS:
        sound = read_sound(file)
        return "audio", (len(sound.wave) / sound.rate, sound.rate)
    return "file", (file.suffix or "no suffix", len(content))


def _told(values: list[tuple[str, Any]], names: tuple[str, ...]) -> str:
    kinds = Counter(kind for kind, _ in values)
    return "; ".join(_told_kind(kind, [v for k, v in values if k == kind], names) for kind in kinds)


def _told_kind(kind: str, values: list[Any], names: tuple[str, ...]) -> str:
    if kind == "image":
        sizes = [f"{_range([v[axis] for v in values])}" for axis in (0, 1)]
        modes = ", ".join(f"{count} {mode}" for mode, count in Counter(v[2] for v in values).most_common(4))
        return f"images, {sizes[0]} wide, {sizes[1]} high ({modes})"
    if kind == "film":
        width, height, frames = (_range([v[axis] for v in values]) for axis in range(3))
        return f"films of {frames} frames, {width} wide, {height} high"
    if kind == "audio":
        rates = ", ".join(f"{count} at {rate} Hz" for rate, count in Counter(v[1] for v in values).most_common(4))
        return f"audio of {_range([round(v[0], 2) for v in values])} seconds ({rates})"
    if kind == "file":
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in Counter(v[0] for v in values).most_common(4))
        return f"files of {_range([v[1] for v in values])} bytes ({kinds})"
    if kind == "text":
        return f"texts of {_range(values)} characters"
    if kind == "number" and (names or len(set(values)) <= 20):
        counts = sorted(Counter(values).items())
        words = ", ".join(f"{count} {names[i] if i < len(names) else i}" for i, count in counts[:20])
        return words + (f", ... ({len(counts)} classes)" if len(counts) > 20 else "")
    if kind == "number":
        return f"whole numbers, {_range(values)}"
    return ", ".join(f"{count} {what}" for what, count in Counter(values).most_common(3))


def _range(values: list[Any]) -> str:
    low, middle, high = min(values), sorted(values)[len(values) // 2], max(values)
    return f"{low}" if low == high else f"{low} .. {high} (median {middle})"


def _sheet(source: Source, count: int) -> Any:
    """Records, evenly spaced: their files side by side over their texts."""
    rows, titles = [], []
    names = dict(source.class_names) if isinstance(source, Named) else {}
    for index in spread(len(source), count):
        try:
            record = source[index]
        except (UserError, RunError) as error:
            record = {"fault": str(error)}
        drawn = {field: draw_value(value) for field, value in record.items()}
        words = [
            str(names[field][int(value)]) if field in names and int(value) < len(names[field]) else short(value)
            for field, value in record.items()
            if drawn[field] is None
        ]
        pictures = [(picture, False) for picture in drawn.values() if picture is not None]
        rows.append(pictures or [(draw_words(" | ".join(words)), False)])
        titles.append(" | ".join(words))
    return sheet_of_rows(rows, titles, max(2, 8 // max(map(len, rows))))


def short(value: Any) -> str:
    """A text or number for a title."""
    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def draw_value(value: Any) -> Any:
    """A Pillow image of a file or an array that is a picture; None for texts and numbers."""
    try:
        if isinstance(value, File):
            return _fit(_draw_file(value))
        array = np.asarray(value)
        if array.dtype == np.uint8 and array.ndim in (2, 3, 4):
            array = array[0] if array.ndim == 4 else array[..., None] if array.ndim == 2 else array
            return _fit(to_pillow(array)) if array.shape[-1] <= 4 else None
        return _fit(_wave(array / max(1e-9, float(abs(array).max())))) if array.ndim == 1 and array.size > 200 else None
    except ValueError as error:
        return draw_words(first_line(error))


def _draw_file(file: File) -> Any:
    if file.suffix in MESHES:
        with file.on_disk() as path:
            return Points(1024).picture(read_cloud(path, 1024, False)) if path.suffix else draw_words(file.name)
    if file.suffix in SOUNDS:
        return _wave(read_sound(file).wave)
    if file.suffix in FILMS and file.suffix not in PICTURES:
        return Video(1, SIDE, SIDE, fit="pad").picture(Video(1, SIDE, SIDE, fit="resize").read(file))
    if file.suffix in MEDIA or file.content.startswith(SIGNS):
        return shallow(decode_picture(file.content), 3)
    return draw_words(file.name)


def _wave(samples: np.ndarray) -> Any:
    """A waveform's outline."""
    from PIL import Image as Pillow, ImageDraw

    canvas = Pillow.new("RGB", (SIDE, SIDE), "white")
    draw = ImageDraw.Draw(canvas)
    one = np.asarray(samples, np.float32)
    one = one if one.ndim == 1 else one[:, 0]
    for x, part in enumerate(np.array_split(one / (32768 if np.asarray(samples).dtype == np.int16 else 1), SIDE)):
        if len(part):
            draw.line([x, (1 - part.max()) * SIDE / 2, x, (1 - part.min()) * SIDE / 2], fill=(40, 70, 140))
    return canvas


def _fit(picture: Any) -> Any:
    """At most `SIDE` pixels wide and high, on grey."""
    from PIL import Image as Pillow

    made = picture.convert("RGB")
    made.thumbnail((SIDE, SIDE))
    canvas = Pillow.new("RGB", (SIDE, SIDE), (225, 225, 225))
    canvas.paste(made, ((SIDE - made.width) // 2, (SIDE - made.height) // 2))
    return canvas


def save_sheet(sheet: Any, path: Path) -> None:
    """Writes a sheet. Raises UserError where it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(path)
    except (OSError, ValueError) as error:
        raise UserError(f"The sheet {str(path)!r} cannot be written: {first_line(error)}.") from None

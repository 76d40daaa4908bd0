"""Image grids of samples of any modalities: the conditions, and next to them the generated values."""

import textwrap
from typing import Any

import numpy as np

from unified_jax.modalities.conditions import NEGATIVE
from unified_jax.modalities.image import Image, sheet
from unified_jax.modalities.text import Text

SIDE, GAP, LINE = 96, 4, 13


def show_samples(
    modalities: tuple[Any, ...],
    given: dict[str, np.ndarray],
    made: dict[str, np.ndarray],
    limit: int = 64,
    chosen: list[list[str]] | None = None,
) -> Any:
    """An image grid (Pillow) of at most `limit` samples.

    given    what `prepare` gives, `[b, ...]`: labels, numbers and texts are titles, the rest images under a grey edge
    made     what `from_model` gives, `[b, ...]`
    chosen   names of each sample's generated modalities, in order, where they differ; others are grey
    Images of one modality fill a grid; with several, each sample has a row.
    """
    from PIL import Image as Pillow

    nothing = Pillow.new("RGB", (SIDE, SIDE), (225, 225, 225))
    by_name = {m.name: m for m in modalities}
    by_name |= {NEGATIVE + name: modality for name, modality in by_name.items()}
    count = min(limit, *(len(value) for value in (*given.values(), *made.values())))
    titles = [_title(by_name, given, i) for i in range(count)]
    if chosen is not None:
        titles = [f"{title} -> {', '.join(row) or 'nothing'}" for title, row in zip(titles, chosen, strict=False)]
    if (
        len(made) == 1
        and chosen is None
        and isinstance(by_name[next(iter(made))], Image)
        and not _drawn(by_name, given)
    ):
        images = next(iter(made.values()))[:count]
        return sheet(images, titles=titles if any(titles) else None)
    rows = []
    for i in range(count):
        shown = [(by_name[n].picture(by_name[n].open(given[n][i])), True) for n in _drawn(by_name, given)]
        for name, value in made.items():
            there = chosen is None or name in chosen[i]
            shown.append((by_name[name].picture(value[i]) if there else nothing, False))
        rows.append(shown)
    return sheet_of_rows(rows, titles, beside=2 if made else max(2, 8 // max(1, *map(len, rows))))


def _drawn(by_name: dict[str, Any], given: dict[str, np.ndarray]) -> list[str]:
    words = [name for name in given if isinstance(by_name[name], Text) or hasattr(by_name[name], "title")]
    drawn = [name for name in given if name not in words and hasattr(by_name[name], "picture")]
    return [name for name in drawn if not name.startswith(NEGATIVE)]


def _title(by_name: dict[str, Any], given: dict[str, np.ndarray], i: int) -> str:
    words = []
    for name, value in given.items():
        modality: Any = by_name[name]
        against = ["not"] if name.startswith(NEGATIVE) else []
        if isinstance(modality, Text):
            words += [*against, modality.decode(value[i])]
        elif hasattr(modality, "title"):
            words += [*against, modality.title(np.asarray(value[i]).tolist())]
    return " ".join(words)


def sheet_of_rows(rows: list[list[tuple[Any, bool]]], titles: list[str], beside: int = 2) -> Any:
    """Samples side by side, `beside` in a line: each a row of Pillow images over its title, given ones with an edge."""
    from PIL import Image as Pillow, ImageDraw

    across = max(map(len, rows))
    wide = across * (SIDE + GAP)
    wrapped = [textwrap.wrap(title, max(16, wide // 6)) for title in titles]
    text = LINE * max((len(lines) for lines in wrapped), default=0)
    height = SIDE + text + GAP
    canvas = Pillow.new("RGB", (beside * (wide + GAP) + GAP, GAP + -(-len(rows) // beside) * height), "white")
    draw = ImageDraw.Draw(canvas)
    for i, row in enumerate(rows):
        left, top = GAP + (i % beside) * (wide + GAP), GAP + (i // beside) * height
        for j, (picture, was_given) in enumerate(row):
            box = (left + j * (SIDE + GAP), top)
            canvas.paste(picture.resize((SIDE, SIDE), Pillow.Resampling.NEAREST), box)
            if was_given:
                draw.rectangle([box[0], box[1], box[0] + SIDE - 1, box[1] + SIDE - 1], outline=(150, 150, 150), width=3)
        for j, line in enumerate(wrapped[i]):
            draw.text((left + 1, top + SIDE + LINE * j), line, fill="black")
    return canvas

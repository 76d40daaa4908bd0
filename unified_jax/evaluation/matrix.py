r"""The any-to-any matrix of a Transfusion model on the world: what readers find in the samples, against the scene.

For a request (given, wanted) each sample's score is the mean, over the attributes that the given modalities show *and*
the wanted one shows, of whether the reader finds the scene's value; a sample without exactly one object, and a
text that is not a caption, scores 0. Chance is the score of guessing every attribute. A caption shows the attributes it
names; a pair without a common attribute has no score. A one-sided z-test of the samples' mean decides whether a score
is above chance, with Holm's (1979) correction over all requests of the split.

Joint generation (nothing given; texts are sampled at temperature 1, as greedy ones would all be equal) is scored by
consistency: the mean, over pairs of modalities, of how often their readers agree on an attribute that both show. Each
of these pairs is scored in the same way.

Pairs that training kept apart (`Documents.apart`) are rows like the others, with `never_together` true.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from unified_jax.data.world.caption import caption_or_nothing
from unified_jax.data.world.read import Reading, read_image, read_video
from unified_jax.data.world.read_action import read_action
from unified_jax.data.world.read_solid import read_depth, read_points
from unified_jax.data.world.read_sound import read_audio
from unified_jax.data.world.scene import ATTRIBUTES
from unified_jax.evaluation.statistics import holm, wilson_interval
from unified_jax.modalities.action import Action
from unified_jax.modalities.audio import Audio
from unified_jax.modalities.depth import Depth
from unified_jax.modalities.image import Image
from unified_jax.modalities.label import Label
from unified_jax.modalities.points import Points
from unified_jax.modalities.text import Text
from unified_jax.modalities.video import Video

VALUES = {name: len(choices) for name, choices in ATTRIBUTES}
NAMES = tuple(VALUES)
Found = dict[str, tuple[np.ndarray, np.ndarray]]
"""Attribute -> (value [b], shown [b])."""

SIGNIFICANCE = 0.05


def read(modality: Any, examples: np.ndarray) -> Found:
    """The attributes that raw values show; -1 unless the reader finds exactly one object."""
    match modality:
        case Text():
            return _read_captions(examples.tolist())
        case Label():
            return _read_labels(modality.name, examples)
        case Image():
            return _attributes(read_image(examples), ("shape", "colour", "size", "place"))
        case Video():
            return _attributes(read_video(examples), NAMES if modality.frames > 1 else NAMES[:4])
        case Depth():
            shown = ("shape", "size", "place", "motion") if modality.frames > 1 else ("shape", "size", "place")
            return _attributes(read_depth(examples), shown)
        case Audio():
            return _attributes(read_audio(examples), ("shape", "colour", "size"))
        case Points():
            return _attributes(read_points(examples), ("shape", "colour", "size", "place"))
        case Action():
            return _attributes(read_action(examples), ("place", "motion"))
    raise ValueError(f"The world has no reader for {type(modality).__name__}.")


def _attributes(reading: Reading, shown: tuple[str, ...]) -> Found:
    single = reading.count == 1
    everywhere = np.ones(len(single), bool)
    return {name: (np.where(single, getattr(reading, name)[:, 0], -1), everywhere) for name in shown}


def _read_labels(name: str, classes: np.ndarray) -> Found:
    """An attribute of the world, or its `label`, shape and colour in one."""
    shown = np.ones(len(classes), bool)
    if name in VALUES:
        return {name: (classes, shown)}
    shape, colour = np.divmod(classes, VALUES["colour"])
    return {"shape": (np.where(classes < 0, -1, shape), shown), "colour": (np.where(classes < 0, -1, colour), shown)}


def _read_captions(texts: list[str]) -> Found:
    values = {name: np.full(len(texts), -1) for name in NAMES}
    shown = {name: np.zeros(len(texts), bool) for name in NAMES}
    for i, text in enumerate(texts):
        objects = caption_or_nothing(text)
        if len(objects) != 1:
            for name in NAMES:
                shown[name][i] = True
            continue
        for name, value in objects[0].items():
            values[name][i], shown[name][i] = value, True
    return {name: (values[name], shown[name]) for name in NAMES}


def scores(truth: dict[str, np.ndarray], given: list[Found], made: Found) -> tuple[np.ndarray, np.ndarray]:
    """(score, chance) of the samples that have one."""
    hits, guesses, weight = (np.zeros(len(next(iter(truth.values())))) for _ in range(3))
    for name, (value, shown) in made.items():
        asked = np.zeros(len(value), bool)
        for found in given:
            if name in found:
                asked |= found[name][1]
        counted = asked & shown
        hits += counted * (value == truth[name])
        guesses += counted / VALUES[name]
        weight += counted
    some = weight > 0
    return hits[some] / weight[some], guesses[some] / weight[some]


def consistency(made: dict[str, Found]) -> tuple[np.ndarray, np.ndarray]:
    """(agreement, chance) of samples of several modalities that were generated jointly."""
    agree, guesses, weight = (np.zeros(len(next(iter(next(iter(made.values())).values()))[0])) for _ in range(3))
    for a, b in itertools.combinations(made.values(), 2):
        for name in a.keys() & b.keys():
            both = a[name][1] & b[name][1]
            agree += both * ((a[name][0] == b[name][0]) & (a[name][0] >= 0))
            guesses += both / VALUES[name]
            weight += both
    some = weight > 0
    return agree[some] / weight[some], guesses[some] / weight[some]


def make_row(
    given: tuple[str, ...], wanted: tuple[str, ...], split: str, metric: str, found: tuple[np.ndarray, np.ndarray]
) -> dict[str, Any]:
    """A row of evaluation.json, with the p-value that `correct` reads."""
    values, chances = found
    n = len(values)
    row: dict[str, Any] = {"given": list(given), "wanted": list(wanted), "split": split, "metric": metric, "n": n}
    if not n:
        return row | {"value": None, "low": None, "high": None, "chance": None, "p": 1.0}
    value, chance = float(values.mean()), float(chances.mean())
    low, high = wilson_interval(value, n)
    # Of few samples that are all right the observed deviation is 0; that of chance is not.
    error = math.sqrt(max(float((values - chances).var()), float((chances * (1 - chances)).mean()), 1e-6) / n)
    p = 0.5 * math.erfc((value - chance) / error / math.sqrt(2))
    return row | {"value": value, "low": low, "high": high, "chance": chance, "p": p}


def correct(rows: list[dict[str, Any]]) -> None:
    """Adds `above_chance` to rows of one split: Holm's procedure over those that have a value."""
    tested = [row for row in rows if row["value"] is not None]
    for row, p in zip(tested, holm([row["p"] for row in tested]), strict=True):
        row["above_chance"] = p <= SIGNIFICANCE


def requests(names: tuple[str, ...]) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Every pair, all but one -> that one, and nothing -> all."""
    pairs = [((given,), (wanted,)) for given in names for wanted in names if given != wanted]
    rest = [(tuple(n for n in names if n != wanted), (wanted,)) for wanted in names] if len(names) > 2 else []
    return [*pairs, *rest, ((), names)]


def table(rows: list[dict[str, Any]], names: tuple[str, ...]) -> str:
    """The matrix of one split as text: rows are the given modalities, columns the generated ones."""
    by_pair = {(tuple(row["given"]), tuple(row["wanted"])): row for row in rows}
    width = max(12, *(len(name) + 2 for name in names))
    lines = [" " * 12 + "".join(f"{name:>{width}}" for name in names)]
    for given in [*((name,) for name in names), "everything else"]:
        cells = []
        for wanted in names:
            key = tuple(n for n in names if n != wanted) if isinstance(given, str) else given
            row = by_pair.get((key, (wanted,)))
            value = row["value"] if row else None
            mark = "" if not row or row.get("above_chance", True) else "?"
            mark += "*" if row and row.get("never_together") else ""
            cells.append(f"{'-' if value is None else f'{value:.2f}{mark}':>{width}}")
        lines.append(f"{given if isinstance(given, str) else given[0]:12.12s}" + "".join(cells))
    return "\n".join(lines)


def heat_map(rows: list[dict[str, Any]], names: tuple[str, ...]) -> Any:
    """The same as a Pillow image: white is chance, dark green is 1."""
    from PIL import Image as Pillow, ImageDraw

    cell, left, top = 64, 96, 24
    canvas = Pillow.new("RGB", (left + cell * len(names) + 8, top + cell * (len(names) + 1) + 8), "white")
    draw = ImageDraw.Draw(canvas)
    by_pair = {(tuple(row["given"]), tuple(row["wanted"])): row for row in rows}
    for j, wanted in enumerate(names):
        draw.text((left + j * cell + 6, 8), wanted, fill="black")
        for i, given in enumerate((*((name,) for name in names), tuple(n for n in names if n != wanted))):
            row = by_pair.get((given, (wanted,)))
            if j == 0:
                draw.text((4, top + i * cell + 26), given[0] if i < len(names) else "all others", fill="black")
            if row is None or row["value"] is None:
                continue
            share = min(1.0, max(0.0, (row["value"] - row["chance"]) / (1 - row["chance"])))
            colour = tuple(round(255 + share * (dark - 255)) for dark in (20, 120, 70))
            box = (left + j * cell, top + i * cell)
            draw.rectangle([*box, box[0] + cell - 3, box[1] + cell - 3], fill=colour)
            ink = "white" if share > 0.6 else "black"
            draw.text((box[0] + 16, box[1] + 16), f"{row['value']:.2f}", fill=ink)
            draw.text((box[0] + 8, box[1] + 34), f"({row['chance']:.2f})", fill=ink)
    return canvas


def evaluate_split(
    modalities: tuple[Any, ...],
    truth: dict[str, np.ndarray],
    raw: dict[str, np.ndarray],
    split: str,
    generate: Callable[[tuple[str, ...], tuple[str, ...]], dict[str, np.ndarray]],
    apart: tuple[tuple[str, str], ...] = (),
) -> list[dict[str, Any]]:
    """The rows of one split; the last is joint generation of everything.

    truth      attribute -> the scenes' values [b]
    raw        modality -> the scenes' renderings as `prepare` gives them
    generate   (given, wanted) -> samples, as raw values
    """
    by_name = {m.name: m for m in modalities}
    names = tuple(by_name)
    true = {
        name: read(m, m.from_model(raw[name]) if isinstance(m, Text | Label) else m.open(raw[name]))
        for name, m in by_name.items()
    }
    rows = []
    for given, wanted in requests(names):
        if given and not any(set(true[g]) & set(true[wanted[0]]) for g in given):
            continue
        made = {name: read(by_name[name], value) for name, value in generate(given, wanted).items()}
        if given:
            found = scores(truth, [true[name] for name in given], made[wanted[0]])
            row = make_row(given, wanted, split, "attribute_accuracy", found)
            never = len(given) == 1 and {given[0], wanted[0]} in [set(pair) for pair in apart]
            rows.append(row | {"never_together": True} if never else row)
        else:
            for pair in itertools.combinations(names, 2):
                found = consistency({name: made[name] for name in pair})
                if len(found[0]) and len(names) > 2:
                    rows.append(make_row((), pair, split, "consistency", found))
            rows.append(make_row((), wanted, split, "consistency", consistency(made)))
    correct(rows)
    return rows

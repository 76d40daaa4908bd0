"""Distances between sets of pictures: `unified-jax distance`, and `evaluate --against`.

Features are kept in a folder of their own (`extraction`): a killed command goes on, and a set that was measured before
is not read again. Statistics files of others are references without vectors (`evaluation.feature_sets`).
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from unified_jax.errors import UserError
from unified_jax.evaluation.comparison import Measures, Row, compare
from unified_jax.evaluation.extractors import Extractor
from unified_jax.evaluation.feature_sets import (
    FeatureSet,
    Published,
    Statistics,
    Vectors,
    read_statistics,
    statistics_of,
)
from unified_jax.hosts import together, writes
from unified_jax.modalities.image import Image
from unified_jax.runs.extraction import extract
from unified_jax.runs.pictures import Pictures, of_split, open_pictures


@dataclass(frozen=True)
class Reference:
    """A set that samples are compared with: pictures, published moments, or both."""

    name: str
    pictures: Pictures | None
    published: Published

    def features(self, extractor: Extractor, root: Path, batch: int, show: bool = True) -> FeatureSet:
        """Its features by an extractor; a bar with `show`."""
        known = self.published.of(extractor.label)
        if self.pictures is None:
            return Statistics(self.name, known, self.published.count)
        found = features(self.pictures, extractor, root, batch, show)
        return Vectors(found.name, found.arrays, known)


def open_reference(source: str) -> Reference:
    """What a word names: statistics, or a set as `open_pictures` reads it. Raises UserError."""
    path = Path(source).expanduser()
    published = read_statistics(path) if path.suffix == ".npz" and path.is_file() else Published()
    try:
        return Reference(source, open_pictures(source), published)
    except UserError:
        if not published.known:
            raise
        return Reference(source, None, published)


def reference_of(source: str, data: Any, image: Image) -> Reference:
    """A split of a run's own data, prepared as in training; anything else as `open_reference`. Raises UserError."""
    path = Path(source).expanduser()
    if path.exists() or ":" in source or source.endswith((".npz", ".npy")):
        return open_reference(source)
    try:
        return Reference(source, of_split(data, source, image, f"{data.name}:{source}"), Published())
    except UserError as error:
        raise UserError(f"--against {source!r} is neither a path nor a split of the run's data: {error}") from None


def features(pictures: Pictures, extractor: Extractor, root: Path, batch: int, show: bool = True) -> Vectors:
    """`extract`, with a bar."""
    what = f"{pictures.name}, {extractor.label.split(' (')[0]}"
    off = not show or not writes()
    with tqdm(total=len(pictures), desc=what, unit="image", dynamic_ncols=True, disable=off) as bar:
        return extract(pictures, extractor, root, batch, bar.update)


def distances(
    real: Reference, made: Pictures, extractors: tuple[Extractor, ...], measures: Measures, roots: tuple[Path, Path],
    batch: int = 64,
) -> list[Row]:  # fmt: skip
    """The rows of all extractors, of process 0; `roots` are the folders of features of the reference and the samples.

    Raises UserError where a reference of statistics has nothing to compare with an extractor that is asked for alone.
    """
    rows: list[Row] = []
    for extractor in extractors:
        if real.pictures is None and not real.published.of(extractor.label):
            continue
        a = real.features(extractor, roots[0], batch)
        b = features(made, extractor, roots[1], batch)
        with bars() as begin:
            rows += together(lambda a=a, b=b, e=extractor: compare(a, b, e.label, measures, begin), by="first") or []
    if not rows and writes():
        made_by = real.published.label or "Inception's features"
        asked = ", ".join(one.label for one in extractors)
        raise UserError(
            f"{real.name} and {made.name} have nothing to compare: the statistics are of {made_by}, asked for is "
            f"{asked}; --inception FILE names the weights, and the metrics of statistics are frechet and spatial."
        )
    return rows


@contextlib.contextmanager
def bars() -> Iterator[Callable[[str, int], Callable[[int], Any]]]:
    """`begin` of `compare`: a bar for each metric."""
    with contextlib.ExitStack() as stack:

        def begin(metric: str, total: int) -> Callable[[int], Any]:
            stack.close()
            bar = tqdm(total=total, desc=metric, dynamic_ncols=True, leave=False, disable=not writes() or not total)
            return stack.enter_context(bar).update

        yield begin


def lines(rows: list[Row]) -> list[str]:
    """A table for people."""
    found = [f"{'metric':16} {'value':>10}  {'95 % interval':22} {'n':>7} {'n ref.':>7}  extractor"]
    for row in rows:
        interval = "" if row["low"] is None else f"[{row['low']:.4g}, {row['high']:.4g}]"
        known = row["n_reference"] or "?"
        found.append(
            f"{row['metric']:16} {row['value']:10.5g}  {interval:22} {row['n']:>7} {known:>7}  {row['extractor']}"
        )
    return found + notes(rows)


def notes(rows: list[Row]) -> list[str]:
    """What a reader of the numbers must know."""
    found = []
    few = [row for row in rows if row["metric"] in ("fid", "sfid", "frechet") and row["n"] < 10_000]
    if few:
        found.append(
            f"Frechet distances of {few[0]['n']} images are too large: compare them only with those of as many. Their "
            "interval is that of the distance without this bias."
        )
    if any("torchvision" in row["extractor"] for row in rows):
        found.append("These are torchvision's weights: the numbers are not comparable with published FIDs.")
    return found


def write_statistics(path: Path, one: FeatureSet, label: str) -> None:
    """The moments of a set as a .npz that others read. Raises UserError where it cannot be written."""
    try:
        with path.open("wb") as file:
            np.savez(file, **statistics_of(one, label))  # type: ignore[arg-type]
    except OSError as error:
        raise UserError(f"The file {str(path)!r} cannot be written: {error.strerror or error}.") from error

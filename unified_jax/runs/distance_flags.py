"""The flags of distances between sets of pictures."""

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unified_jax.errors import UserError
from unified_jax.evaluation.comparison import METRICS, Measures
from unified_jax.evaluation.distances import Rule
from unified_jax.evaluation.preprocessing import Mode

if TYPE_CHECKING:
    from unified_jax.evaluation.extractors import Extractor


@dataclass(frozen=True)
class DistanceFlags:
    """What is compared, and how."""

    inception: str = ""
    """File of Inception's weights (pt_inception-2015-12-05, torch-fidelity's or torchvision's): FID, sFID, KID,
    precision, recall and Inception score."""
    preprocessing: Mode = "adm"
    """How Inception's input is resized; numbers of different modes are not comparable."""
    encoder: tuple[str, ...] = ()
    """Runs whose models encode images, or folders of transformers with a CLIP, a SigLIP or a DINOv2: their features
    are compared too."""
    pixels: bool = True
    """Also compare pooled pixels."""
    metrics: tuple[str, ...] = METRICS
    """Some of frechet, spatial, kernel, precision_recall, score."""
    intervals: bool = True
    """Also intervals; without them a distance takes about a twentieth of the time."""
    rule: Rule = "ours"
    """Who draws KID's subsets and the splits of the Inception score: ours, torch_fidelity or clean."""
    subset: int = 1000
    """Vectors of a subset of KID."""
    subsets: int = 100
    """Subsets of KID."""
    neighbours: int = 3
    """Neighbours of precision and recall."""
    score_splits: int = 10
    """Splits of the Inception score."""
    cache: str = ""
    """Folder of features; default: in the user's cache folder. "none": they are not kept."""

    def measures(self) -> Measures:
        """As a plain value. Raises UserError for what cannot be."""
        try:
            return Measures(
                self.metrics, self.intervals, self.neighbours, self.subset, self.subsets, self.rule, self.score_splits
            )
        except ValueError as error:
            raise UserError(str(error)) from None

    def extractors(self, trust: bool) -> "tuple[Extractor, ...]":
        """Those that are asked for. Raises UserError for none, or weights that do not fit."""
        from unified_jax.evaluation.extractors import Inception, PooledPixels
        from unified_jax.runs.encoders import encoder_of

        found: list[Any] = [Inception(self.inception, self.preprocessing)] if self.inception else []
        for one in found:
            _ = one.label  # reads the file: a wrong one is refused before pictures are read
        found += [encoder_of(Path(run), trust) for run in self.encoder]
        found += [PooledPixels()] if self.pixels else []
        if not found:
            raise UserError("Nothing would be compared: give --inception FILE or --encoder RUN, or leave pixels on.")
        return tuple(found)

    @contextlib.contextmanager
    def root(self) -> Iterator[Path]:
        """The folder of features; a temporary one for "none"."""
        if self.cache == "none":
            with tempfile.TemporaryDirectory() as folder:
                yield Path(folder)
        else:
            from unified_jax.runs.extraction import cache_folder

            yield Path(self.cache).expanduser() if self.cache else cache_folder()

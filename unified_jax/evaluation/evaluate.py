"""The evaluation of a trained model: rows {given, wanted, split, metric, value, low, high, chance, n}."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from unified_jax.data.base import DataSet
from unified_jax.data.world import World
from unified_jax.data.world.read import read_image
from unified_jax.evaluation.attributes import SHOWN, attribute_hits, chance, sample_accuracy
from unified_jax.evaluation.distances import frechet, pooled_pixels
from unified_jax.evaluation.statistics import wilson_interval
from unified_jax.modalities.label import Label
from unified_jax.models.base import Model

FeatureFunction = Callable[[np.ndarray], np.ndarray]
"""Images in [-1, 1] `[b, h, w, c]` to features `[b, d]`."""


@dataclass(frozen=True)
class Samples:
    """The conditions and the samples of one split."""

    split: str
    given: dict[str, np.ndarray]
    truth: np.ndarray
    made: np.ndarray

    def titles(self, model: Model) -> list[str]:
        """The labels of each sample as text."""
        labels = [m for m in model.modalities if isinstance(m, Label) and m.name in self.given]
        return [" ".join(one.title(int(self.given[one.name][i])) for one in labels) for i in range(len(self.made))]


def is_world(data: DataSet, model: Model) -> bool:
    """Whether readers can score the model: RGB images of a world of one object, conditioned on what they show."""
    given, (wanted,) = model.request((), ())
    channels = next(m.blank().shape[-1] for m in model.modalities if m.name == wanted)
    single = isinstance(data, World) and data.max_objects == 1 and channels == 3
    return single and any(name in SHOWN for name in given)


def rows_of(
    samples: Samples, model: Model, world: bool, feature: FeatureFunction = pooled_pixels
) -> list[dict[str, Any]]:
    """The rows of one split: attribute accuracies (on a world) and the Frechet distance on `feature`."""
    base = _asked(model, samples.split) | {"n": len(samples.made)}
    rows = []
    if world:
        names, hits, named = attribute_hits(read_image(samples.made), samples.given)
        rows.append(base | _accuracy_row("attribute_accuracy", sample_accuracy(hits, named), chance(names)))
        for i, name in enumerate(names):
            one = sample_accuracy(hits[:, i : i + 1], named[:, i : i + 1])
            rows.append(base | _accuracy_row(f"accuracy/{name}", one, chance((name,))))
    truth, made = (feature(x.astype(np.float64) / 127.5 - 1.0) for x in (samples.truth, samples.made))
    distance = {"metric": f"frechet/{feature.__name__}", "value": frechet(truth, made)}
    rows.append(base | distance | {"low": None, "high": None, "chance": None})
    return rows


def _accuracy_row(metric: str, scores: np.ndarray, guess: float) -> dict[str, Any]:
    value = float(scores.mean())
    low, high = wilson_interval(value, len(scores))
    return {"metric": metric, "value": value, "low": low, "high": high, "chance": guess, "n": len(scores)}


def _asked(model: Model, split: str) -> dict[str, Any]:
    given, wanted = model.request((), ())
    return {"given": list(given), "wanted": list(wanted), "split": split}


def bits_row(bits: np.ndarray, model: Model, split: str) -> dict[str, Any]:
    """The row of a mean of bits/dim, with a normal interval; 8 bits/dim is the cost of uniform noise."""
    mean, error = float(bits.mean()), 1.96 * float(bits.std(ddof=1)) / np.sqrt(len(bits)) if len(bits) > 1 else 0.0
    row = _asked(model, split) | {"metric": "bits_per_dim", "value": mean, "low": mean - error, "high": mean + error}
    return row | {"chance": 8.0, "n": len(bits)}


def splits_for(data: DataSet, asked: tuple[str, ...]) -> tuple[str, ...]:
    """The requested splits, or the defaults: test, and on the world also held_out."""
    return asked or (("test", "held_out") if isinstance(data, World) else ("test",))

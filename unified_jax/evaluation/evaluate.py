"""The evaluation of a trained model: rows {given, wanted, split, metric, value, low, high, chance, n}."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from unified_jax.data.base import DataSet
from unified_jax.data.pipeline import Pipeline
from unified_jax.data.world import World
from unified_jax.data.world.read import read_image
from unified_jax.evaluation.attributes import SHOWN, attribute_hits, chance, sample_accuracy
from unified_jax.evaluation.distances import frechet, pooled_pixels
from unified_jax.evaluation.statistics import wilson_interval
from unified_jax.models.diffusion import Diffusion
from unified_jax.models.sampling import generate_many
from unified_jax.samplers.plan import Plan
from unified_jax.sharding import Rules
from unified_jax.typing import Params

FeatureFunction = Callable[[np.ndarray], np.ndarray]
"""Images in [-1, 1] `[b, h, w, c]` to features `[b, d]`."""


@dataclass(frozen=True)
class Samples:
    """What one split asked for, and what was drawn."""

    split: str
    given: dict[str, np.ndarray]
    truth: np.ndarray
    made: np.ndarray

    def titles(self, model: Diffusion) -> list[str]:
        """The condition of each sample in words."""
        return [" ".join(c.title(int(self.given[c.name][i])) for c in model.conditions) for i in range(len(self.made))]


def draw(
    model: Diffusion, params: Params, data: DataSet, split: str, count: int, seed: int, plan: Plan, batch: int,
    rules: Rules, report: Callable[[int], Any] = lambda done: None,
) -> Samples:  # fmt: skip
    """One sample for the conditions of each of `count` examples of a split, beside the examples' own images."""
    examples = Pipeline(data, split, model.modalities, count, seed).batch(0).arrays
    given = {c.name: examples[c.name] for c in model.conditions}
    name = model.modality.name
    made = generate_many(model, params, given, (name,), count, seed, plan, batch, rules, report)[name]
    return Samples(split, given, examples[name], model.modality.from_model(made))


def is_world(data: DataSet, model: Diffusion) -> bool:
    """Whether readers can score the model: RGB pictures of a world of one object, conditioned on what they show."""
    single = isinstance(data, World) and data.max_objects == 1 and model.modality.channels == 3
    return single and any(c.name in SHOWN for c in model.conditions)


def rows_of(
    samples: Samples, model: Diffusion, world: bool, feature: FeatureFunction = pooled_pixels
) -> list[dict[str, Any]]:
    """The rows of one split: attribute accuracies (on a world) and the Frechet distance on `feature`."""
    given = [c.name for c in model.conditions]
    base = {"given": given, "wanted": [model.modality.name], "split": samples.split, "n": len(samples.made)}
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


def bits_row(bits: np.ndarray, model: Diffusion, split: str) -> dict[str, Any]:
    """The row of a mean of bits/dim, with a normal interval; 8 bits/dim is what uniform noise costs."""
    mean, error = float(bits.mean()), 1.96 * float(bits.std(ddof=1)) / np.sqrt(len(bits)) if len(bits) > 1 else 0.0
    row = {"given": [c.name for c in model.conditions], "wanted": [model.modality.name], "split": split}
    row |= {"metric": "bits_per_dim", "value": mean, "low": mean - error, "high": mean + error}
    return row | {"chance": 8.0, "n": len(bits)}


def splits_for(data: DataSet, asked: tuple[str, ...]) -> tuple[str, ...]:
    """The asked splits, or the defaults: test, and on the world the held-out combinations apart."""
    return asked or (("test", "held_out") if isinstance(data, World) else ("test",))

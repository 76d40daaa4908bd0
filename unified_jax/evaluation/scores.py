"""Scores of samples: what `evaluate` measures, given the conditions and true examples of a split.

A score is a frozen dataclass with `suits` and `__call__`; a custom one goes into `Experiment.scores`. Without any, all
of this module that suit the data set and the model are used.

    WorldAttributes   accuracy of what labels ask for, on the world of one object
    WorldCaptions     accuracy of what captions ask for, of one object or two, of their number, and of binding
    PixelFrechet      Frechet distance of pooled pixels, of anything that is an image
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from unified_jax.data.cached import examples_of
from unified_jax.data.world import World
from unified_jax.data.world.caption import caption_or_nothing
from unified_jax.data.world.read import Reading, read_image
from unified_jax.data.world.scene import ATTRIBUTES
from unified_jax.evaluation.attributes import SHOWN, attribute_hits, chance, sample_accuracy
from unified_jax.evaluation.distances import frechet, pooled_pixels
from unified_jax.evaluation.statistics import wilson_interval
from unified_jax.modalities.image import Image
from unified_jax.modalities.text import Text

Row = dict[str, Any]
"""metric, value, low, high (a 95 % interval, or None), chance, n."""


@dataclass(frozen=True)
class Samples:
    """The conditions and the samples of one split."""

    split: str
    model: Any
    given: dict[str, np.ndarray]
    """Prepared arrays by field."""
    wanted: str
    """The generated field."""
    truth: np.ndarray
    """True examples as `prepare` gives them."""
    made: np.ndarray
    """Samples as raw values."""

    @property
    def modality(self) -> Any:
        """The generated modality."""
        return next(m for m in self.model.modalities if m.name == self.wanted)

    def titles(self) -> list[str]:
        """The conditions of each sample as text: labels, or a caption."""
        by_name = {m.name: m for m in self.model.modalities}
        shown = [by_name[name] for name in self.given]
        return [
            " ".join(
                m.decode(self.given[m.name][i]) if isinstance(m, Text) else m.title(int(self.given[m.name][i]))
                for m in shown
                if isinstance(m, Text) or (hasattr(m, "title") and self.given[m.name].ndim == 1)
            )
            for i in range(len(self.made))
        ]


@runtime_checkable
class Score(Protocol):
    """One measurement. Implementations: this module."""

    def suits(self, data: Any, model: Any) -> str:
        """Why it cannot score this model on this data set, as part of a sentence; "" if it can."""
        ...

    def __call__(self, samples: Samples) -> list[Row]:
        """The rows of one split."""
        ...


def _made(model: Any) -> list[Any]:
    """What a model makes by default; of a chain, its results."""
    wanted = model.request((), ())[1] if model.wantable else ()
    return [m for m in model.modalities if m.name in wanted]


def _no_image(model: Any) -> str:
    made = _made(model)
    rgb = len(made) == 1 and isinstance(made[0], Image) and made[0].channels == 3
    return "" if rgb else "it reads RGB images, one a sample"


@dataclass(frozen=True)
class WorldAttributes:
    """Accuracy of the attributes that labels ask for (`evaluation.attributes`), and how often there is one object."""

    def suits(self, data: Any, model: Any) -> str:
        """See `Score`."""
        world = examples_of(data)
        if not isinstance(world, World) or world.max_objects != 1:
            return "it reads the world of one object"
        given, _ = model.request((), ())
        shown = any(name in SHOWN for name in given)
        return _no_image(model) or ("" if shown else f"no condition is one of {', '.join(SHOWN)}")

    def __call__(self, samples: Samples) -> list[Row]:
        """See `Score`."""
        reading = read_image(samples.made)
        counted = accuracy_row("count_accuracy", np.asarray(reading.count == 1, float), 0.5)
        if not any(name in SHOWN for name in samples.given):  # `--only` a condition that a picture does not show
            return [counted]
        names, hits, named = attribute_hits(reading, samples.given)
        rows = [accuracy_row("attribute_accuracy", sample_accuracy(hits, named), chance(names)), counted]
        for i, name in enumerate(names):
            one = sample_accuracy(hits[:, i : i + 1], named[:, i : i + 1])
            rows.append(accuracy_row(f"accuracy/{name}", one, chance((name,))))
        return rows


@dataclass(frozen=True)
class WorldCaptions:
    """Accuracy of what a caption names and an image shows, of one object or two, and of the number of objects.

    Objects are matched so that most attributes agree; a sample with another number of objects than its caption scores
    zero on all attributes. A caption that says nothing of the world, or was cut within a word, is not scored.
    """

    def suits(self, data: Any, model: Any) -> str:
        """See `Score`."""
        if not isinstance(examples_of(data), World):
            return "it reads the world"
        given, _ = model.request((), ())
        texts = [m for m in model.modalities if m.name in given and isinstance(m, Text)]
        return _no_image(model) or ("" if len(texts) == 1 else "the model is not conditioned on one caption")

    def __call__(self, samples: Samples) -> list[Row]:
        """See `Score`."""
        texts = [m for m in samples.model.modalities if m.name in samples.given and isinstance(m, Text)]
        if not texts:  # `--only` another condition
            return []
        (text,) = texts
        told = [caption_or_nothing(text.decode(row)) for row in samples.given[text.name]]
        kept = [i for i, objects in enumerate(told) if objects]
        if not kept:
            return []
        asked = [told[i] for i in kept]
        reading = read_image(samples.made[np.asarray(kept)])
        counted = np.asarray([reading.count[i] == len(objects) for i, objects in enumerate(asked)])
        hits = [caption_hits(objects, reading, i) for i, objects in enumerate(asked)]
        scored = np.asarray([np.mean(list(found.values())) for found in hits if found])
        rows = [accuracy_row("attribute_accuracy", scored, chance(SHOWN)), accuracy_row("count_accuracy", counted, 0.5)]
        for name in SHOWN:
            one = np.asarray([hit for found in hits for (_, n), hit in found.items() if n == name], float)
            if len(one):
                rows.append(accuracy_row(f"accuracy/{name}", one, chance((name,))))
        for size in (1, 2):
            some = np.asarray([len(objects) == size for objects in asked])
            if some.any():
                rows.append(accuracy_row(f"count_accuracy/{size}", counted[some], 0.5))
        return rows + binding_rows(asked, reading)


def caption_hits(objects: tuple[dict[str, int], ...], reading: Reading, i: int) -> dict[tuple[int, str], bool]:
    """(object, attribute) -> whether image i shows it, of every named attribute that an image shows."""
    named = {(k, name): value for k, one in enumerate(objects) for name, value in one.items() if name in SHOWN}
    if reading.count[i] != len(objects):
        return dict.fromkeys(named, False)
    orders = [
        {(k, name): bool(getattr(reading, name)[i, order[k]] == value) for (k, name), value in named.items()}
        for order in itertools.permutations(range(len(objects)))
    ]
    return max(orders, key=lambda hits: sum(hits.values()))


def binding_rows(asked: list[tuple[dict[str, int], ...]], reading: Reading) -> list[Row]:
    """How often an attribute is at the shape that the caption gives it to, in captions of two objects of two shapes.

    As in T2I-CompBench (Huang et al. 2023), by exact readers: an object of a caption is bound if one of the image's has
    both its shape and its attribute. Only captions count whose two objects name both, and differ in both.
    """
    rows = []
    for name in [name for name in SHOWN if name != "shape"]:
        values, bound = getattr(reading, name), []
        for i, objects in enumerate(asked):
            pairs = {(one["shape"], one[name]) for one in objects if {"shape", name} <= one.keys()}
            if len(pairs) < 2 or len({a for a, _ in pairs}) < 2 or len({b for _, b in pairs}) < 2:
                continue
            there = {(int(reading.shape[i, k]), int(values[i, k])) for k in range(min(int(reading.count[i]), 2))}
            bound.append(len(pairs & there) / 2)
        if bound:
            guess = 1.0 / (len(dict(ATTRIBUTES)["shape"]) * len(dict(ATTRIBUTES)[name]))
            rows.append(accuracy_row(f"binding/{name}", np.asarray(bound), 1 - (1 - guess) ** 2))
    return rows


@dataclass(frozen=True)
class PixelFrechet:
    """Frechet distance of pixels averaged over squares: a cheap stand-in, comparable within one data set only."""

    def suits(self, data: Any, model: Any) -> str:
        """See `Score`."""
        made = _made(model)
        return "" if len(made) == 1 and isinstance(made[0], Image) else "it reads images, one a sample"

    def __call__(self, samples: Samples) -> list[Row]:
        """See `Score`."""
        return [frechet_row(samples, pooled_pixels)]


def frechet_row(samples: Samples, feature: Callable[[np.ndarray], np.ndarray]) -> Row:
    """The Frechet distance between the features of true and sampled images, uint8."""
    truth, made = (feature(x.astype(np.float64) / 127.5 - 1.0) for x in (samples.truth, samples.made))
    distance = {"metric": f"frechet/{feature.__name__}", "value": frechet(truth, made)}
    return distance | {"low": None, "high": None, "chance": None, "n": len(made)}


def accuracy_row(metric: str, scores: np.ndarray, guess: float) -> Row:
    """A mean of scores in [0, 1] with Wilson's interval."""
    value = float(scores.mean())
    low, high = wilson_interval(value, len(scores))
    return {"metric": metric, "value": value, "low": low, "high": high, "chance": guess, "n": len(scores)}


HOUSE: tuple[Score, ...] = (WorldAttributes(), WorldCaptions(), PixelFrechet())
"""Those of this module."""

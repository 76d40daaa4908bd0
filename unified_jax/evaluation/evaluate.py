"""The evaluation of a trained model: rows {given, wanted, split, metric, value, low, high, chance, n}."""

from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

from unified_jax.data.base import DataSet
from unified_jax.data.cached import examples_of
from unified_jax.data.world import World
from unified_jax.errors import UserError
from unified_jax.evaluation.reconstruction import Reconstruction
from unified_jax.evaluation.scores import HOUSE, Row, Samples, Score, accuracy_row
from unified_jax.models.base import Model
from unified_jax.typing import Params


@runtime_checkable
class Classifies(Protocol):
    """A model that predicts labels from other fields of a batch."""

    @property
    def labels(self) -> tuple[Any, ...]:
        """The predicted labels."""
        ...

    def logits(self, params: Params, text: Any) -> dict[str, Any]:
        """Unnormalised log-probabilities of the classes of every label."""
        ...


def scores_for(asked: tuple[Score, ...], data: DataSet, model: Model) -> tuple[Score, ...]:
    """The scores that are asked for, or all of the house that suit. Raises UserError for one that does not suit."""
    for one in asked:
        if why := one.suits(data, model):
            raise UserError(f"The score {type(one).__name__} does not suit this run: {why}.")
    return asked or tuple(one for one in (*HOUSE, Reconstruction()) if not one.suits(data, model))


def rows_of(samples: Samples, scores: tuple[Score, ...]) -> list[Row]:
    """The rows of one split."""
    base = asked_of(samples.model, samples.split) | {"given": list(samples.given), "n": len(samples.made)}
    return [base | row for one in scores for row in _checked(type(one).__name__, one(samples))]


def _checked(name: str, rows: Any) -> list[Row]:
    """The rows of a score as JSON holds them. Raises UserError for what is none."""

    def is_row(row: Any) -> bool:
        return isinstance(row, dict) and {"metric", "value"} <= row.keys()

    if not isinstance(rows, list | tuple) or not all(map(is_row, rows)):
        example = '{"metric": "sharpness", "value": 0.5}, with "low", "high" and "chance" where there are any'
        raise UserError(f"The score {name} returns {str(rows)[:80]}; expected a list of rows such as {example}.")
    empty = {"low": None, "high": None, "chance": None}
    return [empty | {k: v.item() if isinstance(v, np.generic) else v for k, v in row.items()} for row in rows]


def label_rows(model: Any, params: Params, batch: dict[str, np.ndarray], split: str, rows: int = 64) -> list[Row]:
    """The accuracy of each label that a model predicts, and their mean; `rows` examples per compiled call."""
    fields = [m.name for m in model.modalities if m not in model.labels]
    best = jax.jit(lambda params, *x: {name: said.argmax(-1) for name, said in model.logits(params, *x).items()})
    count = len(batch[fields[0]])
    parts = []
    for first in range(0, count, rows):
        take = np.minimum(np.arange(first, first + rows), count - 1)  # one shape, one compilation
        found = jax.device_get(best(params, *(batch[name][take] for name in fields)))
        parts.append({name: value[: count - first] for name, value in found.items()})
    found = {one.name: np.concatenate([part[one.name] for part in parts]) for one in model.labels}
    right = {name: np.asarray(classes == batch[name], float) for name, classes in found.items()}
    base = {"given": fields, "wanted": [one.name for one in model.labels], "split": split}
    guesses = {one.name: float(np.bincount(batch[one.name]).max() / len(batch[one.name])) for one in model.labels}
    whole = np.stack(list(right.values())).mean(0)
    mean = base | accuracy_row("label_accuracy", whole, float(np.mean(list(guesses.values()))))
    return [mean, *(base | accuracy_row(f"accuracy/{name}", hits, guesses[name]) for name, hits in right.items())]


def asked_of(model: Model, split: str) -> Row:
    """The request of an evaluation, as part of a row."""
    given, wanted = model.request((), ())
    return {"given": list(given), "wanted": list(wanted), "split": split}


def bits_row(bits: np.ndarray, model: Model, split: str) -> Row:
    """The row of a mean of bits/dim, with a normal interval; 8 bits/dim is the cost of uniform noise."""
    mean, row = float(bits.mean()), asked_of(model, split)
    row |= {"metric": "bits_per_dim", "value": mean, "low": None, "high": None}
    if len(bits) > 1:
        error = 1.96 * float(bits.std(ddof=1)) / np.sqrt(len(bits))
        row |= {"low": mean - error, "high": mean + error}
    return row | {"chance": 8.0, "n": len(bits)}


def splits_for(data: DataSet, asked: tuple[str, ...]) -> tuple[str, ...]:
    """The requested splits, or the defaults: test, and on the world also held_out."""
    return asked or (("test", "held_out") if isinstance(examples_of(data), World) else ("test",))

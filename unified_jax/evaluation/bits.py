"""Bits per dimension of a trained model on examples of a split, by the model's own score (`models.likelihood`).

The score measures a density, which needs an accurate velocity near the data. A network trained on x0 with the plain
mean square error has an error of x0 that the velocity divides by t: it may sample well and still score hundreds of
bits/dim.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unified_jax.data.base import DataSet
from unified_jax.data.pipeline import Pipeline
from unified_jax.errors import UserError
from unified_jax.precision import same_numbers, seed_key
from unified_jax.typing import Params


@same_numbers()
def bits_per_dim(
    model: Any, params: Params, data: DataSet, split: str, count: int, seed: int, steps: int = 100,
    batch: int = 64, report: Callable[[int], Any] = lambda done: None,
) -> np.ndarray:  # fmt: skip
    """One number per example. `steps` are those of the ODE (Heun); a discrete process uses every step.

    Raises UserError for a model without a likelihood (`Model.bits`).
    """
    check_bits(model)
    if getattr(getattr(model, "network", None), "attention", "pallas") != "pallas":
        # The ODE's divergence needs forward-mode derivatives, which cuDNN's attention does not have; our kernels do.
        model = dataclasses.replace(model, network=model.network.clone(attention="xla"))
    examples = Pipeline(data, split, model.modalities, count, seed).batch(0).arrays
    keys = jax.vmap(lambda i: jax.random.fold_in(seed_key(seed), i))(jnp.arange(count))
    score = jax.jit(lambda rows, keys: model.bits(params, rows, keys, steps))
    found = []
    for first in range(0, count, batch):
        take = np.minimum(np.arange(first, first + batch), count - 1)  # one shape, one compilation
        rows = {name: value[take] for name, value in examples.items()}
        found.append(np.asarray(score(rows, keys[take]))[: min(batch, count - first)])
        report(len(found[-1]))
    return np.concatenate(found)


def check_bits(model: Any) -> None:
    """Raises UserError for a model without a likelihood."""
    if model.bits is None:
        raise UserError(f"{type(model).__name__} does not score examples in bits/dim; leave out --bits.")

"""Bits per dimension of a trained model on examples of a split.

A discrete chain is scored by its whole variational bound with the discretised decoder (`processes.bound`), a process in
continuous time by the likelihood of its probability-flow ODE on data dequantised with uniform noise
(`samplers.likelihood`): both bound the negative log2-probability of the 8-bit data from above, and compare.

The number judges a density, which needs a good velocity near the data. A network trained on x0 with its plain mean
square has an error of x0 that the velocity divides by t: it may draw well and still score hundreds of bits/dim.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unified_jax.data.base import DataSet
from unified_jax.data.pipeline import Pipeline
from unified_jax.models.diffusion import Diffusion
from unified_jax.precision import same_numbers, seed_key
from unified_jax.processes.bound import variational_bound
from unified_jax.processes.edm import Edm
from unified_jax.processes.gaussian import DiscreteGaussian
from unified_jax.processes.targets import expand
from unified_jax.samplers.likelihood import log_likelihood, rademacher
from unified_jax.typing import Params

LEAST_TIME = 1e-3
"""Where the ODE starts: the slope may be singular at the data itself."""


@same_numbers()
def bits_per_dim(
    model: Diffusion, params: Params, data: DataSet, split: str, count: int, seed: int, steps: int = 100,
    batch: int = 64, report: Callable[[int], Any] = lambda done: None,
) -> np.ndarray:  # fmt: skip
    """One number an example. `steps` are those of the ODE (Heun); a chain is walked whole."""
    # The ODE's divergence takes forward-mode derivatives, which the kernels of attention do not have.
    model = dataclasses.replace(model, network=model.network.clone(attention="xla"))
    examples = Pipeline(data, split, model.modalities, count, seed).batch(0).arrays
    images = jnp.asarray(examples[model.modality.name])
    labels = model.pack_labels({c.name: examples[c.name] for c in model.conditions}, count)
    keys = jax.vmap(lambda i: jax.random.fold_in(seed_key(seed), i))(jnp.arange(count))
    score = jax.jit(lambda *rows: _score(model, params, steps, *rows))
    found = []
    for first in range(0, count, batch):
        take = np.minimum(np.arange(first, first + batch), count - 1)  # one shape, one compile
        rows = np.asarray(score(images[take], labels[take], keys[take]))[: min(batch, count - first)]
        found.append(rows)
        report(len(rows))
    return np.concatenate(found)


def _score(model: Any, params: Params, steps: int, images: Any, labels: Any, keys: Any) -> Any:
    process = model.process
    x0 = model.modality.to_model(images)
    denoise = model.denoiser(params, process, labels)
    if isinstance(process, DiscreteGaussian):
        return variational_bound(denoise, process, x0, keys).total
    spread = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, 1), x0.shape[1:], minval=-1.0))(keys)
    probe = rademacher(keys, x0)
    data = x0 + spread / 255.0
    if isinstance(process, Edm):
        grid = np.concatenate([[process.sigma_min], np.geomspace(process.sigma_min, process.sigma_max, steps)[1:]])
        found = log_likelihood(denoise, process, data, grid, probe, noise_std=process.sigma_max)
        return found.bits_per_dim(127.5)
    start = max(process.data_end, LEAST_TIME)
    end = min(process.noise_end, 1.0 - LEAST_TIME)
    alpha, _ = process.alpha_sigma(jnp.full(len(data), start))
    # The data stand for x at t = start, where they would be alpha x0: the scale enters the density.
    found = log_likelihood(denoise, process, expand(alpha, data) * data, np.linspace(start, end, steps + 1), probe)
    return found.bits_per_dim(127.5) - jnp.log2(alpha)

r"""The gradient noise scale (McCandlish et al. 2018, arXiv 1812.06162, appendix A.1).

With gradients G_b of batches of b examples, E|G_b|^2 = |G|^2 + tr(S) / b. From two sizes b < B

    |G|^2 = (B |G_B|^2 - b |G_b|^2) / (B - b),   tr(S) = (|G_b|^2 - |G_B|^2) / (1/b - 1/B),   B_simple = tr(S) / |G|^2

Both are averaged over batches before the ratio is taken, because a ratio of noisy estimates is biased. Batches far
below B_simple waste no examples; far above it they hardly save steps.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from unified_jax.typing import Batch, Params


class NoiseScale(NamedTuple):
    """The noise scale of one loss term, in rows of a batch."""

    scale: float
    """B_simple; infinite where no signal was found."""
    signal: float
    """|G|^2."""
    noise: float
    """tr(S), of one row."""


Losses = Callable[..., Any]
"""See `Model.losses`."""


def squared_norms(
    losses: Losses,
    names: tuple[str, ...],
    weights: dict[str, Any],
    params: Params,
    batch: Batch,
    key: Array,
    parts: int,
) -> tuple[Float[Array, "k"], Float[Array, "k"]]:
    """(mean |G_b|^2 of the `parts` of a batch, |G_B|^2 of the batch), of the total loss and then of every term."""
    rows = jax.tree.map(lambda x: x.reshape((parts, x.shape[0] // parts) + x.shape[1:]), batch)

    def total(params: Params, part: Batch) -> Array:
        terms, _, _ = losses(params, {}, part | {"step": jnp.zeros((), jnp.int32)}, key)
        each = [weights.get(n, 1.0) * jnp.sum(terms[n][0]) / jnp.maximum(jnp.sum(terms[n][1]), 1e-9) for n in names]
        return jnp.stack([sum(each), *each])

    def one(mean: Any, part: Batch) -> tuple[Any, Array]:
        _, pull = jax.vjp(lambda p: total(p, part), params)
        gradients = jax.lax.map(lambda chosen: pull(chosen)[0], jnp.eye(1 + len(names)))
        return jax.tree.map(lambda a, g: a + g / parts, mean, gradients), _norms(gradients)

    zeros = jax.tree.map(lambda p: jnp.zeros((1 + len(names), *p.shape)), params)
    whole, small = jax.lax.scan(one, zeros, rows)
    return jnp.mean(small, axis=0), _norms(whole)


def _norms(gradients: Any) -> Float[Array, "k"]:
    leaves = [jnp.sum(jnp.square(g.reshape(g.shape[0], -1)), axis=1) for g in jax.tree.leaves(gradients)]
    return jnp.sum(jnp.stack(leaves), axis=0)


def noise_scales(
    names: tuple[str, ...], measured: Iterable[tuple[Any, Any]], small: int, big: int
) -> dict[str, NoiseScale]:
    """By term ("loss" is the total), from `squared_norms` of several batches of `big` rows in parts of `small`.

    Raises ValueError unless small < big.
    """
    if not 0 < small < big:
        raise ValueError(f"The noise scale needs two sizes, 0 < small < big; found {small} and {big}.")
    pairs = np.asarray([(np.asarray(a), np.asarray(b)) for a, b in measured], np.float64).mean(axis=0)
    found = {}
    for i, name in enumerate(("loss", *sorted(names))):
        signal = (big * pairs[1, i] - small * pairs[0, i]) / (big - small)
        noise = (pairs[0, i] - pairs[1, i]) / (1 / small - 1 / big)
        found[name] = NoiseScale(noise / signal if signal > 0 else float("inf"), float(signal), float(noise))
    return found


def measure_noise_scale(
    losses: Losses, terms: tuple[str, ...], weights: dict[str, float], params: Params, batches: list[Batch], key: Array,
    parts: int,
    report: Callable[[int], Any] = lambda done: None,
) -> dict[str, NoiseScale]:  # fmt: skip
    """The noise scale over batches of equal shape, each divided into `parts`; each with its own noise."""
    names, measured = tuple(sorted(terms)), []
    call = jax.jit(squared_norms, static_argnums=(0, 1), static_argnames="parts")
    for i, batch in enumerate(batches):
        own = jax.random.fold_in(key, i)
        measured.append(jax.device_get(call(losses, names, weights, params, batch, own, parts=parts)))
        report(1)
    rows = len(next(iter(batches[0].values())))
    return noise_scales(names, measured, rows // parts, rows)

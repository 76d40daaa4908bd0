r"""Attention of a Transfusion model while it samples one span, and its mass from one modality to another.

The sample is the last item of a document, after the clean conditions in the model's order. It
is sampled with DDIM, x_s = alpha_s x0 + sigma_s eps of the prediction at t (any process), without guidance. Each
step is one pass over the document, without a cache, whose attention is captured. The tokens after the span (its end,
EOS) are outside its key range, so this equals the sample of `Transfusion.generate` with Euler steps on a straight path
and guidance 1, from the same key.

The mass from modality Q to modality K is the mean attention of the tokens of Q to those of K,

    mass(Q, K) = 1/|Q| sum_{i in Q} sum_{j in K} A_ij,

so that a row of masses sums to 1 over all K, the marks (BOS, EOS, begin, end) among them.
"""

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from unified_jax.evaluation.probes.documents import MARKS, clean_inputs, lay_out, owners
from unified_jax.models.transfusion import Transfusion
from unified_jax.samplers.loop import START, normal_like
from unified_jax.samplers.plan import SamplingPlan
from unified_jax.typing import Params


class SpanTrace(NamedTuple):
    """The trajectory of a span over k steps in a document of n tokens."""

    t: list[float]
    """Unit times."""
    x0: Float[np.ndarray, "k ..."]
    """The network's prediction of the span, in model space."""
    x: Float[np.ndarray, "..."]
    """The sample."""
    weights: Float[np.ndarray, "k l h n n"]
    """Attention, summing to 1 over the last axis."""
    owner: Int[np.ndarray, " n"]
    """Modality of each token (`documents.owners`)."""
    visible: Int[np.ndarray, "n 2"]
    """Key range of each token."""


def trace_span(
    model: Transfusion, params: Params, given: dict[str, Any], wanted: str, plan: SamplingPlan, key: Array
) -> SpanTrace:
    """Samples one example of the stream `wanted` on the plan's grid and keeps every map.

    `given` holds what `prepare` gives, one row each. Raises ValueError for a modality that is not a stream, or is
    given.
    """
    names = [m.name for m in model.modalities]
    streams = [stream.modality.name for stream in model.streams]
    if wanted not in streams or wanted in given:
        raise ValueError(f"one of {', '.join(s for s in streams if s not in given)} can be sampled, not {wanted!r}")
    m = names.index(wanted)
    stream, place = model.stream(m), streams.index(wanted)
    if stream.latents is not None:
        raise ValueError(f"the maps are drawn over data, and {wanted!r} is denoised as latents")
    values = {name: np.asarray(given[name]) for name in names if name in given}
    batch = lay_out(model, values | {wanted: stream.modality.blank()[None]})
    process, grid = plan.prepare(stream.process)

    @jax.jit
    def step(params: Params, x: Array, t: Array, s: Array) -> tuple[Array, Array, Array]:
        rows = jax.tree.map(jnp.asarray, batch)
        shown = clean_inputs(model, params, rows)
        shown[place] = process.network_input(x, t), process.network_time(t)
        _, outputs, captured = model.forward(params, rows, tuple(shown), capture=True)
        assert captured is not None
        found = process.predict(outputs[wanted][:, 0], x, t)
        alpha, sigma = (v.reshape((1,) * x.ndim) for v in process.alpha_sigma(s))
        return alpha * found.x0 + sigma * found.eps, found.x0, captured.attention[:, 0]

    own = jax.random.fold_in(key, m)[None]
    noise = normal_like(own, START, jnp.zeros((1, *stream.modality.shape)))
    x = process.start(noise, jnp.asarray(grid[:1]))
    times, guesses, maps = [], [], []
    for t, s in itertools.pairwise(grid):
        rows = jnp.asarray([t]), jnp.asarray([s])
        x, x0, weights = step(params, x, *rows)
        times.append(float(process.unit_time(rows[0])[0]))
        guesses.append(np.asarray(x0[0]))
        maps.append(np.asarray(weights, np.float32))
    return SpanTrace(
        times, np.stack(guesses), np.asarray(x[0]), np.stack(maps), owners(model, batch)[0], batch["visible"][0]
    )


def items_of(owner: Int[np.ndarray, " n"]) -> list[int]:
    """The marks, then the document's items in their order: rows and columns of `pair_masses`."""
    return [MARKS, *dict.fromkeys(int(m) for m in owner if m != MARKS)]


def pair_masses(
    weights: Float[np.ndarray, "*s n n"], owner: Int[np.ndarray, " n"]
) -> Float[np.ndarray, "*s items items"]:
    """mass(Q, K) of every two items, queries first."""
    belongs = np.stack([owner == m for m in items_of(owner)]).astype(np.float64)
    spent = np.einsum("...ij,kj->...ik", weights, belongs)
    return np.einsum("...ik,qi->...qk", spent, belongs / belongs.sum(axis=1, keepdims=True))


def even_masses(visible: Int[np.ndarray, "n 2"], owner: Int[np.ndarray, " n"]) -> Float[np.ndarray, "items items"]:
    """The masses of uniform attention over each key range: items of many tokens get more."""
    position = np.arange(len(owner))
    seen = (position >= visible[:, :1]) & (position < visible[:, 1:])
    return pair_masses(seen / np.maximum(seen.sum(axis=1, keepdims=True), 1), owner)


def between(
    weights: Float[np.ndarray, "*s n n"], owner: Int[np.ndarray, " n"], queries: int, keys: int
) -> Float[np.ndarray, "*s q k"]:
    """The part of the maps with queries of one item and keys of another."""
    return weights[..., owner == queries, :][..., owner == keys]

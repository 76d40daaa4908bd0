r"""Balances: weights of the loss terms, computed inside the train step, with their state in the checkpoint.

The loss is sum_k w_k L_k. With n terms L_k, g_k the gradient of w_k L_k:

    FixedBalance      w_k constant
    MagnitudeBalance  w_k = c / ema(L_k), sum w = n: every term has the same magnitude
    Uncertainty       w_k = exp(-s_k), and s_k descends d/ds_k [exp(-s_k) L_k + s_k]  (Kendall et al. 2018, in the
                      form without the factor 1/2)
    GradNorm          w_k such that gradient norms on one shared layer train all terms at the same rate
                      (Chen et al. 2018, arXiv 1711.02257)
    PcGrad            w_k constant; the conflicting components of gradients are removed
                      (Yu et al. 2020, arXiv 2001.06782)

GradNorm, with G_k = w_k |grad_W L_k|, r_k = (L_k / L_k(0)) / mean_j (L_j / L_j(0)) and alpha its strength, takes one
step of Adam on sum_k |G_k - sg(mean_j G_j r_k^alpha)| with respect to w only, then sets sum w = n. W should follow
the scanned blocks, so that the n backward passes end there.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from unified_jax.errors import UserError
from unified_jax.training.projection import project
from unified_jax.typing import Params

Names = tuple[str, ...]
Weights = tuple[tuple[str, float], ...]
FLOOR = 1e-3
"""Smallest weight that GradNorm gives a term."""


@runtime_checkable
class Balance(Protocol):
    """The interface of a balance. Terms are in the order of their sorted names."""

    def init(self, names: Names) -> Any:
        """Its state, a part of the train state."""
        ...

    def weigh(self, state: Any, names: Names) -> dict[str, Array]:
        """The weight of each term."""
        ...

    def watched(self, params: Params) -> Params:
        """The parameters for which it needs every term's gradient: a part of the tree, {} for none."""
        ...

    def settle(
        self, state: Any, losses: Float[Array, "n"], gradient: Params, each: Params, key: Array
    ) -> tuple[Params, Any]:
        """(gradient of the step, new state) from the unweighted losses, the gradient of the weighted sum, and each
        weighted term's gradient `[n, ...]` of the watched parameters.
        """
        ...


class _Plain:
    """Watches no parameters and keeps the gradient."""

    def watched(self, params: Params) -> Params:
        """{}: none."""
        del params
        return {}


@dataclass(frozen=True)
class FixedBalance(_Plain):
    """Constant weights; terms without an entry have weight 1."""

    weights: Weights = ()
    """Pairs (term, weight)."""

    def init(self, names: Names = ()) -> dict[str, Array]:
        """{}: none."""
        del names
        return {}

    def weigh(self, state: Any, names: Names) -> dict[str, Array]:
        """See `Balance`. Raises ValueError for a named term that the model does not have."""
        del state
        return _fixed(self.weights, names)

    def settle(self, state: Any, losses: Array, gradient: Params, each: Params, key: Array) -> tuple[Params, Any]:
        """See `Balance`."""
        del losses, each, key
        return gradient, state


@dataclass(frozen=True)
class MagnitudeBalance(_Plain):
    """Weights that give all terms the same magnitude: the inverse of their running mean, of a negative term's size."""

    decay: float = 0.99
    """Decay of the running mean."""

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise ValueError(f"MagnitudeBalance.decay must lie in [0, 1), found {self.decay}.")

    def init(self, names: Names) -> dict[str, Array]:
        """Zero means, not yet started."""
        return {"mean": jnp.zeros(len(names)), "seen": jnp.zeros(len(names))}

    def weigh(self, state: Any, names: Names) -> dict[str, Array]:
        """See `Balance`; 1 before the first step."""
        mean = state["mean"] / jnp.where(state["seen"] > 0, state["seen"], 1.0)
        inverse = jnp.where(mean > 0, 1.0 / jnp.where(mean > 0, mean, 1.0), 0.0)
        known = inverse > 0
        inverse = jnp.where(known, inverse, jnp.sum(inverse) / jnp.maximum(jnp.sum(known), 1))
        weights = jnp.where(jnp.any(known), inverse * len(names) / jnp.maximum(jnp.sum(inverse), 1e-30), 1.0)
        return _named(names, weights)

    def settle(self, state: Any, losses: Array, gradient: Params, each: Params, key: Array) -> tuple[Params, Any]:
        """See `Balance`. A term absent from the batch (loss 0) keeps its mean."""
        del each, key
        share = jnp.where(losses != 0, 1 - self.decay, 0.0)
        mean = (1 - share) * state["mean"] + share * jnp.abs(losses)
        return gradient, {"mean": mean, "seen": (1 - share) * state["seen"] + share}


@dataclass(frozen=True)
class Uncertainty(_Plain):
    """Weights exp(-s), s the learned log variance of each term."""

    learning_rate: float = 1e-2
    """Learning rate of the log variances (plain gradient descent)."""

    def init(self, names: Names) -> dict[str, Array]:
        """Log variances of 0."""
        return {"log_variance": jnp.zeros(len(names))}

    def weigh(self, state: Any, names: Names) -> dict[str, Array]:
        """See `Balance`."""
        return _named(names, jnp.exp(-state["log_variance"]))

    def settle(self, state: Any, losses: Array, gradient: Params, each: Params, key: Array) -> tuple[Params, Any]:
        """See `Balance`. A term absent from the batch (loss 0) is unchanged."""
        del each, key
        s = state["log_variance"]
        slope = jnp.where(losses > 0, 1.0 - jnp.exp(-s) * losses, 0.0)
        return gradient, {"log_variance": s - self.learning_rate * slope}


class GradNormState(NamedTuple):
    """Weights `[n]`, Adam's moments, and each term's first loss `[n]`, 0 before its first batch."""

    weights: Array
    moments: Any
    first: Array


@dataclass(frozen=True)
class GradNorm:
    """GradNorm: weights that train all terms at the same rate."""

    layer: str = "final_norm"
    """The shared layer W: a name at the top of the parameter tree."""
    alpha: float = 1.5
    """Strength; 0 makes the gradient norms equal."""
    learning_rate: float = 0.025
    """Learning rate of the weights (Adam)."""

    def init(self, names: Names) -> GradNormState:
        """Weights of 1."""
        ones = jnp.ones(len(names))
        return GradNormState(ones, optax.adam(self.learning_rate).init(ones), jnp.zeros(len(names)))

    def weigh(self, state: GradNormState, names: Names) -> dict[str, Array]:
        """See `Balance`."""
        return _named(names, state.weights)

    def watched(self, params: Params) -> Params:
        """The shared layer. Raises UserError for an unknown name."""
        if self.layer not in params:
            raise UserError(
                f"GradNorm.layer {self.layer!r} is not a layer of this network; it has {', '.join(params)}."
            )
        return {self.layer: params[self.layer]}

    def settle(
        self, state: GradNormState, losses: Array, gradient: Params, each: Params, key: Array
    ) -> tuple[Params, GradNormState]:
        """See `Balance`. A term absent from the batch has norm 0 and keeps its weight."""
        del key
        here = losses > 0
        first = jnp.where((state.first == 0) & here, losses, state.first)
        squares = [jnp.sum(jnp.square(g.reshape(len(losses), -1)), axis=1) for g in jax.tree.leaves(each)]
        norms = jnp.sqrt(sum(squares)) / state.weights  # of grad_W L_k
        slope = jax.grad(gradnorm_loss)(state.weights, norms, losses, first, here, self.alpha)
        adam: Any = optax.adam(self.learning_rate)
        update, moments = adam.update(slope, state.moments)
        weights = jnp.maximum(jnp.where(here, state.weights + update, state.weights), FLOOR)
        return gradient, GradNormState(weights * len(losses) / jnp.sum(weights), moments, first)


def gradnorm_loss(
    weights: Float[Array, "n"],
    norms: Float[Array, "n"],
    losses: Float[Array, "n"],
    first: Float[Array, "n"],
    here: Array,
    alpha: float,
) -> Float[Array, ""]:
    """L_grad of the weights (Chen et al. 2018, eq. 2) over the present terms (`here`); `norms` are |grad_W L_k|."""
    count = jnp.maximum(jnp.sum(here), 1)
    scaled = jnp.where(here, weights * norms, 0.0)
    ratio = jnp.where(here, losses / jnp.where(first > 0, first, 1.0), 0.0)
    rate = ratio / jnp.maximum(jnp.sum(ratio) / count, 1e-30)
    target = jax.lax.stop_gradient(jnp.sum(scaled) / count * rate**alpha)
    return jnp.sum(jnp.where(here, jnp.abs(scaled - target), 0.0))


@dataclass(frozen=True)
class PcGrad:
    """PCGrad: constant weights, and conflicting gradients projected onto each other's normal planes."""

    weights: Weights = ()
    """Pairs (term, weight); 1 for the others."""

    def init(self, names: Names) -> dict[str, Array]:
        """{}: none."""
        del names
        return {}

    def weigh(self, state: Any, names: Names) -> dict[str, Array]:
        """See `Balance`."""
        del state
        return _fixed(self.weights, names)

    def watched(self, params: Params) -> Params:
        """All parameters."""
        return params

    def settle(self, state: Any, losses: Array, gradient: Params, each: Params, key: Array) -> tuple[Params, Any]:
        """See `Balance`; the order of the projections is random, from the step's key."""
        del gradient
        keys = jax.random.split(jax.random.fold_in(key, ORDER), len(losses))
        order = jax.vmap(lambda k: jax.random.permutation(k, len(losses)))(keys)
        return project(each, order), state


ORDER = 7001
"""Purpose of the key that orders PCGrad's projections."""


def _fixed(weights: Weights, names: Names) -> dict[str, Array]:
    unknown = sorted({name for name, _ in weights} - set(names))
    if unknown:
        raise UserError(f"The balance names the loss terms {', '.join(unknown)}; this model has {', '.join(names)}.")
    return {name: jnp.asarray(dict(weights).get(name, 1.0), jnp.float32) for name in names}


def _named(names: Names, weights: Array) -> dict[str, Array]:
    return {name: weights[i] for i, name in enumerate(sorted(names))}

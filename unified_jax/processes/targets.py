r"""Targets and the one solve that turns any prediction into `(x0, eps)`.

Every process here is a Gaussian path (conventions: t = 0 is data, t = 1 is noise)

    x_t = alpha(t) x0 + sigma(t) eps                                                        (1)

and every prediction target of a network is a linear combination of the same two unknowns,

    target = p x0 + q eps                                                                   (2)

with (p, q) = (0, 1) for eps, (1, 0) for x0, (-sigma, alpha) for v (Salimans & Ho 2022, eq. 8 with our sign of time:
v = alpha eps - sigma x0), and (alpha', sigma') for the velocity d x_t / d t (flow matching). (1) and (2) are a 2 x 2
system with determinant D = alpha q - sigma p, hence

    x0  = (q x_t - sigma target) / D,        eps = (alpha target - p x_t) / D.              (3)

Limits. With target x0 at sigma = 0 (D = 0) the point is the data itself and eps is undefined; since it only
enters multiplied by sigma, the limit eps = 0 is used. With target eps at alpha = 0 (D = 0) the prediction says
nothing about x0: a process that reaches alpha = 0 refuses this target in its constructor.
"""

from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from unified_jax.processes.grids import GridRequest
from unified_jax.typing import Keys, Times

Target = Literal["eps", "x0", "v", "velocity"]


def shown_clean(process: Any, x0: Array) -> tuple[Array, float]:
    """(input, time) that show a network data without noise: (x0, 0), or what the process says by `clean`."""
    own = getattr(process, "clean", None)
    return (x0, 0.0) if own is None else own(x0)


class Prediction(NamedTuple):
    """A denoiser's output for `x_t`: arrays of its shape.

    `log_variance` is that of one reverse step, if learned.
    """

    x0: Array
    eps: Array
    log_variance: Array | None = None


@runtime_checkable
class Process(Protocol):
    """A Gaussian path with its density of training times, its target, its loss and its sampling grid."""

    @property
    def channels_per_output(self) -> int:
        """Output channels per data channel: 2 where the variance is learned, else 1."""
        ...

    def alpha_sigma(self, t: Array) -> tuple[Array, Array]:
        """Coefficients of (1), shaped as t."""
        ...

    def target_coefficients(self, t: Array) -> tuple[Array, Array]:
        """(p, q) of (2), shaped as t."""
        ...

    def draw_times(self, keys: Keys) -> Times:
        """One training time per example."""
        ...

    def network_input(self, x_t: Array, t: Array) -> Array:
        """The network's input: x_t itself, or x_t scaled to unit variance (EDM)."""
        ...

    def network_time(self, t: Array) -> Array:
        """The network's time input, float32."""
        ...

    def unit_time(self, t: Array) -> Array:
        """t on the unit interval (0 data, 1 noise), for plots, time bins and guidance schedules."""
        ...

    def start(self, eps: Array, t: Array) -> Array:
        """x_t of pure noise, from which sampling begins at t; eps is standard normal."""
        ...

    def predict(self, output: Array, x_t: Array, t: Array) -> Prediction:
        """Converts a network output `[b, ..., c * channels_per_output]` to (x0, eps)."""
        ...

    def losses(self, output: Array, x0: Array, eps: Array, x_t: Array, t: Array) -> dict[str, Float[Array, "b"]]:
        """Named loss terms, one number per example, already weighted relative to each other."""
        ...

    def grid(self, request: GridRequest) -> tuple["Process", np.ndarray]:
        """The process to sample with, which may be another view of this one, and its decreasing times `[k + 1]`.

        Raises UserError for what a sampler needs, a spacing, a shift or a number of steps that does not suit it.
        """
        ...


def expand(value: Array, like: Array) -> Array:
    """Appends unit axes to `value` (whose shape is a prefix of `like`'s) so that it broadcasts over `like`."""
    return value.reshape(value.shape + (1,) * (like.ndim - value.ndim))


def diffuse(process: Process, x0: Array, eps: Array, t: Array) -> Array:
    """x_t of equation (1); t is a prefix of x0's shape (one time per example, or one per token)."""
    alpha, sigma = process.alpha_sigma(t)
    return expand(alpha, x0) * x0 + expand(sigma, x0) * eps


def coefficients(target: Target, alpha: Array, sigma: Array, d_alpha: Array, d_sigma: Array) -> tuple[Array, Array]:
    """(p, q) of equation (2); the derivatives are only used by the velocity."""
    match target:
        case "eps":
            return jnp.zeros_like(alpha), jnp.ones_like(alpha)
        case "x0":
            return jnp.ones_like(alpha), jnp.zeros_like(alpha)
        case "v":
            return -sigma, alpha
        case "velocity":
            return d_alpha, d_sigma


def solve(process: Process, output: Array, x_t: Array, t: Array) -> Prediction:
    """Equation (3): a network output in the process's target, `x_t` and t to (x0, eps)."""
    return solve_pair(process.alpha_sigma(t), process.target_coefficients(t), output, x_t)


def solve_pair(path: tuple[Array, Array], pair: tuple[Array, Array], output: Array, x_t: Array) -> Prediction:
    """Equation (3) for given (alpha, sigma) and (p, q), each a prefix of x_t's shape."""
    alpha, sigma = (expand(v, x_t) for v in path)
    p, q = (expand(v, x_t) for v in pair)
    determinant = alpha * q - sigma * p
    singular = determinant == 0
    inverse = jnp.where(singular, 0.0, 1.0 / jnp.where(singular, 1.0, determinant))
    # At the one admitted singular point (target x0, sigma = 0) the first line is x_t itself and the second is 0.
    x0 = jnp.where(singular, x_t, (q * x_t - sigma * output) * inverse)
    return Prediction(x0, (alpha * output - p * x_t) * inverse)


def rates(process: Any, t: Array) -> tuple[Array, Array]:
    """(d alpha / d t, d sigma / d t) of a process in continuous time, by forward differentiation.

    Raises TypeError for a discrete process, whose times are indices.
    """
    if jnp.issubdtype(jnp.result_type(t), jnp.integer):
        raise TypeError(
            f"{type(process).__name__} has integer times and no velocity; use ddim or ddpm, or a process in "
            "continuous time such as RectifiedFlow."
        )
    return jax.jvp(process.alpha_sigma, (t,), (jnp.ones_like(t),))[1]


def velocity(process: Process, prediction: Prediction, t: Array) -> Array:
    """d x_t / d t = alpha' x0 + sigma' eps of a process in continuous time."""
    d_alpha, d_sigma = rates(process, t)
    return expand(d_alpha, prediction.x0) * prediction.x0 + expand(d_sigma, prediction.eps) * prediction.eps


def mean_per_example(value: Array) -> Float[Array, "b"]:
    """Mean over all but the first axis, in float32."""
    return jnp.mean(value.astype(jnp.promote_types(value.dtype, jnp.float32)), axis=tuple(range(1, value.ndim)))

r"""Log-likelihood by the probability-flow ODE (Chen et al. 2018; Song et al. 2021, eq. 39; Grathwohl et al. 2019).

Along d x / d t = v(x, t) the log-density changes by -div v, so from the data (t = data_end) to noise (t = noise_end)

    log p(x_data) = log p_noise(x_noise) + int div v(x_t, t) d t

The divergence is either exact (one derivative per dimension) or Hutchinson's estimate probe . (d v / d x) probe with a
Rademacher probe, unbiased, one derivative. Bits/dim is -log p / (D log 2); data that were 8-bit, spread over [-1, 1]
and dequantised with uniform noise, add log2(127.5) a dimension for the width of their bins.
"""

from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from unified_jax.processes.targets import Process, velocity
from unified_jax.samplers.dopri5 import integrate
from unified_jax.samplers.loop import Denoiser, step_pairs
from unified_jax.samplers.ode import TABLEAUS, Method, explicit_step
from unified_jax.typing import Keys


class Likelihood(NamedTuple):
    """log p of each example in nats, and the noise it maps to."""

    log_density: Float[Array, "b"]
    noise: Array

    def bits_per_dim(self, bins_per_unit: float = 1.0) -> Float[Array, "b"]:
        """-log2 p per dimension; `bins_per_unit` = 127.5 for dequantised 8-bit data on [-1, 1]."""
        size = int(np.prod(self.noise.shape[1:]))
        return -self.log_density / (size * np.log(2.0)) + np.log2(bins_per_unit)


def rademacher(keys: Keys, x: Array) -> Array:
    """Probe of -1 and 1 shaped as x, one key per example."""
    return jax.vmap(lambda key: jax.random.rademacher(key, x.shape[1:], jnp.result_type(float)))(keys)


def log_likelihood(
    denoise: Denoiser, process: Process, x: Array, grid: Any, probe: Array | None = None,
    method: Method | Literal["dopri5"] = "heun", noise_std: float = 1.0, rtol: float = 1e-5, atol: float = 1e-5,
    joint: bool = False, beyond: bool = False,
) -> Likelihood:  # fmt: skip
    """log p(x) of data `[b, ...]`; the grid increases from data to noise.

    probe      Rademacher numbers shaped as x, or None for the exact divergence (D derivatives: for small x)
    noise_std  standard deviation of x at the grid's last time (1 for flows, sigma_max for EDM)
    joint, beyond  see `dopri5.integrate`

    Raises ValueError for an unknown method.
    """
    if method != "dopri5" and method not in TABLEAUS:
        known = ", ".join((*get_args(Method), "dopri5"))
        raise ValueError(f"The likelihood has no method {method!r}; choose one of {known}.")

    def field(state: tuple[Array, Array], t: Array) -> tuple[Array, Array]:
        value, _ = state

        def flow(v: Array) -> Array:
            return velocity(process, denoise(v, t), t)

        if probe is not None:
            out, tangent = jax.jvp(flow, (value,), (probe,))
            return out, jnp.sum((tangent * probe).reshape(len(value), -1), axis=1)
        return flow(value), _exact_divergence(flow, value)

    state = (x, jnp.zeros(x.shape[0], x.dtype))
    if method == "dopri5":
        times = jnp.asarray(grid)
        states = integrate(field, state, jnp.stack([times[0], times[-1]]), rtol, atol, joint, beyond)
        z, change = jax.tree.map(lambda v: v[-1], states)
    else:
        z, change = _fixed(field, state, process, grid, method)
    flat = z.reshape(len(z), -1) / noise_std
    prior = -0.5 * jnp.sum(flat**2, axis=1) - flat.shape[1] * (0.5 * np.log(2 * np.pi) + np.log(noise_std))
    return Likelihood(prior + change, z)


def _fixed(field: Any, state: Any, process: Process, grid: Any, method: Method) -> Any:
    def slope(state: Any, t: Any) -> Any:
        return field(state, jnp.broadcast_to(t, state[1].shape))

    def body(state: Any, times: Any) -> tuple[Any, None]:
        return explicit_step(TABLEAUS[method], slope, state, *times), None

    return jax.lax.scan(body, state, step_pairs(process, grid))[0]


def _exact_divergence(flow: Any, x: Array) -> Float[Array, "b"]:
    size = int(np.prod(x.shape[1:]))
    basis = jnp.eye(size, dtype=x.dtype).reshape(size, 1, *x.shape[1:])

    def one(direction: Array) -> Array:
        tangent = jax.jvp(flow, (x,), (jnp.broadcast_to(direction, x.shape),))[1]
        return jnp.sum((tangent * direction).reshape(len(x), -1), axis=1)

    return jnp.sum(jax.lax.map(one, basis), axis=0)

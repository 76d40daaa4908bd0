r"""The reverse-time SDE of a process in continuous time, for any diffusion coefficient.

Song et al. 2021; SiT, Ma et al. 2024, eq. 4.

With the velocity v = d x / d t, the score s = -eps / sigma and any w(t) >= 0, going from t down to data,

    d x = [-v + w s] d tau + sqrt(2 w) d W,        tau = -t

has the same marginals as the flow. Forms of w, in our direction of time (0 = data; SiT's t is our 1 - t):

    constant 1,   sigma: sigma(t),   linear: t,   sbdm: sigma sigma' - sigma^2 alpha' / alpha (the SDE of Song et al.)
    decreasing: (1 - cos(pi t))^2 / 4,   increasing_decreasing: sin^2(pi t)

times `norm` (inside the square for "decreasing", as in SiT's code). The last step, of length `last_size`, adds no
noise:

    mean: x + last_size (-v + w s),   euler: x - last_size v,   tweedie: the predicted x0,   none: nothing

Euler-Maruyama is first order (weak); Heun's step adds its noise first and averages the drift at both ends.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array

from unified_jax.processes.targets import Prediction, Process, expand, rates, velocity
from unified_jax.samplers.loop import Denoiser, Draw, at_time, normal_like, step_pairs
from unified_jax.typing import Keys

Form = Literal["constant", "sbdm", "sigma", "linear", "decreasing", "increasing_decreasing"]
Last = Literal["mean", "euler", "tweedie", "none"]


def diffusion(process: Process, t: Array, form: Form = "sigma", norm: float = 1.0) -> Array:
    """w(t), shaped as t."""
    alpha, sigma = process.alpha_sigma(t)
    match form:
        case "constant":
            return norm * jnp.ones_like(t)
        case "sigma":
            return norm * sigma
        case "linear":
            return norm * t
        case "decreasing":
            return 0.25 * (1.0 - norm * jnp.cos(jnp.pi * t)) ** 2
        case "increasing_decreasing":
            return norm * jnp.sin(jnp.pi * t) ** 2
        case "sbdm":
            d_alpha, d_sigma = rates(process, t)
            return norm * (sigma * d_sigma - sigma**2 * d_alpha / alpha)


def drift(process: Process, prediction: Prediction, t: Array, form: Form = "sigma", norm: float = 1.0) -> Array:
    """-v + w s, the rate towards the data. At the data, where s diverges, w s takes its limit if it has one."""
    inside = jnp.maximum(t, 1e-7)
    ratio = diffusion(process, inside, form, norm) / process.alpha_sigma(inside)[1]
    return -velocity(process, prediction, t) - expand(ratio, prediction.eps) * prediction.eps


def sde(
    denoise: Denoiser, process: Any, x: Any, grid: Any, keys: Keys, method: Literal["euler", "heun"] = "euler",
    form: Form = "sigma", norm: float = 1.0, last: Last = "mean", draw: Draw = normal_like,
) -> Any:  # fmt: skip
    """Integrates x `[b, ...]` from the grid's first time to a sample at its last.

    The grid's last step is the one named by `last`; the others are stochastic. Heun calls the denoiser twice a step.
    """
    here, there = step_pairs(process, grid)

    def rate(x: Any, t: Any) -> Any:
        said = denoise(x, at_time(process, t, x))

        def leaf(p: Process, prediction: Prediction, value: Array, time: Array) -> Array:
            times = jnp.broadcast_to(time, value.shape[:1])
            return drift(p, prediction, times, form, norm)

        return jax.tree.map(leaf, process, said, x, t)

    def forward(x: Any, d: Any, t: Any, s: Any) -> Any:
        return jax.tree.map(lambda _, value, r, a, b: value + (a - b) * r, process, x, d, t, s)

    def noised(p: Process, value: Array, z: Array, t: Array, s: Array) -> Array:
        return value + jnp.sqrt(2.0 * diffusion(p, t, form, norm) * (t - s)) * z

    def body(x: Any, inputs: Any) -> tuple[Any, None]:
        i, t, s = inputs
        z = draw(keys, i, x)
        if method == "euler":
            return jax.tree.map(noised, process, forward(x, rate(x, t), t, s), z, t, s), None
        x = jax.tree.map(noised, process, x, z, t, s)
        first = rate(x, t)
        second = rate(forward(x, first, t, s), s)
        return forward(x, jax.tree.map(lambda a, b: 0.5 * (a + b), first, second), t, s), None

    inner = jax.tree.map(lambda g: g[:-1], (here, there))
    final_t, final_s = jax.tree.map(lambda g: g[-1], (here, there))
    count = jax.tree.leaves(inner[0])[0].shape[0]
    x = jax.lax.scan(body, x, (jnp.arange(count), *inner))[0]
    return _last_step(denoise, process, x, final_t, final_s, rate, last)


def _last_step(denoise: Denoiser, process: Any, x: Any, t: Any, s: Any, rate: Any, last: Last) -> Any:
    if last == "none":
        return x
    if last == "mean":
        return jax.tree.map(lambda _, value, r, a, b: value + (a - b) * r, process, x, rate(x, t), t, s)
    said = denoise(x, at_time(process, t, x))
    if last == "tweedie":
        return jax.tree.map(lambda _, prediction: prediction.x0, process, said)

    def euler(p: Process, value: Array, prediction: Prediction, a: Array, b: Array) -> Array:
        return value + (b - a) * velocity(p, prediction, jnp.broadcast_to(a, value.shape[:1]))

    return jax.tree.map(euler, process, x, said, t, s)

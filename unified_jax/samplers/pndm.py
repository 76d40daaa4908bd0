r"""PNDM's linear multistep method (Liu et al. 2022; PLMS), with which Stable Diffusion was first sampled.

The transfer from time t to s (their eq. 11) is DDIM's deterministic step. What it is given is Adams and Bashforth's
combination of the network's last outputs, m_0 the newest:

    step 1      (m + m') / 2: the step is first made with m, the output at t; m' is the output at its end
    step 2      (3 m_0 - m_1) / 2
    step 3      (23 m_0 - 16 m_1 + 5 m_2) / 12
    later       (55 m_0 - 59 m_1 + 37 m_2 - 9 m_3) / 24

k steps take k + 1 evaluations; one step is DDIM. The combined output is read at the state and time of the step, in the
network's own target, as other codes do.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from unified_jax.processes.targets import Prediction, Process, expand, solve_pair
from unified_jax.samplers.ddim import ddim_step
from unified_jax.samplers.loop import Denoiser, at_time, step_pairs
from unified_jax.typing import Keys

WEIGHTS = ((3 / 2, -1 / 2, 0.0, 0.0), (23 / 12, -16 / 12, 5 / 12, 0.0), (55 / 24, -59 / 24, 37 / 24, -9 / 24))
"""Of the last outputs, the newest first: in the second step, the third, and later ones."""


def output_of(process: Process, prediction: Prediction, t: Array) -> Array:
    """The network's output p x0 + q eps, of its prediction; with guidance the guided one."""
    p, q = (expand(jnp.asarray(v), prediction.x0) for v in process.target_coefficients(t))
    return p * prediction.x0 + q * prediction.eps


def transfer(process: Process, output: Array, x_t: Array, t: Array, s: Array) -> Array:
    """DDIM's step from time t to s with an output in the network's target."""
    said = solve_pair(process.alpha_sigma(t), process.target_coefficients(t), output, x_t)
    return ddim_step(process, said, x_t, t, s, x_t)


def pndm(denoise: Denoiser, process: Any, x: Any, grid: Any, keys: Keys) -> Any:
    """Integrates x `[b, ...]` from the grid's first time to a sample at its last; deterministic."""
    del keys
    here, there = step_pairs(process, grid)
    count = jax.tree.leaves(here)[0].shape[0]

    def said(x: Any, t: Any) -> Any:
        return jax.tree.map(output_of, process, denoise(x, at_time(process, t, x)), t)

    def move(output: Any, x: Any, t: Any, s: Any) -> Any:
        return jax.tree.map(transfer, process, output, x, t, s)

    def body(carry: Any, inputs: Any) -> tuple[Any, None]:
        x, older = carry
        t, s, weights = inputs
        last = (said(x, t), *older)
        mixed = jax.tree.map(lambda *m: sum(w * v for w, v in zip(weights, m, strict=True)), *last)
        return (move(mixed, x, t, s), last[:3]), None

    t, s = jax.tree.map(lambda g: g[0], (here, there))
    first = said(x, t)
    y = move(first, x, t, s)
    if count == 1:
        return y
    x = move(jax.tree.map(lambda a, b: 0.5 * (a + b), first, said(y, s)), x, t, s)
    rows = jnp.asarray([WEIGHTS[min(i, 2)] for i in range(count - 1)], jnp.result_type(float))
    none = jax.tree.map(jnp.zeros_like, first)
    later = jax.tree.map(lambda g: g[1:], (here, there))
    return jax.lax.scan(body, (x, (first, none, none)), (*later, rows))[0][0]

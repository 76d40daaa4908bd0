"""Sampling of masked discrete diffusion: tokens are revealed along a decreasing grid of times (`processes.masking`).

One scan. A step predicts log-probabilities of all positions and reveals each masked one with the probability of the
schedule. The random numbers of step i of sample j depend only on (keys[j], i).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from unified_jax.processes.masking import Masking
from unified_jax.typing import Keys

Predict = Callable[[Int[Array, "b n"], Float[Array, "b"]], Float[Array, "b n v"]]
"""(x_t, t) -> logits over the real tokens."""


def masked(
    predict: Predict, process: Masking, x: Int[Array, "b n"], grid: Any, keys: Keys, temperature: float = 1.0
) -> Int[Array, "b n"]:
    """Fills the masked tokens of x, from the grid's first time to 0; given tokens stay."""
    times = jnp.asarray(grid, jnp.result_type(float))

    def body(x: Array, inputs: Any) -> tuple[Array, None]:
        i, t, s = inputs
        step = jax.vmap(lambda key: jax.random.fold_in(key, i))(keys)
        logits = predict(x, jnp.full(x.shape[:1], t))
        return process.reveal(logits, x, t, s, step, temperature), None

    return jax.lax.scan(body, x, (jnp.arange(len(times) - 1), times[:-1], times[1:]))[0]

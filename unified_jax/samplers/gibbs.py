r"""Blocked Gibbs sampling: each block in turn is drawn anew, given all others (Geman and Geman 1984).

    round r:   x_1 ~ p(x_1 | x_2, .., x_m),   x_2 ~ p(x_2 | x_1, x_3, .., x_m),   ..

A model of several streams has all these conditionals (UniDiffuser, Bao et al. 2023: image to text to image), so that
chains show whether they fit each other: from any start they reach the joint distribution, whose marginals and pairs
can be counted. `models.gibbs` draws with a model.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from unified_jax.typing import Keys

State = dict[str, Array]
"""Blocks by name, `[b, ...]`."""

Conditional = Callable[[State, Keys], Array]
"""(the other blocks, a key per chain) -> a draw of its block."""


def gibbs(conditionals: dict[str, Conditional], state: State, keys: Keys, rounds: int) -> tuple[State, State]:
    """(the state after `rounds` rounds, the state after each `[rounds, b, ...]`).

    Blocks are drawn in the order of `conditionals`; each chain's draws are functions of its own key, the round and the
    block, so that they depend on no other chain. Blocks without a conditional stay. Runs inside one scan.
    """

    def body(state: State, r: Array) -> tuple[State, State]:
        for j, (name, draw) in enumerate(conditionals.items()):
            mine = jax.vmap(lambda key, j=j: jax.random.fold_in(jax.random.fold_in(key, r), j))(keys)
            others = {other: value for other, value in state.items() if other != name}
            state = state | {name: draw(others, mine).astype(state[name].dtype)}
        return state, state

    return jax.lax.scan(body, state, jnp.arange(rounds))

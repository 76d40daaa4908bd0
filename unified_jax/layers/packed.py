"""Packed rows inside a network: conditions by item, what a token attends to of them, and positions (`form.Layout`)."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Num

from unified_jax.kernels.inputs import Index, Visible
from unified_jax.layers.conditions import key_range
from unified_jax.layers.embeddings import scaled_positions
from unified_jax.layers.form import ConditionInput, Form, Layout


def each_item(shown: ConditionInput, layout: Layout | None) -> ConditionInput:
    """A condition `[b, k, ...]` of packed rows as one of b k examples; without a layout, as it is."""
    if layout is None:
        return shown
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), shown)


def item_rows(layout: Layout | None) -> Index | None:
    """The row of a table `[b, k, d]` that each token reads; padding reads the first. None without a layout."""
    return None if layout is None else jnp.maximum(layout.item, 0)


def memory_of(shown: ConditionInput, tokens: int, layout: Layout | None) -> tuple[Array, Visible | None]:
    """(memory, key range of each of `tokens` queries) of a condition of tokens, as `each_item` has it.

    The memory of a packed row holds the tokens of all its items, `[b, k m, f]`; each token sees those of its own item.
    """
    if layout is None:
        return shown.value, key_range(shown, tokens)
    rows, items = layout.grid.shape[:2]
    each = shown.value.shape[1]
    length = jnp.full((rows * items,), each) if shown.length is None else shown.length
    start = each * jnp.maximum(layout.item, 0)
    long = jnp.take_along_axis(length.reshape(rows, items), jnp.maximum(layout.item, 0), axis=1)
    stop = jnp.where(layout.item < 0, start, start + long)
    return shown.value.reshape(rows, items * each, -1), jnp.stack([start, stop], axis=-1)


def places_of(form: Form, grid: tuple[int, ...], layout: Layout | None) -> Num[np.ndarray, "n a"] | Num[Array, "b n a"]:
    """Positions of the tokens, those of images scaled to a grid of (rows, columns), as `scaled_positions` does."""
    if layout is None:
        return scaled_positions(form, grid)
    if not grid or layout.position.shape[-1] != len(grid):
        return layout.position
    own = of_tokens(layout.grid, layout)
    return layout.position * (jnp.asarray(grid, jnp.float32) / jnp.maximum(own, 1))


def of_tokens(value: Num[Array, "b k *s"], layout: Layout) -> Num[Array, "b n *s"]:
    """What each token's item has; padding has the first one's."""
    index: Int[Array, "b n"] = jnp.maximum(layout.item, 0)
    return jnp.take_along_axis(value, index.reshape(*index.shape, *(1,) * (value.ndim - 2)), axis=1)

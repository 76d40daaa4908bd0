"""The lists of needed blocks equal what the dense mask says, block by block."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.kernels.oracle import runs
from unified_jax.kernels.blocks import blocks_of, whole_runs


@pytest.mark.parametrize("kind", ["full", "causal", "window", "random", "packed"])
@pytest.mark.parametrize(("n", "m"), [(1, 1), (40, 40), (50, 23)])
def test_lists_are_what_the_mask_says(kind, n, m):
    if kind in ("causal", "window", "packed") and n != m:
        n = m
    rows, columns = 8, 4
    visible = runs(kind, 2, n, m, np.random.default_rng(0))
    found = blocks_of(jnp.asarray(visible), m, rows, columns)
    place = np.arange(-(-m // columns) * columns)
    mask = (place >= visible[..., :1]) & (place < visible[..., 1:])
    fill = ((0, 0), (0, -n % rows), (0, 0))
    cut = (2, -1, rows, len(place) // columns, columns)
    needed = np.pad(mask, fill).reshape(cut).any(axis=(2, 4))
    full = np.pad(mask, fill, constant_values=True).reshape(cut).all(axis=(2, 4))
    for lists, turn in ((found.keys, False), (found.queries, True)):
        want, whole = (x.swapaxes(1, 2) if turn else x for x in (needed, full))
        for b in range(2):
            for i in range(want.shape[1]):
                without, count = (int(c) for c in lists.count[b, i])
                listed = [int(j) for j in lists.blocks[b, i]]
                assert listed[:without] == list(np.flatnonzero(whole[b, i]))
                assert listed[without:count] == list(np.flatnonzero(want[b, i] & ~whole[b, i]))
                assert count == 0 or set(listed[count:]) <= {listed[count - 1]}


def test_runs_are_kept_within_the_keys():
    found = blocks_of(jnp.asarray([[[-3, 2], [1, 99]]]), 5, 4, 4)
    assert np.asarray(found.runs).tolist() == [[[0, 1, 0, 0], [2, 5, 0, 0]]]
    assert np.asarray(whole_runs(1, 2, 5)).tolist() == [[[0, 5], [0, 5]]]

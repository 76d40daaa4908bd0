"""The lists of needed blocks equal what the dense mask says, block by block."""

import jax.numpy as jnp
import numpy as np
import pytest
from tests.kernels.oracle import runs

from unified_jax.kernels.blocks import blocks_of, clean_runs, whole_runs


@pytest.mark.parametrize("kind", ["full", "causal", "window", "random", "packed"])
@pytest.mark.parametrize(("n", "m"), [(1, 1), (40, 40), (50, 23)])
def test_lists_are_what_the_mask_says(kind, n, m):
    if kind in ("causal", "window", "packed") and n != m:
        n = m
    rows, columns = 8, 4
    visible = clean_runs(jnp.asarray(runs(kind, 2, n, m, np.random.default_rng(0))), m, rows)
    assert visible.shape[1] % rows == 0
    place = np.arange(-(-m // columns) * columns)
    mask = (place >= visible[..., :1]) & (place < visible[..., 1:])
    cut = mask.reshape(2, -1, rows, len(place) // columns, columns)
    needed, covered = cut.any(axis=(2, 4)), cut.all(axis=(2, 4))
    for lists, turn in zip(blocks_of(visible, m, rows, columns), (False, True), strict=True):
        want, whole = (x.swapaxes(1, 2) if turn else x for x in (needed, covered))
        for b in range(2):
            for i in range(want.shape[1]):
                count = int(lists.count[b, i])
                codes = np.asarray(lists.code[b, i])
                assert list(codes[:count] // 2) == list(np.flatnonzero(want[b, i]))
                assert list(codes[:count] % 2 == 0) == list(whole[b, i][want[b, i]])
                assert count == 0 or set(codes[count:]) <= {codes[count - 1]}


def test_runs_are_kept_within_the_keys():
    visible = clean_runs(jnp.asarray([[[-3, 2], [1, 99]]]), 5, 4)
    assert np.asarray(visible).tolist() == [[[0, 2], [1, 5], [0, 0], [0, 0]]]
    assert np.asarray(whole_runs(1, 2, 5)).tolist() == [[[0, 5], [0, 5]]]

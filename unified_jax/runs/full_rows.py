"""How full the packed rows of a recipe are: lines of `unified-jax data show` (`data.packed_rows`)."""

from typing import Any

import numpy as np

from unified_jax.data.packed_rows import imbalance

STEPS = 50
"""Steps that are looked at."""


def row_lines(pipeline: Any) -> list[str]:
    """The sizes of a pipeline of packed rows, how full its first rows are, what was dropped, and the imbalance.

    The imbalance is that of shards of one row each, the most that any mesh sees.
    """
    mixer, batch, counts = pipeline.mixer, pipeline.batch_size, pipeline.buckets.counts
    rows = batch // mixer.policy.per_row
    full, lost, uneven = 0.0, 0, 0.0
    for step in range(STEPS):
        sizes = np.asarray([bucket for bucket, _ in pipeline.buckets.shares(step, batch)], np.int64)
        row = mixer.rows_of(sizes)
        there = row >= 0
        used = np.bincount(row[there], mixer.tokens(sizes)[there], rows).astype(np.int64)
        full += used.mean() / mixer.length / STEPS
        lost += int(np.count_nonzero(~there))
        uneven = max(uneven, imbalance(used, rows))
    lines = [
        f"size {height} x {width}: {count} records ({count / sum(counts):.1%})"
        for (height, width), count in zip(mixer.image.sizes, counts, strict=True)
    ]
    return [
        *lines,
        f"{rows} rows of {mixer.length} tokens for {batch} examples: {full:.1%} full, "
        f"{lost / batch / STEPS:.2%} of the examples dropped, imbalance of rows at most {uneven:.1%} ({STEPS} steps)",
    ]

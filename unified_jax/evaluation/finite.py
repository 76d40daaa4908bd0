"""Samples and metrics that are not finite are an error: none of them is written."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from unified_jax.errors import RunError


def check_samples(made: Mapping[str, Any]) -> None:
    """Raises RunError naming the modality and the samples where `made` (modality -> a row per sample) is not finite."""
    for name, rows in made.items():
        values = np.asarray(rows)
        if not np.issubdtype(values.dtype, np.inexact):
            continue
        bad = np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(axis=1))
        if len(bad):
            places = ", ".join(map(str, bad[:8])) + (", ..." if len(bad) > 8 else "")
            raise RunError(
                f"{len(bad)} of {len(values)} samples of {name!r} are not finite numbers (sample {places}), so nothing "
                "was written. Look at guidance, sampler and number of steps, and whether the run's loss was finite."
            )


def check_figures(rows: list[dict[str, Any]]) -> None:
    """Raises RunError naming the metric where a row's value is not finite; None is that of no sample."""
    for row in rows:
        if row["value"] is not None and not np.isfinite(row["value"]):
            raise RunError(
                f"The metric {row['metric']} of the split {row['split']!r} is not a finite number "
                f"({row['value']}), so nothing was written."
            )

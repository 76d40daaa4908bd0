r"""What a generator makes of a mixture whose modes are known (`data.gaussians`).

near         share of the samples within four widths of the nearest centre
modes        centres with at least 1 / (10 m) of the samples within four widths: a tenth of their due
mode_kl      sum_k q_k log(q_k m), q_k the share of mode k among the near samples: 0 for equal shares, log m for one
             mode (and where nothing is near)
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from unified_jax.data.gaussians import Gaussians
from unified_jax.evaluation.scores import Row, Samples, accuracy_row

WIDTHS = 4.0
"""Radius of a mode, in widths: 99.97 % of its points."""


@dataclass(frozen=True)
class Modes:
    """Modes found, and how their shares differ."""

    of: Gaussians = Gaussians()
    """The data set."""

    def suits(self, data: Any, model: Any) -> str:
        """See `Score`."""
        if data != self.of:
            return f"it knows the modes of {self.of}"
        return "" if model.wantable == ("point",) else "it reads the field 'point'"

    def __call__(self, samples: Samples) -> list[Row]:
        """See `Score`."""
        near, found, kl = modes(self.of, samples.made)
        blank = {"low": None, "high": None, "chance": None, "n": len(near)}
        rows = [{"metric": name, "value": value, **blank} for name, value in (("modes", float(found)), ("mode_kl", kl))]
        return [accuracy_row("near", near, 0.0), *rows]


def modes(data: Gaussians, points: Float[np.ndarray, "b 1 2"]) -> tuple[np.ndarray, int, float]:
    """(whether each point is near a centre, modes found, mode_kl)."""
    centres = data.centres
    distance = np.linalg.norm(points.reshape(-1, 1, 2) - centres, axis=-1)
    near, nearest = distance.min(1) < WIDTHS * data.width, distance.argmin(1)
    counts = np.bincount(nearest[near], minlength=len(centres))
    found = int(np.sum(counts >= len(points) / (10 * len(centres))))
    shares = counts[counts > 0] / max(1, counts.sum())
    kl = float(np.sum(shares * np.log(shares * len(centres)))) if len(shares) else float(np.log(len(centres)))
    return near.astype(float), found, kl

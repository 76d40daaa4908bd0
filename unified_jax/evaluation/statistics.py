"""Intervals."""

import math


def wilson_interval(rate: float, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson score interval (95 %) of a rate over n independent trials.

    For a mean of several scores a sample, n is the number of samples: as if its scores were one, so never too narrow.
    """
    if n < 1 or not 0.0 <= rate <= 1.0:
        raise ValueError(f"A Wilson interval needs n >= 1 and a rate in [0, 1], found n = {n}, rate = {rate}.")
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)

r"""Distances between two sets of feature vectors, float64 NumPy.

Frechet distance of Gaussians fitted to the sets (Heusel et al. 2017, eq. 6):

    |mu1 - mu2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))

tr (C1 C2)^(1/2) is the sum of the square roots of the eigenvalues of the symmetric C1^(1/2) C2 C1^(1/2), which needs
only two symmetric eigen-decompositions and is stable for singular covariances.

Kernel distance (Binkowski et al. 2018): the unbiased squared MMD with the kernel (x . y / d + 1)^3, in expectation
independent of the number of samples. Precision and recall (Kynkaanniemi et al. 2019): the share of one set inside the
balls around the other set's vectors that reach their k-th neighbours. Inception score (Salimans et al. 2016):
exp(mean KL(p(y | x) || p(y))), over splits.
"""

import numpy as np
from jaxtyping import Float


def moments(features: Float[np.ndarray, "n d"]) -> tuple[Float[np.ndarray, "d"], Float[np.ndarray, "d d"]]:
    """Mean and covariance (divisor n - 1). Raises ValueError for fewer than two vectors or non-finite ones."""
    x = np.asarray(features, np.float64)
    if x.ndim != 2 or len(x) < 2:
        raise ValueError(f"Moments need at least two feature vectors [n, d], found shape {x.shape}.")
    if not np.isfinite(x).all():
        raise ValueError("The features hold values that are not finite.")
    return x.mean(0), np.cov(x, rowvar=False).reshape(x.shape[1], x.shape[1])


def frechet_distance(
    mu1: Float[np.ndarray, "d"],
    cov1: Float[np.ndarray, "d d"],
    mu2: Float[np.ndarray, "d"],
    cov2: Float[np.ndarray, "d d"],
) -> float:
    """Squared Frechet distance of two Gaussians."""
    values, vectors = np.linalg.eigh(cov1)
    root = (vectors * np.sqrt(np.clip(values, 0.0, None))) @ vectors.T
    inner = root @ cov2 @ root
    cross = np.sqrt(np.clip(np.linalg.eigvalsh((inner + inner.T) / 2), 0.0, None)).sum()
    return float(np.sum((mu1 - mu2) ** 2) + np.trace(cov1) + np.trace(cov2) - 2.0 * cross)


def frechet(a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"]) -> float:
    """Frechet distance between two sets of features.

    >>> a = np.random.default_rng(0).normal(size=(50, 3))
    >>> round(frechet(a, a + 2.0), 6)
    12.0
    """
    return frechet_distance(*moments(a), *moments(b))


def kernel_distance(
    a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"], subset: int = 1000, subsets: int = 100, seed: int = 0
) -> float:
    """Squared MMD, averaged over random subsets of both; of all vectors if a set is no larger than `subset`.

    Raises ValueError for fewer than two vectors.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    size = min(len(a), len(b), subset)
    if size < 2:
        raise ValueError(f"A kernel distance needs at least two vectors of each set, found {len(a)} and {len(b)}.")
    rng = np.random.default_rng(seed)
    rounds = 1 if size == len(a) == len(b) else subsets
    return float(np.mean([_squared_mmd(*(v[rng.choice(len(v), size, False)] for v in (a, b))) for _ in range(rounds)]))


def _squared_mmd(x: np.ndarray, y: np.ndarray) -> float:
    m, d = x.shape
    xx, yy, xy = ((u @ v.T / d + 1.0) ** 3 for u, v in ((x, x), (y, y), (x, y)))
    within = xx.sum() - np.trace(xx) + yy.sum() - np.trace(yy)
    return float((within / (m - 1) - 2.0 * xy.sum() / m) / m)


def precision_recall(
    real: Float[np.ndarray, "n d"], made: Float[np.ndarray, "m d"], neighbours: int = 3
) -> tuple[float, float]:
    """(precision, recall). Raises ValueError unless both sets have more vectors than `neighbours`."""
    if min(len(real), len(made)) <= neighbours:
        raise ValueError(
            f"Precision and recall over {neighbours} neighbours need more vectors, found {len(real)} and {len(made)}."
        )
    return _covered(real, made, neighbours), _covered(made, real, neighbours)


def _covered(centres: np.ndarray, probes: np.ndarray, neighbours: int) -> float:
    radii = np.sort(_distances(centres, centres), axis=1)[:, neighbours]  # index 0 is the vector itself
    return float((_distances(probes, centres) <= radii).any(axis=1).mean())


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    rows = [np.sqrt(((row - b) ** 2).sum(1)) for row in a]
    return np.stack(rows)


def inception_score(probabilities: Float[np.ndarray, "n c"], splits: int = 10) -> tuple[float, float]:
    """Mean and standard deviation over splits of exp(mean KL to the split's mean).

    Raises ValueError for more splits than rows.
    """
    p = np.asarray(probabilities, np.float64)
    if not 1 <= splits <= len(p):
        raise ValueError(f"{len(p)} rows cannot be divided into {splits} splits.")
    scores = []
    for part in (p[i * len(p) // splits : (i + 1) * len(p) // splits] for i in range(splits)):
        ratio = np.log(np.maximum(part, 1e-300)) - np.log(np.maximum(part.mean(0, keepdims=True), 1e-300))
        scores.append(np.exp((part * ratio).sum(1).mean()))
    return float(np.mean(scores)), float(np.std(scores))


def pooled_pixels(images: Float[np.ndarray, "b h w c"], side: int = 4) -> Float[np.ndarray, "b d"]:
    """Mean colours of a side x side grid of cells: a feature that needs no weights (layout, no detail)."""
    b, h, w, c = images.shape
    rows = np.array_split(np.arange(h), side)
    columns = np.array_split(np.arange(w), side)
    cells = [images[:, r][:, :, q].mean((1, 2)) for r in rows for q in columns]
    return np.stack(cells, axis=1).reshape(b, side * side * c).astype(np.float64)

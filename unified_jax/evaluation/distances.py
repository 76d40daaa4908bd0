r"""Distances between two sets of feature vectors, float64 NumPy.

Frechet distance of Gaussians fitted to the sets (Heusel et al. 2017, eq. 6):

    |mu1 - mu2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))

tr (C1 C2)^(1/2) is the sum of the square roots of the eigenvalues of the symmetric C1^(1/2) C2 C1^(1/2), which needs
only two symmetric eigen-decompositions and is stable for singular covariances.

Kernel distance (Binkowski et al. 2018): the unbiased squared MMD with the kernel (x . y / d + 1)^3, in expectation
independent of the number of samples. Inception score (Salimans et al. 2016): exp(mean KL(p(y | x) || p(y))), over
splits. Precision and recall: `neighbours`.
"""

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int

CHUNK = 4096
"""Vectors that are held as float64 at a time."""


class Sums(NamedTuple):
    """Sums over vectors, taken around a centre that all parts of a set share."""

    n: int
    total: Float[np.ndarray, "d"]
    products: Float[np.ndarray, "d d"]

    def __sub__(self, other: "Sums") -> "Sums":
        return Sums(self.n - other.n, self.total - other.total, self.products - other.products)

    def moments(self, centre: Float[np.ndarray, "d"]) -> tuple[Float[np.ndarray, "d"], Float[np.ndarray, "d d"]]:
        """Mean and covariance (divisor n - 1)."""
        mean = self.total / self.n
        return centre + mean, (self.products - self.n * np.outer(mean, mean)) / (self.n - 1)


def sums(features: Float[np.ndarray, "n d"], centre: Float[np.ndarray, "d"]) -> Sums:
    """The sums of a set, in float64 and in pieces: a set of 50,000 need not be copied."""
    size = features.shape[1]
    total, products = np.zeros(size), np.zeros((size, size))
    for at in range(0, len(features), CHUNK):
        x = np.asarray(features[at : at + CHUNK], np.float64) - centre
        total += x.sum(0)
        products += x.T @ x
    return Sums(len(features), total, products)


def moments(features: Float[np.ndarray, "n d"]) -> tuple[Float[np.ndarray, "d"], Float[np.ndarray, "d d"]]:
    """Mean and covariance (divisor n - 1). Raises ValueError for fewer than two vectors or non-finite ones."""
    x = np.asarray(features)
    check_vectors(x)
    centre = x.mean(0, dtype=np.float64)
    return sums(x, centre).moments(centre)


def check_vectors(x: np.ndarray) -> None:
    """Raises ValueError for fewer than two vectors or non-finite ones."""
    if x.ndim != 2 or len(x) < 2:
        raise ValueError(f"Moments need at least two feature vectors [n, d], found shape {x.shape}.")
    if not all(np.isfinite(x[at : at + CHUNK]).all() for at in range(0, len(x), CHUNK)):
        raise ValueError("The features hold values that are not finite.")


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
    a, b = np.asarray(a), np.asarray(b)
    check_vectors(a)
    check_vectors(b)
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"The sets have vectors of {a.shape[1]} and of {b.shape[1]} features.")
    if len(a) * len(b) > a.shape[1] ** 2:
        return frechet_distance(*moments(a), *moments(b))
    # Few vectors of many features: tr (C1 C2)^(1/2) is the sum of the singular values of the small A B^T.
    (x, mu1), (y, mu2) = (_centred(v) for v in (a, b))
    cross = np.linalg.svd(x @ y.T, compute_uv=False).sum()
    return float(np.sum((mu1 - mu2) ** 2) + np.sum(x * x) + np.sum(y * y) - 2.0 * cross)


def _centred(v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(the vectors less their mean, over sqrt(n - 1); the mean)."""
    x = np.asarray(v, np.float64)
    mean = x.mean(0)
    return (x - mean) / np.sqrt(len(x) - 1), mean


Rule = Literal["ours", "torch_fidelity", "clean"]
"""Who draws the subsets of a kernel distance: two published programs with their own generators, or NumPy's newest."""


def subset_rows(
    n: int, m: int, size: int, subsets: int, rule: Rule = "ours", seed: int = 0
) -> Iterator[tuple[Int[np.ndarray, "s"], Int[np.ndarray, "s"]]]:
    """Pairs of rows, of n vectors of the first set and m of the second.

    torch_fidelity    RandomState(seed), the first set's before the second's; its seed is 2020
    clean             the global generator after np.random.seed(seed), the second set's before the first's
    """
    draw: Any = np.random.default_rng(seed) if rule == "ours" else np.random.RandomState(seed)
    for _ in range(subsets):
        if rule == "clean":
            second = draw.choice(m, size, replace=False)
            yield draw.choice(n, size, replace=False), second
        else:
            first = draw.choice(n, size, replace=False)
            yield first, draw.choice(m, size, replace=False)


def kernel_distance(
    a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"], subset: int = 1000, subsets: int = 100, seed: int = 0,
    rule: Rule = "ours",
) -> float:  # fmt: skip
    """Squared MMD, averaged over random subsets of both; of all vectors if a set is no larger than `subset`.

    Raises ValueError for fewer than two vectors.
    """
    a, b = np.asarray(a), np.asarray(b)
    size = min(len(a), len(b), subset)
    if size < 2:
        raise ValueError(f"A kernel distance needs at least two vectors of each set, found {len(a)} and {len(b)}.")
    rounds = 1 if size == len(a) == len(b) else subsets
    rows = subset_rows(len(a), len(b), size, rounds, rule, seed)
    return float(np.mean([squared_mmd(a[i], b[j]) for i, j in rows]))


def squared_mmd(x: Float[np.ndarray, "m d"], y: Float[np.ndarray, "m d"]) -> float:
    """The unbiased squared MMD of two sets of one size, with the kernel of the module docstring."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    m, d = x.shape
    xx, yy, xy = ((u @ v.T / d + 1.0) ** 3 for u, v in ((x, x), (y, y), (x, y)))
    within = xx.sum() - np.trace(xx) + yy.sum() - np.trace(yy)
    return float((within / (m - 1) - 2.0 * xy.sum() / m) / m)


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

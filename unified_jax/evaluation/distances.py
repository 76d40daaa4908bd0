r"""Distances between two sets of feature vectors, float64 NumPy.

Frechet distance of Gaussians fitted to the sets (Heusel et al. 2017, eq. 6):

    |mu1 - mu2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))

tr (C1 C2)^(1/2) is the sum of the square roots of the eigenvalues of the symmetric C1^(1/2) C2 C1^(1/2), which needs
two symmetric eigen-decompositions, no general matrix square root, and is stable for singular covariances.
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
    """Frechet distance between two sets of features."""
    return frechet_distance(*moments(a), *moments(b))


def pooled_pixels(images: Float[np.ndarray, "b h w c"], side: int = 4) -> Float[np.ndarray, "b d"]:
    """Mean colours of a side x side grid of cells: a feature that needs no weights (layout, no detail)."""
    b, h, w, c = images.shape
    rows = np.array_split(np.arange(h), side)
    columns = np.array_split(np.arange(w), side)
    cells = [images[:, r][:, :, q].mean((1, 2)) for r in rows for q in columns]
    return np.stack(cells, axis=1).reshape(b, side * side * c).astype(np.float64)

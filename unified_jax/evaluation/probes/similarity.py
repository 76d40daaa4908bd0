r"""Similarity of representations by linear CKA (Kornblith et al. 2019, arXiv 1905.00414).

Rows of X `[n, p]` and Y `[n, q]` are features of the same n scenes, columns centred, K = X X^T, L = Y Y^T:

    CKA(X, Y) = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L))

is 1 for features that agree up to a rotation and a scale. The paper's HSIC is tr(K H L H) / (n - 1)^2, which for
centred features gives |Y^T X|_F^2 / (|X^T X|_F |Y^T Y|_F). It has a large upward bias unless n is far above p:
independent Gaussian features have about sqrt(p q / ((n + p) (n + q))), that is d / (n + d), 0.43 for 192 features of
256 scenes. So HSIC is estimated without bias (Song et al. 2012, JMLR 13, eq. 5; for CKA: Nguyen et al. 2021, arXiv
2010.15327, eq. 3): with the diagonals of K and L set to 0,

    HSIC_1 = [tr(K L) + 1^T K 1 1^T L 1 / ((n - 1) (n - 2)) - 2 / (n - 2) 1^T K L 1] / (n (n - 3)),

and independent features give about 0, of either sign. The quotient of unbiased estimates may slightly leave
[0, 1]. The same features with the scenes of one of the two shuffled show the null distribution at this n.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class Similarity(NamedTuple):
    """CKA of every two of m sets of features at every depth; nan where features do not vary."""

    cka: Float[np.ndarray, "depth m m"]
    biased: Float[np.ndarray, "depth m m"]
    """The paper's estimate, for comparison with what others report."""
    shuffled: Float[np.ndarray, "shuffles depth m m"]
    """`cka` with the scenes of the second set permuted."""


def gram(x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n n"]:
    """X X^T of centred columns, float64."""
    x = x.astype(np.float64)
    x = x - x.mean(axis=0)
    return x @ x.T


def unbiased_hsic(k: Float[np.ndarray, "n n"], other: Float[np.ndarray, "n n"]) -> float:
    """HSIC_1 of two Gram matrices (K, L) of at least four rows."""
    n = len(k)
    if n < 4:
        raise ValueError(f"The unbiased HSIC needs at least 4 examples, found {n}.")
    k, other = k - np.diag(np.diag(k)), other - np.diag(np.diag(other))
    cross = k.sum(axis=0) @ other.sum(axis=1)
    corner = k.sum() * other.sum() / ((n - 1) * (n - 2))
    return float((np.sum(k * other) + corner - 2 / (n - 2) * cross) / (n * (n - 3)))


def linear_cka(x: Float[np.ndarray, "n p"], y: Float[np.ndarray, "n q"]) -> float:
    """CKA by the unbiased HSIC; nan where one of the two does not vary."""
    return _quotient(gram(x), gram(y))


def biased_linear_cka(x: Float[np.ndarray, "n p"], y: Float[np.ndarray, "n q"]) -> float:
    """CKA as Kornblith et al. (2019) write it."""
    return _biased_quotient(gram(x), gram(y))


def compare(features: Float[np.ndarray, "depth m n d"], seed: int, shuffles: int = 20) -> Similarity:
    """CKA of all pairs at all depths, and the same with shuffled scenes, by one permutation for all."""
    depth, count, n, _ = features.shape
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(n) for _ in range(shuffles)]
    cka, biased = np.empty((depth, count, count)), np.empty((depth, count, count))
    shuffled = np.empty((shuffles, depth, count, count))
    for layer in range(depth):
        grams = [gram(one) for one in features[layer]]
        for i, k in enumerate(grams):
            for j, other in enumerate(grams):
                cka[layer, i, j], biased[layer, i, j] = _quotient(k, other), _biased_quotient(k, other)
                for s, order in enumerate(orders):
                    shuffled[s, layer, i, j] = _quotient(k, other[order][:, order])
    return Similarity(cka, biased, shuffled)


def _quotient(k: np.ndarray, other: np.ndarray) -> float:
    if _still(k) or _still(other):
        return float("nan")
    scale = unbiased_hsic(k, k) * unbiased_hsic(other, other)
    return unbiased_hsic(k, other) / float(np.sqrt(scale)) if scale > 0 else float("nan")


def _biased_quotient(k: np.ndarray, other: np.ndarray) -> float:
    if _still(k) or _still(other):
        return float("nan")
    return float(np.sum(k * other) / np.sqrt(np.sum(k * k) * np.sum(other * other)))


def _still(k: np.ndarray) -> bool:
    return float(np.trace(k)) < 1e-12 * len(k)

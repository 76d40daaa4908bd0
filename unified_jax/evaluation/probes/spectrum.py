r"""Spectra of pictures and latents (Skorokhodov et al. 2025, "Improving the diffusability of autoencoders").

    D_uv = a_u a_v sum_xy x_xy cos((2 x + 1) u pi / 2 B) cos((2 y + 1) v pi / 2 B)     orthonormal DCT-II of blocks of B
    E_uv = mean over pictures, blocks and channels of D_uv^2, after the set's mean of each channel was taken off
    high = sum of E_uv with u + v > 2/3 of 2 (B - 1), over the sum of all

A diffusion model makes low frequencies first; the flatter the spectrum of a latent, the more is left to its last steps.
The mean of a channel is no information about a picture and would drown the rest. Spectra of two autoencoders compare at
reconstructions of the same quality.
"""

from typing import NamedTuple

import numpy as np
import scipy.fft
from jaxtyping import Float


class Spectrum(NamedTuple):
    """The spectrum of a set."""

    energy: Float[np.ndarray, "b b"]
    """E_uv over its sum; u is the frequency along rows."""
    high: float
    """Share of the upper third of frequencies."""
    low_end: float
    """Of its 95 % interval over pictures."""
    high_end: float


def block_energies(x: Float[np.ndarray, "n h w c"], block: int) -> Float[np.ndarray, "n b b"]:
    """Mean squared coefficients of each picture; what is beyond whole blocks is left out.

    Raises ValueError for blocks that are larger than the arrays.
    """
    n, height, width, channels = x.shape
    rows, columns = height // block, width // block
    if block < 2 or min(rows, columns) < 1:
        raise ValueError(f"Blocks of {block} need at least 2 numbers a side and fit into {height} x {width}.")
    x = x.astype(np.float64)
    x = (x - x.mean(axis=(0, 1, 2)))[:, : rows * block, : columns * block]
    x = x.reshape(n, rows, block, columns, block, channels)
    coefficients: np.ndarray = np.asarray(scipy.fft.dctn(x, axes=(2, 4), norm="ortho"))
    return np.square(coefficients).mean(axis=(1, 3, 5))


def spectrum(energies: Float[np.ndarray, "n b b"]) -> Spectrum:
    """Of a set's `block_energies`. The interval is that of a ratio of means (delta method).

    Raises ValueError for arrays that do not vary, or fewer than two.
    """
    total = energies.sum(axis=(1, 2))
    if len(energies) < 2 or not np.isfinite(total).all() or total.sum() <= 0:
        raise ValueError("A spectrum is of two arrays at least, of finite numbers that vary.")
    upper = upper_third(energies.shape[-1])
    part = energies[:, upper].sum(axis=1)
    high = float(part.sum() / total.sum())
    error = float(np.sqrt(len(total) / (len(total) - 1) * np.square(part - high * total).sum()) / total.sum())
    return Spectrum(energies.sum(axis=0) / total.sum(), high, max(high - 1.96 * error, 0.0), high + 1.96 * error)


def upper_third(block: int) -> np.ndarray:
    """Which coefficients of a block are in the upper third of u + v.

    >>> upper_third(4).astype(int).tolist()
    [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 1]]
    """
    return np.add.outer(np.arange(block), np.arange(block)) * 3 > 4 * (block - 1)


def zigzag(block: int) -> np.ndarray:
    """The coefficients in the order of JPEG, as indices into a flat block.

    >>> zigzag(3).tolist()
    [0, 1, 3, 6, 4, 2, 5, 7, 8]
    """
    places = [(u, v) for u in range(block) for v in range(block)]
    places.sort(key=lambda p: (p[0] + p[1], p[0] if (p[0] + p[1]) % 2 else -p[0]))
    return np.asarray([u * block + v for u, v in places])

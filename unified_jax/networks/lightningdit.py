r"""LightningDiT (Yao, Yang & Wang 2025, arXiv 2501.01423): a DiT with what language models found useful since.

    x += gate1 * Attention(RMS(x) g1 (1 + scale1) + shift1)     RMS(x) = x / sqrt(mean(x^2) + 1e-6), gains g
    x += gate2 * SwiGLU(RMS(x) g2 (1 + scale2) + shift2)        SwiGLU(h) = W3 (silu(W1 h) * W2 h), with biases
    q, k turned by their positions: rows in the first half of a head, columns in the second, besides sin-cos positions

Queries and keys can be normed (`qk_norm`), and the blocks' modulation can leave out its shift. These are fields of
`DiT`. Its training is one of an `Interpolant`: a straight path, logit-normal times, a direction term of weight 1, time
in [0, 1] from noise to data (`flow`); on latents that are normalised channel by channel, which the autoencoder's scale
and shift do.
"""

from typing import Literal

from unified_jax.networks.dit import DiT
from unified_jax.processes.interpolant import Interpolant
from unified_jax.processes.times import LogitNormalTimes

SIZES: dict[str, tuple[int, int, int]] = {
    "B": (12, 768, 12),
    "L": (24, 1024, 16),
    "XL": (28, 1152, 16),
    "1p0B": (24, 1536, 24),
    "1p6B": (28, 1792, 28),
}
"""(depth, width, heads) of the published models."""


def lightningdit_preset(
    size: Literal["B", "L", "XL", "1p0B", "1p6B"], dtype: Literal["float32", "bfloat16"] = "float32"
) -> DiT:
    """A published size, with the released options: no QK-norm, and shifts."""
    depth, width, heads = SIZES[size]
    return DiT(depth=depth, width=width, heads=heads, norm="rms", mlp="swiglu", rotary=True, dtype=dtype)


def flow(direction_weight: float = 1.0, shift: float = 1.0) -> Interpolant:
    """The published training process; `shift` leans its times towards noise, for latents of many numbers."""
    return Interpolant(
        times=LogitNormalTimes(shift=shift), direction_weight=direction_weight, time_scale=1.0, reversed_time=True
    )

r"""SigLIP (Zhai et al. 2023, arXiv 2303.15343): a text and an image tower, and the sigmoid loss of all pairs.

text     `networks.clip.TextTower`, not causal, pooled at the last place, then a linear head: texts are always padded
         to the full length, and padding is read
image    `networks.vit.Vit` without a class token, pooled by a learned probe
logits   e^s cos(image, text) + b
loss     -log sigmoid(z_ij logits_ij), z = 1 for a pair that belongs together and -1 for every other; a mean over
         images
"""

import math
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unified_jax.networks.clip import TextTower
from unified_jax.networks.vit import Vit
from unified_jax.precision import precision

Size = Literal["B/16", "L/16", "SO400M/14"]
SIZES: dict[str, tuple[int, int, int, int, int]] = {
    "B/16": (12, 768, 12, 3072, 16),
    "L/16": (24, 1024, 16, 4096, 16),
    "SO400M/14": (27, 1152, 16, 4304, 14),
}
"""(depth, width, heads, hidden, patch) of the published towers."""
SCALE, BIAS = math.log(10.0), -10.0
"""Where the training starts: s and b."""


def siglip_text(size: Size = "B/16", dtype: Literal["float32", "bfloat16"] = "float32") -> TextTower:
    """A text tower."""
    depth, width, heads, hidden, _ = SIZES[size]
    return TextTower(
        vocabulary=32000, length=64, width=width, depth=depth, heads=heads, hidden=hidden, activation="gelu_tanh",
        eps=1e-6, projection=width, projection_bias=True, causal=False, pool="last", end=1, dtype=dtype,
    )  # fmt: skip


def siglip_vision(size: Size = "B/16", side: int = 224, dtype: Literal["float32", "bfloat16"] = "float32") -> Vit:
    """An image tower for images of this side."""
    depth, width, heads, hidden, patch = SIZES[size]
    return Vit(
        size=side, patch=patch, width=width, depth=depth, heads=heads, hidden=hidden, activation="gelu_tanh",
        eps=1e-6, class_token=False, patch_bias=True, first_norm=False, pool="probe", dtype=dtype,
    )  # fmt: skip


def pair_logits(
    image: Float[Array, "i d"], text: Float[Array, "t d"], scale: Float[Array, ""], bias: Float[Array, ""]
) -> Float[Array, "i t"]:
    """The logits of all pairs, from vectors of length 1."""
    cosine = jnp.matmul(image, text.T, precision=precision(image.dtype))
    return cosine * jnp.exp(scale) + bias


def siglip_loss(logits: Float[Array, "b b"]) -> Float[Array, "b"]:
    """The loss of each image, whose text has the same place."""
    belongs = 2 * jnp.eye(len(logits)) - 1
    return -jnp.sum(jax.nn.log_sigmoid(belongs * logits), axis=1)

"""Networks of published text and image encoders, from the fields that their files say."""

from typing import Literal

import numpy as np
from jaxtyping import Int

from unified_jax.interop import t5
from unified_jax.interop.clip import TextFields, VisionFields
from unified_jax.modalities.bpe import load_bpe
from unified_jax.modalities.text import Text
from unified_jax.networks.clip import TextTower
from unified_jax.networks.t5 import T5Encoder
from unified_jax.networks.vit import Vit

Dtype = Literal["float32", "bfloat16"]


def text_tower(f: TextFields, dtype: Dtype = "float32") -> TextTower:
    """CLIP's or SigLIP's text tower. Raises ValueError for sizes that do not fit each other."""
    return TextTower(
        vocabulary=f.vocabulary, length=f.length, width=f.width, depth=f.depth, heads=f.heads, hidden=f.hidden,
        activation=f.activation, eps=f.eps, projection=f.projection, projection_bias=f.projection_bias,
        causal=f.causal, pool=f.pool, end=f.end, dtype=dtype,
    )  # fmt: skip


def vision_transformer(f: VisionFields, dtype: Dtype = "float32") -> Vit:
    """CLIP's, SigLIP's or DINOv2's image encoder. Raises ValueError for sizes that do not fit each other."""
    return Vit(
        size=f.size, patch=f.patch, channels=f.channels, width=f.width, depth=f.depth, heads=f.heads,
        hidden=f.hidden, activation=f.activation, gated=f.gated, eps=f.eps, class_token=f.class_token,
        registers=f.registers, patch_bias=f.patch_bias, qkv_bias=f.qkv_bias, first_norm=f.first_norm,
        layer_scale=f.layer_scale, antialias=f.antialias, pool=f.pool, projection=f.projection, dtype=dtype,
    )  # fmt: skip


def t5_encoder(f: t5.Fields, dtype: Dtype = "float32") -> T5Encoder:
    """T5's or UMT5's encoder. Raises ValueError for sizes that do not fit each other."""
    return T5Encoder(
        vocabulary=f.vocabulary, width=f.width, depth=f.depth, heads=f.heads, head_dim=f.head_dim, hidden=f.hidden,
        activation=f.activation, gated=f.gated, buckets=f.buckets, reach=f.reach, shared=f.shared, eps=f.eps,
        dtype=dtype,
    )  # fmt: skip


def empty_prompt(text: Text, fill: int) -> Int[np.ndarray, " m"]:
    """The ids of the empty prompt: what a tokenizer puts around every text, filled up."""
    tokenizer = load_bpe(text.bpe) if text.bpe else None
    around = (*tokenizer.before, *tokenizer.after) if tokenizer else ()
    return np.asarray([*around, *[fill] * (text.length - len(around))], np.int32)

"""Public sets that `unified-jax data get` fetches and builds."""

from unified_jax.data.public.base import Original, PublicSet
from unified_jax.data.public.emoji import EMOJI
from unified_jax.data.public.fashion_mnist import FASHION_MNIST
from unified_jax.data.public.spoken_digit import SPOKEN_DIGIT
from unified_jax.data.public.tiny_shakespeare import TINY_SHAKESPEARE
from unified_jax.data.public.turntable import TURNTABLE

__all__ = ["SETS", "Original", "PublicSet"]

SETS = (FASHION_MNIST, EMOJI, SPOKEN_DIGIT, TURNTABLE, TINY_SHAKESPEARE)
"""All of them."""

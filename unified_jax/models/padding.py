r"""What a network reads in the places of a text that has fewer tokens than there is room for.

    mask        nothing: the places are not attended to
    zero        zeros
    keep        what the encoder gives (Stable Diffusion)
    replicate   the text again, with noise:   y_k = y_(k mod L) + s std(y) n_k,   n_k ~ N(0, I),   k >= L

With "replicate" (Berrada Ifriqi et al. 2024, arXiv 2411.03177) what the encoder gives in these places reaches nobody.
The deviation is one number of an example, over its own tokens. Noise is drawn anew in every training step, and once for
a sample; without keys there is none, and the copies are exact.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from unified_jax.typing import Keys

Padding = Literal["mask", "zero", "keep", "replicate"]


def padded(
    value: Array, length: Int[Array, "b"] | None, padding: Padding, noise: float = 0.0, keys: Keys | None = None
) -> tuple[Array, Int[Array, "b"] | None]:
    """(the tokens as `padding` says, their length where the network is to mask the others)."""
    if length is None or padding == "mask":
        return value, length
    if padding == "zero":
        return jnp.where((jnp.arange(value.shape[1]) < length[:, None])[..., None], value, 0.0), None
    return replicated(value, length, noise, keys) if padding == "replicate" else value, None


def replicated(
    tokens: Float[Array, "b m f"], length: Int[Array, "b"], noise: float = 0.0, keys: Keys | None = None
) -> Float[Array, "b m f"]:
    """The tokens, and after them copies of them with noise; of a text without tokens, copies of its first place."""
    slots, count = jnp.arange(tokens.shape[1]), jnp.maximum(length, 1)[:, None]
    copies = jnp.take_along_axis(tokens, (slots % count)[..., None], axis=1)
    if not noise or keys is None:
        return copies
    own = (slots < count)[..., None]
    total = (count * tokens.shape[-1])[..., None]
    mean = jnp.sum(jnp.where(own, tokens, 0.0), axis=(1, 2), keepdims=True) / total
    spread = jnp.sqrt(jnp.sum(jnp.where(own, jnp.square(tokens - mean), 0.0), axis=(1, 2), keepdims=True) / total)
    drawn = jax.vmap(lambda key: jax.random.normal(key, tokens.shape[1:]))(keys)
    return jnp.where(own, copies, copies + noise * spread * drawn)

r"""What a U-Net tells its residual blocks: one vector e of the time and of the conditions.

    e = MLP(sinusoid(t))  +  sum_i label_i(y_i)  +  added([vectors, sinusoid(s_1), sinusoid(s_2), ...])

SDXL's sizes and crops are scalars, its pooled text a vector (Podell et al. 2023); Stable Diffusion's image variations
have a vector alone. `added` is an MLP, a matrix (then a norm), or nothing. A distilled model's guidance scale comes as
a vector that joins the sinusoid of the time (Luo et al. 2023). One MLP reads all that is added, so the weight of a
control condition scales what that MLP reads of it.
"""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unified_jax.layers.conditions import weighted
from unified_jax.layers.embeddings import LabelEmbedding, sinusoid
from unified_jax.layers.form import ConditionInput
from unified_jax.layers.mlp import Dense
from unified_jax.layers.modulation import AffineNorm
from unified_jax.networks.unet.blocks import ACTIVATIONS, Activation

Added = Literal["mlp", "linear", "normed", "plain"]


def waves(t: Float[Array, "*s"], features: int, sine_first: bool, shift: float) -> Float[Array, "*s d"]:
    """[cos, sin] or [sin, cos] of t, float32; an odd last feature is 0."""
    found = sinusoid(t, features, shift)
    if sine_first:
        found = jnp.concatenate(jnp.split(found, 2, axis=-1)[::-1], axis=-1)
    return jnp.pad(found, [(0, 0)] * (found.ndim - 1) + [(0, features % 2)])


class VectorTokens(nn.Module):
    """A vector as tokens: a matrix, then a norm of each token (Kandinsky 2.2)."""

    count: int
    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "b v"]) -> Float[Array, "b m f"]:
        """`count` tokens of `features`."""
        h = Dense(self.count * self.features, (None, "embed"), name="fc")(x)
        return AffineNorm(1e-5, name="norm")(h.reshape(len(x), self.count, self.features))


class Embedding(nn.Module):
    """The vector e, float32."""

    features: int
    """Features of the sinusoid of the time."""
    width: int
    """Features of e."""
    sine_first: bool = False
    """Order of the sinusoids."""
    shift: float = 0.0
    """Frequencies are 10000^(-i / (features / 2 - shift))."""
    activation: Activation = "silu"
    """Activation of the time's MLP."""
    scalar_features: int = 256
    """Features of the sinusoid of each scalar."""
    added: Added = "mlp"
    """How vectors and scalars are brought to the width."""
    joined: bool = False
    """Whether they are put beside the rest, which doubles the width, instead of being added."""
    guided: str = ""
    """Name of the vector that joins the sinusoid of the time; empty: there is none."""

    @nn.compact
    def __call__(self, t: Float[Array, "b"], conditions: tuple[ConditionInput, ...] = ()) -> Float[Array, "b e"]:
        """e of the time and of labels, vectors and scalars; other conditions are passed over."""
        h = waves(t, self.features, self.sine_first, self.shift)
        for one in conditions:
            if self.guided and one.form.name == self.guided:
                h = h + weighted(one, Dense(self.features, (None, "embed"), bias=False, name="guided")(one.value))
        h = Dense(self.width, (None, "embed"), name="fc1")(h)
        emb = Dense(self.width, ("embed", "mlp"), name="fc2")(ACTIVATIONS[self.activation](h))
        labels = [one for one in conditions if one.form.kind == "label"]
        for i, one in enumerate(labels):
            emb = emb + weighted(one, LabelEmbedding(one.form.features, self.width, name=f"label_{i}")(one.value))
        told = [one for one in conditions if one.form.kind == "vector" and one.form.name != self.guided]
        vectors = [weighted(one, one.value) for one in told]
        for one in conditions:
            if one.form.kind == "scalars":
                found = waves(one.value, self.scalar_features, self.sine_first, self.shift)
                vectors.append(weighted(one, found.reshape(len(found), -1)))
        if not vectors:
            return emb
        extra = self._added(jnp.concatenate([v.astype(jnp.float32) for v in vectors], axis=-1))
        return jnp.concatenate([emb, extra], axis=-1) if self.joined else emb + extra

    def _added(self, x: Float[Array, "b v"]) -> Float[Array, "b e"]:
        match self.added:
            case "mlp":
                h = jax.nn.silu(Dense(self.width, (None, "embed"), name="added_fc1")(x))
                return Dense(self.width, ("embed", "mlp"), name="added_fc2")(h)
            case "linear":
                return Dense(self.width, (None, "embed"), name="added_fc")(x)
            case "normed":
                h = Dense(self.width, (None, "embed"), name="added_fc")(x)
                return AffineNorm(1e-5, name="added_norm")(h[:, None])[:, 0]
            case _:
                if x.shape[-1] != self.width:
                    raise ValueError(f"A vector that is added as it is has {self.width} features, found {x.shape[-1]}.")
                return x

r"""Blocks of transformers over an image and a text with weights of their own, and what both are told.

    rows    shift, scale, gate of both branches = Linear(SiLU(c)), for each stream its own
    joint   image += gate1 W Attention(image, text),  text += gate1' W' Attention(image, text)      (`layers.joint`)
            each stream += gate2 MLP(LN (1 + scale2) + shift2)
    dual    image += gate3 W'' Attention(LN(image) (1 + scale3) + shift3) besides, over the image alone (SD3.5 medium)
    last    the text is only read: its rows are scale and shift of one norm, and it ends
    single  one stream of all tokens:  x += gate W [Attention(h), gelu(W1 h)],   h = LN(x) (1 + scale) + shift   (Flux)

c is the sum of embeddings: of the time, of labels, of vectors and of scalars. The text is optional.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unified_jax.kernels import choice
from unified_jax.kernels.elementwise import activate
from unified_jax.kernels.inputs import Modulation, Rotary, Visible
from unified_jax.layers.conditions import VectorEmbedding, weighted
from unified_jax.layers.embeddings import LabelEmbedding, TimeEmbedding, sinusoid
from unified_jax.layers.form import ConditionInput
from unified_jax.layers.joint import JointWeights, Part, joint_attention
from unified_jax.layers.mlp import Dense, Mlp
from unified_jax.layers.modulation import ModulationRows, modulated_norm
from unified_jax.sharding import constrain

Streams = tuple[Array, Array | None]
"""(image `[b, n, d]`, text `[b, m, d]`)."""


class Told(NamedTuple):
    """What every block is told."""

    c: Float[Array, "b 1 d"]
    visible: Visible | None = None
    """Keys that each query reads, counted through the image and then the text."""
    rotary: tuple[Rotary, Rotary] | None = None
    """Angles of the image's and the text's positions."""


class JointBlock(nn.Module):
    """One block of two streams, as a scan takes it."""

    heads: int
    mlp_ratio: float = 4.0
    qk_norm: bool = False
    dual: bool = False
    last: bool = False
    dtype: jnp.dtype = jnp.dtype("float32")
    attention: choice.Attention = "auto"

    @nn.compact
    def __call__(self, streams: Streams, keep: Array | None, told: Told) -> tuple[Streams, Float[Array, "b n d"]]:
        """((image, text) after the block, the image); where `keep` is False the block is skipped."""
        x, text = streams
        d, c = x.shape[-1], told.c
        rows = ModulationRows(9 if self.dual else 6, d, name="modulation_image")(c)
        first = Modulation(*rows[:3])
        weights, back = self._weights("attention_image")(d)
        rotary = told.rotary or (None, None)
        parts, written = [Part(x, first, weights, rotary[0])], None
        if text is not None:
            if self.last:
                scale, shift = ModulationRows(2, d, name="modulation_text")(c)
                own = Modulation(shift, scale)
            else:
                written = ModulationRows(6, d, name="modulation_text")(c)
                own = Modulation(*written[:3])
            text_weights, text_back = self._weights("attention_text", not self.last)(d)
            parts.append(Part(text, own, text_weights, rotary[1]))
        a = joint_attention(parts, told.visible, attention=self.attention)
        assert back is not None
        y = choice.gated_out(x, a[0], back, first.gate, attention=self.attention)
        if self.dual:
            y = self._image_alone(y, x, Modulation(*rows[6:]))
        y = self._mlp("mlp_image", y, rows[3:6])
        if text is not None and written is not None:
            assert text_back is not None
            new = choice.gated_out(text, a[1], text_back, written[2], attention=self.attention)
            new = self._mlp("mlp_text", new, written[3:])
        else:
            new = text
        if keep is not None:
            y = jnp.where(keep, y, x)
            new = None if new is None or text is None else jnp.where(keep, new, text)
        return (y, new), y

    def _weights(self, name: str, out: bool = True) -> JointWeights:
        return JointWeights(self.heads, self.qk_norm, out, self.dtype, name=name)

    def _image_alone(self, y: Array, x: Array, rows: Modulation) -> Array:
        weights, back = self._weights("attention2_image")(x.shape[-1])
        assert back is not None
        a = joint_attention([Part(x, rows, weights)], None, attention=self.attention)[0]
        return choice.gated_out(y, a, back, rows.gate, attention=self.attention)

    def _mlp(self, name: str, x: Array, rows: tuple[Array, ...]) -> Array:
        shift, scale, gate = rows
        h = Mlp(int(x.shape[-1] * self.mlp_ratio), self.dtype, name=name)(modulated_norm(x, shift, scale))
        return constrain(x + (gate * h).astype(x.dtype), "batch", "length", "embed")


class SingleBlock(nn.Module):
    """One block of one stream, as a scan takes it; its attention and its MLP are computed side by side."""

    heads: int
    mlp_ratio: float = 4.0
    qk_norm: bool = True
    dtype: jnp.dtype = jnp.dtype("float32")
    attention: choice.Attention = "auto"

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n d"], c: Float[Array, "b 1 d"], visible: Visible | None, rotary: Rotary | None
    ) -> tuple[Float[Array, "b n d"], Float[Array, "b n d"]]:
        """(x after the block, the same)."""
        d = x.shape[-1]
        shift, scale, gate = ModulationRows(3, d, name="modulation")(c)
        weights, _ = JointWeights(self.heads, self.qk_norm, False, self.dtype, name="attention")(d)
        (a,) = joint_attention([Part(x, Modulation(shift, scale), weights, rotary)], visible, attention=self.attention)
        h = modulated_norm(x, shift, scale)
        h = Dense(int(d * self.mlp_ratio), ("embed", "mlp"), dtype=self.dtype, name="fc1")(h)
        h = constrain(activate(jax.nn.gelu, h), "batch", "length", "mlp")
        # Replicated before they are joined: the parts do not align with the shards of the tensor axis.
        both = [constrain(part, "batch", "length", "embed") for part in (a.reshape(x.shape).astype(self.dtype), h)]
        h = Dense(d, (None, "embed"), dtype=self.dtype, name="out")(jnp.concatenate(both, axis=-1))
        x = constrain(x + (gate * h).astype(x.dtype), "batch", "length", "embed")
        return x, x


class Summary(nn.Module):
    """c: the sum of the embeddings of the time and of labels, vectors and scalars, float32."""

    width: int

    @nn.compact
    def __call__(self, t: Float[Array, "b"], conditions: tuple[ConditionInput, ...]) -> Float[Array, "b 1 d"]:
        """Scalars are embedded as times are, 1000 at 1; tokens are passed over."""
        c, labels = TimeEmbedding(self.width, name="time")(t), 0
        for one in conditions:
            name = one.form.name
            match one.form.kind:
                case "label":
                    row = LabelEmbedding(one.form.features, self.width, name=f"label_{labels}")(one.value)
                    c = c + weighted(one, row)
                    labels += 1
                case "vector":
                    c = c + weighted(one, VectorEmbedding(self.width, name=f"vector_{name}")(one.value))
                case "scalars":
                    h = sinusoid(1000.0 * one.value).reshape(len(one.value), -1)
                    c = c + weighted(one, VectorEmbedding(self.width, name=f"scalars_{name}")(h))
        return c[:, None]


def joined_tokens(
    texts: list[ConditionInput], width: int, image: int, dtype: jnp.dtype
) -> tuple[Float[Array, "b m d"] | None, Visible | None]:
    """(the tokens of all texts in order as one stream, the keys that every query reads); for a compact method.

    Texts of one number of features share one projection. Where a text has a length, its padding comes last.
    """
    if not texts:
        return None, None
    if len({one.value.shape[-1] for one in texts}) > 1 or any(one.value.shape[1] == 0 for one in texts):
        raise ValueError(
            "The texts of a network that joins them need tokens, of one number of features; found "
            f"{', '.join(f'{one.form.name} {one.value.shape[1:]}' for one in texts)}."
        )
    tokens = jnp.concatenate([one.value.astype(jnp.float32) for one in texts], axis=1)
    text = Dense(width, (None, "embed"), dtype=dtype, name="text")(tokens)
    if all(one.length is None for one in texts):
        return constrain(text, "batch", "length", "embed"), None
    b, m = tokens.shape[:2]
    there = []
    for one in texts:
        size = one.value.shape[1]
        length = jnp.full(b, size) if one.length is None else one.length
        there.append(jnp.arange(size) < length[:, None])
    shown = jnp.concatenate(there, axis=1)
    order = jnp.argsort(~shown, axis=1, stable=True)
    text = jnp.take_along_axis(text, order[..., None], axis=1)
    stop = jnp.broadcast_to(image + jnp.sum(shown, axis=1)[:, None], (b, image + m))
    return constrain(text, "batch", "length", "embed"), jnp.stack([jnp.zeros_like(stop), stop], axis=-1)

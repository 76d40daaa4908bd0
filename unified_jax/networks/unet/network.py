r"""A U-Net that denoises maps (Ronneberger et al. 2015; Ho et al. 2020; Dhariwal and Nichol 2021; Rombach et al. 2022).

    h = conv(x);  kept = [h]
    down    for each level: residual blocks, each followed by the level's attention; then half the size; all are kept
    middle  residual, attention, residual
    up      for each level, smallest first: one block more, each reading [h, kept.pop()]; then twice the size
    out     conv(SiLU(norm(h)))                                         zero at the start, as the end of every branch

Levels name what differs between families: `conditional` has those of Stable Diffusion, `plain` of DDPM, `adm` of ADM. A
map is whole here: patches of its form are not used. Sizes need not be multiples of two: on the way up a map takes the
size that it had on the way down. Maps among the conditions join the channels of x, resized to it linearly.
"""

from dataclasses import replace
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unified_jax.kernels.choice import Attention, check_attention
from unified_jax.layers.conditions import filled, weighted
from unified_jax.layers.conv import GroupNorm
from unified_jax.layers.form import ConditionInput, Kind, NoisyInput, only_stream
from unified_jax.layers.remat import Remat
from unified_jax.networks.unet.blocks import Activation, Style, conv, settle
from unified_jax.networks.unet.embedding import Added, Embedding, VectorTokens
from unified_jax.networks.unet.levels import Level, Residuals, Shared, ascend, descend, middle

SMALL = (Level(64), Level(128, reads="tokens", heads=4), Level(256, reads="tokens", heads=8))
"""A small network for text, or for labels."""


class UNet(nn.Module):
    """A U-Net over maps of two axes."""

    down: tuple[Level, ...] = SMALL
    """Levels on the way down, largest map first."""
    middle: Level | None = Level(256, reads="tokens", heads=8)
    """Blocks at the smallest map; None: there are none."""
    up: tuple[Level, ...] = ()
    """Levels on the way up, smallest map first; (): `down` mirrored, with one residual block more each."""
    groups: int = 32
    """Groups of channels in each norm; fewer where they do not divide the channels."""
    eps: float = 1e-5
    """Added to the variance in the norms of residual blocks."""
    activation: Activation = "silu"
    """Activation after each norm."""
    scale_shift: bool = False
    """Whether the embedding scales and shifts the second norm's output, instead of being added before it."""
    time_features: int = 0
    """Features of the sinusoid of the time; 0: the channels of the first level."""
    time_width: int = 0
    """Features of the embedding; 0: four times `time_features`."""
    sine_first: bool = False
    """Order of sinusoids: [sin, cos] instead of [cos, sin]."""
    frequency_shift: float = 0.0
    """Frequencies are 10000^(-i / (time_features / 2 - frequency_shift))."""
    scalar_features: int = 256
    """Features of the sinusoid of each scalar of a condition."""
    added: Added = "mlp"
    """How vectors and scalars enter the embedding: 'mlp', 'linear', 'normed' (linear, then a norm), or 'plain'."""
    joined: bool = False
    """Whether they stand beside the embedding of the time instead of being added to it."""
    vector_tokens: int = 0
    """Tokens that are read instead of a text: they are made of the first vector; 0: none."""
    vector_features: int = 0
    """Features of each of them."""
    guided: str = ""
    """Name of a vector condition that joins the sinusoid of the time."""
    input_size: int = 3
    """Size of the first convolution."""
    output_size: int = 3
    """Size of the last convolution."""
    padded: Literal["around", "after"] = "around"
    """Padding of convolutions that halve the map: on every side, or after the last row and column."""
    centred: bool = False
    """Whether x is first mapped from [0, 1] to [-1, 1]."""
    middle_scale: float = 1.0
    """Divides the sums of the middle's blocks."""
    middle_groups: int | None = None
    """Groups of the norm of the middle's attention; None: `groups`; 0: it has no norm."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute dtype; parameters, norms, softmax and the embedding stay float32."""
    attention: Attention = "auto"
    """Implementation of attention."""
    remat: Remat = "dots"
    """Rematerialisation: what the backward pass keeps of a block (`layers.remat`)."""

    def __post_init__(self) -> None:
        if not self.down:
            raise ValueError("UNet.down needs at least one level.")
        if self.up and len(self.up) != len(self.down):
            raise ValueError(f"UNet.up has {len(self.up)} levels and down {len(self.down)}; they must be as many.")
        blocks = sum(level.layers for level in self.ways[1])
        kept = sum(level.layers + 1 for level in self.down)
        if blocks != kept:
            raise ValueError(
                f"UNet: the way up has {blocks} residual blocks to read the {kept} maps kept on the way down."
            )
        for size in (self.input_size, self.output_size):
            if size < 1 or size % 2 == 0:
                raise ValueError(f"UNet.input_size and output_size must be odd, found {size}.")
        check_attention(self.attention)
        super().__post_init__()

    takes: ClassVar[tuple[Kind, ...]] = ("label", "vector", "scalars", "tokens", "map")
    streams: ClassVar[Literal["one"]] = "one"
    weighs: ClassVar[bool] = True

    @property
    def ways(self) -> tuple[tuple[Level, ...], tuple[Level, ...]]:
        """(levels down, levels up)."""
        if self.up:
            return self.down, self.up
        changes = [level.change for level in self.down[:-1]] + ["conv"]
        pairs = zip(self.down, [changes[-1], *changes[:-1]], strict=True)
        return self.down, tuple(level.mirrored(change) for level, change in pairs)[::-1]  # pyright: ignore[reportArgumentType]

    @nn.compact
    def __call__(
        self,
        noisy: tuple[NoisyInput, ...],
        conditions: tuple[ConditionInput, ...] = (),
        *,
        layout: Any = None,
        capture: tuple[str, ...] = (),
        residuals: Residuals | None = None,
    ) -> tuple[dict[str, Float[Array, "b ..."]], dict[str, Array]]:
        """See `Backbone`. captured["down/0"], ["middle"] and ["up/0"] are maps `[b, h, w, c]`.

        `residuals`, of a ControlNet, are added to what the way up reads.
        """
        one = only_stream("UNet", noisy, layout)
        if one.x.ndim != 4:
            raise ValueError(f"UNet denoises maps [b, h, w, c]; {one.form.name!r} has the shape {one.x.shape}.")
        given = tuple(filled(self, shown) for shown in conditions)
        shared = self._shared(one, given)
        out, found = self._maps(self._input(one, given), shared, one.form.out_channels, residuals)
        unknown = [name for name in capture if name not in found]
        if unknown:
            raise ValueError(f"capture {unknown[0]!r} is unknown; expected one of {', '.join(found)}.")
        return {one.form.name: out.astype(jnp.float32)}, {name: found[name] for name in capture}

    def _shared(self, one: NoisyInput, given: tuple[ConditionInput, ...]) -> Shared:
        """What all levels are told; for a compact method."""
        texts = [shown for shown in given if shown.form.kind == "tokens"]
        if len(texts) > 1 or any(shown.value.shape[1] == 0 for shown in texts):
            raise ValueError(f"UNet reads one condition of tokens, at least one token long; found {len(texts)}.")
        vectors = [shown for shown in given if shown.form.kind == "vector"]
        if self.vector_tokens and vectors and not texts:
            made = VectorTokens(self.vector_tokens, self.vector_features, name="tokens")(vectors[0].value)
            texts = [ConditionInput(vectors[0].form, weighted(vectors[0], made))]
        style = Style(self.groups, self.eps, self.activation, self.scale_shift, self.dtype, self.attention)
        emb = self._embedding()(one.t, given)
        return Shared(style, self.remat, emb, texts[0] if texts else None, self.padded)

    def _embedding(self) -> Embedding:
        features = self.time_features or self.down[0].channels
        return Embedding(
            features, self.time_width or 4 * features, self.sine_first, self.frequency_shift, self.activation,
            self.scalar_features, self.added, self.joined, self.guided, name="embedding",
        )  # fmt: skip

    def _input(self, one: NoisyInput, given: tuple[ConditionInput, ...]) -> Float[Array, "b h w c"]:
        x = 2.0 * one.x - 1.0 if self.centred else one.x
        maps = [shown.value.astype(x.dtype) for shown in given if shown.form.kind == "map"]
        sizes = [(*x.shape[:-1], value.shape[-1]) for value in maps]
        maps = [
            jax.image.resize(value, size, "linear", antialias=False) for value, size in zip(maps, sizes, strict=True)
        ]
        return jnp.concatenate([x, *maps], axis=-1)

    def _maps(
        self, x: Array, shared: Shared, outputs: int, residuals: Residuals | None
    ) -> tuple[Array, dict[str, Array]]:
        """(the output, the map after every level by the name for `capture`)."""
        style, (down, up) = shared.style, self.ways
        x = settle(conv(down[0].channels, "conv_in", style, size=self.input_size)(x))
        x, kept, ends = descend(x, down, shared)
        found = {f"down/{i}": end for i, end in enumerate(ends)}
        if self.middle is not None:
            level = replace(self.middle, channels=down[-1].channels)
            x = found["middle"] = middle(x, level, shared, self.middle_scale, self.middle_groups)
        if residuals is not None:
            kept = [one + more.astype(one.dtype) for one, more in zip(kept, residuals.kept, strict=True)]
            x = x + residuals.middle.astype(x.dtype)
        x, ends = ascend(x, kept, up, shared)
        found |= {f"up/{i}": end for i, end in enumerate(ends)}
        h = style.act(GroupNorm(style.groups, style.eps, "embed", name="norm_out")(x))
        last = conv(outputs, "conv_out", style, ("embed", None), self.output_size, zero=True)
        return last(h.astype(x.dtype)), found

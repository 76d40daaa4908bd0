r"""U-ViT (Bao et al. 2022, arXiv 2209.12152), and the U-ViT of UniDiffuser (Bao et al. 2023, arXiv 2303.06555).

Everything is a token: times, labels, conditions and the patches of every stream, each with a learned position.

    in      depth / 2 blocks, whose outputs are kept
    middle  one block
    out     depth / 2 blocks; each first joins what was kept last:  x = W [x, kept] + b

    pre     x = x + Attention(LN(x));  x = x + MLP(LN(x))                     U-ViT
    post    x = LN(x + Attention(x));  x = LN(x + MLP(x))                     UniDiffuser: also LN(W [x, kept] + b);
                                                                              no sum grows from block to block

A time is one token, its sinusoid of the full width, with an MLP of its own or without. Streams at the same time
(`clocks`) share it: UniDiffuser's latent and CLIP token. LayerNorms are affine, eps 1e-5; GELU is exact.
"""

import math
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unified_jax.kernels.choice import Attention, check_attention
from unified_jax.kernels.inputs import Visible
from unified_jax.layers.conditions import filled, weighted
from unified_jax.layers.conv import Conv
from unified_jax.layers.embeddings import LabelEmbedding, sinusoid
from unified_jax.layers.form import ConditionInput, Form, Kind, NoisyInput
from unified_jax.layers.init import declare, normal
from unified_jax.layers.mlp import Dense
from unified_jax.layers.modulation import AffineNorm
from unified_jax.layers.remat import Remat, rematerialised
from unified_jax.layers.resampling import resample
from unified_jax.modalities.grid import grid_of
from unified_jax.networks.dit import captured_blocks
from unified_jax.networks.encoder_blocks import Activation
from unified_jax.networks.uvit_block import EPS, Norms, UVitBlock
from unified_jax.sharding import constrain

SIZES: dict[str, tuple[int, int, int]] = {
    "S": (12, 512, 8),
    "S-deep": (16, 512, 8),
    "M": (16, 768, 12),
    "L": (20, 1024, 16),
    "H": (28, 1152, 16),
    "UniDiffuser": (30, 1536, 24),
}
"""(depth, width, heads) of the published models; the middle block is not counted."""


class UVit(nn.Module):
    """A transformer over all tokens, with long skips."""

    depth: int = 12
    """Number of blocks without the one in the middle; even."""
    width: int = 512
    """Features of the residual stream."""
    heads: int = 8
    """Attention heads; must divide width."""
    mlp_ratio: float = 4.0
    """Hidden features of the MLP, as a multiple of width."""
    norms: Norms = "pre"
    """Where norms are: 'pre', before each branch (U-ViT), or 'post', on the residual stream (UniDiffuser)."""
    qkv_bias: bool = False
    """Whether queries, keys and values have biases."""
    time_mlp: bool = False
    """Whether each time token has an MLP of its own."""
    activation: Activation = "gelu"
    """Activation of the MLP."""
    clocks: tuple[str, ...] = ()
    """Streams whose times are tokens, in this order; the others share one of them. Empty: every stream's."""
    grid: tuple[int, ...] = ()
    """Rows and columns of the table of positions of images, which other sizes resample; empty: their own."""
    conv: bool = False
    """Whether a convolution of size 3 follows the output of streams with two axes (U-ViT over pixels)."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute dtype; parameters, the residual stream, norms and softmax stay float32."""
    attention: Attention = "auto"
    """Implementation of attention."""
    remat: Remat = "dots"
    """Rematerialisation: what the backward pass keeps of a block (`layers.remat`)."""

    def __post_init__(self) -> None:
        if self.depth < 2 or self.depth % 2:
            raise ValueError(f"UVit.depth must be even and at least 2, found {self.depth}.")
        if self.width % self.heads or self.width % 2:
            raise ValueError(f"UVit.width {self.width} must be even and divisible by its {self.heads} heads.")
        if len(self.grid) not in (0, 2):
            raise ValueError(f"UVit.grid is empty or (rows, columns), found {self.grid}.")
        check_attention(self.attention)
        super().__post_init__()

    takes: ClassVar[tuple[Kind, ...]] = ("label", "vector", "tokens")
    streams: ClassVar[Literal["many"]] = "many"
    weighs: ClassVar[bool] = True

    @nn.compact
    def __call__(
        self,
        noisy: tuple[NoisyInput, ...],
        conditions: tuple[ConditionInput, ...] = (),
        *,
        layout: Any = None,
        capture: tuple[str, ...] = (),
    ) -> tuple[dict[str, Float[Array, "b ..."]], dict[str, Array]]:
        """See `Backbone`. Blocks are counted through: in, middle, out; captured tokens are those of the streams."""
        named = captured_blocks(capture, self.depth + 1)
        if layout is not None:
            raise ValueError("UVit reads arrays of one size: layout must be None.")
        dtype = jnp.dtype(self.dtype)
        parts = [*self._times(noisy), *self._vectors(conditions)]
        first = len(parts)
        for one in noisy:
            tokens = constrain(one.form.patches(one.x), "batch", "length", "patch")
            embed = Dense(self.width, ("patch", "embed"), dtype=dtype, name=f"{one.form.name}_in")
            parts.append(embed(tokens).astype(jnp.float32) + self._positions(one.form))
        texts, visible = self._texts(conditions, sum(part.shape[1] for part in parts))
        sizes = [part.shape[1] for part in parts]
        x = constrain(jnp.concatenate([*parts, *texts], axis=1), "batch", "length", "embed")
        x, found = self._blocks(x, visible, "attention" in capture, bool(named))
        x = AffineNorm(EPS, name="norm")(x)
        starts = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
        out = {}
        for one, start, size in zip(noisy, starts[first:], sizes[first:], strict=False):
            out[one.form.name] = self._output(one.form, x[:, start : start + size])
        captured = {name: found["hidden"][i, :, starts[first] : starts[-1]] for name, i in named.items()}
        return out, captured | ({"attention": found["attention"]} if "attention" in capture else {})

    def _times(self, noisy: tuple[NoisyInput, ...]) -> list[Float[Array, "b 1 d"]]:
        """A token of each clock. Raises ValueError for a clock that is no stream's name."""
        by_name = {one.form.name: one.t for one in noisy}
        clocks = self.clocks or tuple(by_name)
        if unknown := [name for name in clocks if name not in by_name]:
            raise ValueError(f"UVit.clocks names {', '.join(unknown)}; the streams are {', '.join(by_name)}.")
        places = declare(self, "time_positions", normal(0.02), (len(clocks), self.width), (None, "embed"))
        found = []
        for name, place in zip(clocks, places, strict=True):
            t = sinusoid(by_name[name], self.width)
            if self.time_mlp:
                h = Dense(4 * self.width, ("embed", "mlp"), name=f"{name}_time1")(t)
                t = Dense(self.width, ("mlp", "embed"), name=f"{name}_time2")(jax.nn.silu(h))
            found.append((t + place)[:, None])
        return found

    def _vectors(self, conditions: tuple[ConditionInput, ...]) -> list[Float[Array, "b 1 d"]]:
        """A token of each label and each vector."""
        found = []
        for shown in (filled(self, one) for one in conditions if one.form.kind == "vector"):
            token = Dense(self.width, (None, "embed"), name=f"vector_{shown.form.name}")(shown.value)
            found.append((weighted(shown, token), f"vector_{shown.form.name}_position"))
        for i, label in enumerate(one for one in conditions if one.form.kind == "label"):
            token = LabelEmbedding(label.form.features, self.width, name=f"label_{i}")(label.value)
            found.append((weighted(label, token), f"label_{i}_position"))
        return [(token + declare(self, n, normal(0.02), (self.width,), ("embed",)))[:, None] for token, n in found]

    def _texts(
        self, conditions: tuple[ConditionInput, ...], before: int
    ) -> tuple[list[Float[Array, "b m d"]], Visible | None]:
        """(the tokens of each token condition, what each token of the sequence sees).

        Raises ValueError for lengths of more than the last of them: what is visible would have holes.
        """
        texts = [filled(self, one) for one in conditions if one.form.kind == "tokens"]
        if any(one.length is not None for one in texts[:-1]):
            raise ValueError(
                "UVit masks the padding of its last token condition only; set padding to 'keep' or 'zero'."
            )
        found, total = [], before + sum(one.value.shape[1] for one in texts)
        for one in texts:
            tokens = Dense(self.width, (None, "embed"), dtype=jnp.dtype(self.dtype), name=f"tokens_{one.form.name}")(
                one.value
            )
            shape = (one.form.length, self.width)
            places = declare(self, f"tokens_{one.form.name}_positions", normal(0.02), shape, (None, "embed"))
            found.append(tokens.astype(jnp.float32) + places[: tokens.shape[1]])
        if not texts or texts[-1].length is None:
            return found, None
        stop = total - texts[-1].value.shape[1] + texts[-1].length
        stop = jnp.broadcast_to(stop[:, None], (len(stop), total))
        return found, jnp.stack([jnp.zeros_like(stop), stop], axis=-1)

    def position_grids(self, forms: tuple[Form, ...]) -> dict[str, tuple[int, int]]:
        """See `Positioned`: the table of every image, unless `grid` fixes it."""
        sizes = {f"{form.name}_positions": grid_of(form.shape[:-1], form.cut) for form in forms if not self.grid}
        return {name: (size[0], size[1]) for name, size in sizes.items() if len(size) == 2}

    def _positions(self, form: Form) -> Float[Array, "n d"]:
        sizes = grid_of(form.shape[:-1], form.cut)
        table = self.grid if self.grid and len(sizes) == 2 else sizes
        shape = (math.prod(table), self.width)
        places = declare(self, f"{form.name}_positions", normal(0.02), shape, (None, "embed"))
        if table == sizes:
            return places
        places = resample(places.reshape(*table, self.width), (sizes[0], sizes[1]), "linear")
        return places.reshape(-1, self.width)

    def _output(self, form: Form, x: Float[Array, "b n d"]) -> Float[Array, "b ..."]:
        y = Dense(form.out_features, ("embed", "patch"), normal(0.02), name=f"{form.name}_out")(x)
        y = form.unpatch(y.astype(jnp.float32))
        if self.conv and len(form.cut) == 2:
            y = Conv(form.out_channels, name=f"{form.name}_conv")(y)
        return y

    def _blocks(
        self, x: Float[Array, "b n d"], visible: Visible | None, attention: bool, hidden: bool
    ) -> tuple[Float[Array, "b n d"], dict[str, Array]]:
        """(x after all blocks, captured, block by block)."""
        block = rematerialised(UVitBlock, self.remat, static=(4, 5))
        hidden_features, dtype = int(self.width * self.mlp_ratio), jnp.dtype(self.dtype)

        def of(make: Callable[..., Any], joins: bool, name: str) -> Any:
            return make(
                self.heads, hidden_features, self.norms, self.qkv_bias, self.activation, dtype, self.attention, joins,
                name=name,
            )  # fmt: skip

        x, (kept, first) = of(self._scanned(block, nn.broadcast), False, "in_blocks")(
            x, None, visible, attention, hidden
        )
        x, (_, middle) = of(block, False, "middle")(x, None, visible, attention, hidden)
        out = of(self._scanned(block, 0), True, "out_blocks")
        x, (_, last) = out(x, jnp.flip(kept, 0), visible, attention, hidden)
        return x, {name: jnp.concatenate([first[name], middle[name][None], last[name]]) for name in first}

    def _scanned(self, block: Any, kept: Any) -> Callable[..., Any]:
        axes: Any = (kept, nn.broadcast, nn.broadcast, nn.broadcast)
        return nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=axes,
            length=self.depth // 2,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )

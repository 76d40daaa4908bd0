r"""GenTron (Chen et al. 2024, arXiv:2312.04557), its text-to-image half: a DiT that reads one or more texts.

    c       time(t) + P pooled                            pooled: the text's vector, by a linear map (`pooled`)
    block   x = x + gate1 * Attention(LN(x) (1 + scale1) + shift1)
            x = x + CrossAttention(LN(x), W_k text_k)     block i reads text i mod k: CLIP and T5 in turn
            x = x + gate2 * MLP(LN(x) (1 + scale2) + shift2)

The modulation is adaLN-Zero of c, the projection of the cross-attention is zero at the start: every block starts as the
identity. Without token conditions it is the paper's first variant, in which the text enters by adaLN alone.

The paper's code is not published. The parts above make 828 million parameters of XL/2 with CLIP-L and T5-XXL where the
paper counts 930, and 2,943 of G/2 where it counts 3,084: its text projections are larger than it describes.
"""

from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from unified_jax.kernels.choice import Attention, check_attention
from unified_jax.kernels.inputs import Visible
from unified_jax.layers.conditions import filled, key_range, weighted
from unified_jax.layers.embeddings import TimeEmbedding, sincos_positions
from unified_jax.layers.form import ConditionInput, Kind, NoisyInput, only_stream
from unified_jax.layers.init import zeros
from unified_jax.layers.mlp import Dense
from unified_jax.layers.modulation import ModulationRows, modulated_norm
from unified_jax.layers.remat import Remat, rematerialised
from unified_jax.networks.dit import captured_blocks
from unified_jax.networks.dit_block import Block
from unified_jax.sharding import constrain

SIZES: dict[str, tuple[int, int, int]] = {"XL": (28, 1152, 16), "G": (48, 1664, 26)}
"""(depth, width, heads); the paper does not say G's heads: 26 are 64 wide."""


Memory = tuple[Float[Array, "b _ d"], Visible | None]
"""Tokens of a text, and which of them each query sees."""


class Turn(nn.Module):
    """One block for each text, in turn."""

    names: tuple[str, ...]
    heads: int
    mlp_ratio: float
    dtype: jnp.dtype
    attention: Attention

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n d"], c: Float[Array, "b 1 d"], memories: tuple[Memory, ...], hidden: bool
    ) -> tuple[Float[Array, "b n d"], tuple[dict[str, Array], ...]]:
        """(x, what each block captured)."""
        found = []
        for i, name in enumerate(self.names or ("",)):
            reads, memory = ((name,), memories[i : i + 1]) if name else ((), ())
            block = Block("adaln_zero", self.heads, self.mlp_ratio, False, self.dtype, self.attention, reads,
                          name=f"block_{i}")  # fmt: skip
            x, captured = block(x, c, None, False, hidden, memory)
            found.append(captured)
        return x, tuple(found)


class GenTron(nn.Module):
    """A diffusion transformer for text to image, by default XL/2."""

    depth: int = 28
    """Number of blocks; a multiple of the number of texts."""
    width: int = 1152
    """Features of the residual stream."""
    heads: int = 16
    """Attention heads; must divide width."""
    mlp_ratio: float = 4.0
    """Hidden features of the MLP, as a multiple of width."""
    pooled: bool = True
    """Whether vectors, the pooled text, are added to the time."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute dtype; parameters, norms, softmax and modulation stay float32."""
    attention: Attention = "auto"
    """Implementation of attention."""
    remat: Remat = "dots"
    """Rematerialisation: what the backward pass keeps of a block (`layers.remat`)."""

    def __post_init__(self) -> None:
        if self.width % self.heads or self.width % 4:
            raise ValueError(f"GenTron.width {self.width} must be divisible by its {self.heads} heads, and by 4.")
        if self.depth < 1:
            raise ValueError(f"GenTron.depth must be at least 1, found {self.depth}.")
        check_attention(self.attention)
        super().__post_init__()

    @property
    def takes(self) -> tuple[Kind, ...]:
        """Tokens, and the pooled text if it is added to the time."""
        return ("tokens", "vector") if self.pooled else ("tokens",)

    streams: ClassVar[Literal["one"]] = "one"
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
        """See `Backbone`. captured["block/3"] is `[b, n, d]`."""
        kept = captured_blocks(capture, self.depth)
        if "attention" in capture:
            raise ValueError("GenTron captures blocks, not their attention.")
        one = only_stream("GenTron", noisy, layout)
        form, dtype = one.form, jnp.dtype(self.dtype)
        given = tuple(filled(self, shown) for shown in conditions)
        c = TimeEmbedding(self.width, name="time")(one.t)
        for shown in (o for o in given if o.form.kind == "vector"):
            pooled = Dense(self.width, (None, "embed"), name=f"pooled_{shown.form.name}")(shown.value)
            c = c + weighted(shown, pooled)
        tokens = constrain(form.patches(one.x), "batch", "length", "patch")
        x = Dense(self.width, ("patch", "embed"), dtype=dtype, name="patch")(tokens)
        x = x + sincos_positions(jnp.asarray(form.positions()), self.width).astype(dtype)
        x = constrain(x, "batch", "length", "embed")
        x, found = self._blocks(x, c[:, None], [o for o in given if o.form.kind == "tokens"], bool(kept))
        shift, scale = ModulationRows(2, self.width, name="final_modulation")(c[:, None])
        out = Dense(form.out_features, ("embed", "patch"), zeros, name="final")(modulated_norm(x, shift, scale))
        captured = {name: found[i % len(found)]["hidden"][i // len(found)] for name, i in kept.items()}
        return {form.name: form.unpatch(out.astype(jnp.float32))}, captured

    def _blocks(
        self, x: Array, c: Array, texts: list[ConditionInput], hidden: bool
    ) -> tuple[Array, tuple[dict[str, Array], ...]]:
        """Turns of as many blocks as there are texts. Raises ValueError if they do not divide the depth."""
        each = max(1, len(texts))
        if self.depth % each:
            raise ValueError(f"GenTron's {each} texts are read in turn, so they divide its depth; found {self.depth}.")
        memories = []
        for shown in texts:
            project = Dense(self.width, (None, "embed"), dtype=jnp.dtype(self.dtype), name=f"text_{shown.form.name}")
            memories.append((project(shown.value), key_range(shown, x.shape[1])))
        axes: Any = (nn.broadcast,) * 3
        stack = nn.scan(
            rematerialised(Turn, self.remat, static=(4,)),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=axes,
            length=self.depth // each,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        names = tuple(shown.form.name for shown in texts)
        blocks = stack(names, self.heads, self.mlp_ratio, jnp.dtype(self.dtype), self.attention, name="turns")
        return blocks(x, c, tuple(memories), hidden)


def gentron_preset(size: Literal["XL", "G"]) -> GenTron:
    """A size of the paper."""
    depth, width, heads = SIZES[size]
    return GenTron(depth=depth, width=width, heads=heads)

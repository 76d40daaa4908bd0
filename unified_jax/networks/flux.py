r"""Flux (Black Forest Labs 2024): blocks of two streams, then blocks of one; positions by rotation.

    c      = time(t) + guidance(g) + MLP(pooled text)
    double blocks of an image and a text (`joint_blocks`), then single blocks of all their tokens
    out    = Linear(LN(image) (1 + scale) + shift),    scale, shift = Linear(SiLU(c))

Each head is divided among three axes: one that is 0 here, the row, and the column; tokens of the text stand at 0 of
all. A distilled model's guidance scale is a condition of scalars.
"""

from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from unified_jax.kernels.choice import Attention, check_attention
from unified_jax.kernels.inputs import Rotary
from unified_jax.layers.conditions import filled
from unified_jax.layers.embeddings import axial_rotations
from unified_jax.layers.form import ConditionInput, Kind, NoisyInput, only_stream
from unified_jax.layers.init import zeros
from unified_jax.layers.mlp import Dense
from unified_jax.layers.modulation import ModulationRows, modulated_norm
from unified_jax.layers.remat import Remat, rematerialised
from unified_jax.networks.dit import captured_blocks
from unified_jax.networks.joint_blocks import JointBlock, SingleBlock, Summary, Told, joined_tokens
from unified_jax.sharding import constrain


class Flux(nn.Module):
    """A transformer over an image and a text, in two streams and then in one."""

    depth: int = 19
    """Number of double blocks."""
    single_depth: int = 38
    """Number of single blocks."""
    width: int = 3072
    """Features of both streams."""
    heads: int = 24
    """Attention heads; must divide width."""
    mlp_ratio: float = 4.0
    """Hidden features of the MLPs, as a multiple of width."""
    axes: tuple[int, int, int] = (16, 56, 56)
    """Features of a head for each axis of positions."""
    theta: float = 10000.0
    """Base of the rotations' frequencies."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute dtype; parameters, norms, softmax and modulation stay float32."""
    attention: Attention = "auto"
    """Implementation of attention."""
    remat: Remat = "dots"
    """Rematerialisation: what the backward pass keeps of a block (`layers.remat`)."""

    def __post_init__(self) -> None:
        if min(self.depth, self.single_depth, self.width, self.heads) < 1:
            raise ValueError(f"Flux: depth, single_depth, width and heads must be at least 1, found {self}.")
        if self.width % self.heads or sum(self.axes) != self.width // self.heads or any(n % 2 for n in self.axes):
            raise ValueError(
                f"Flux.axes {self.axes} must be even and sum to the features of a head, {self.width / self.heads:g}."
            )
        check_attention(self.attention)
        super().__post_init__()

    takes: ClassVar[tuple[Kind, ...]] = ("label", "vector", "scalars", "tokens")
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
        """See `Backbone`. captured["block/3"] holds the image's tokens `[b, n, d]`; single blocks count on."""
        if "attention" in capture:
            raise ValueError("Flux captures tokens after blocks, not attention.")
        kept, dtype = captured_blocks(capture, self.depth + self.single_depth), jnp.dtype(self.dtype)
        one = only_stream("Flux", noisy, layout)
        form = one.form
        if len(form.shape) != 3:
            raise ValueError(f"Flux denoises images [h, w, c]; {form.name!r} has the shape {form.shape}.")
        given = tuple(filled(self, shown) for shown in conditions)
        x = constrain(form.patches(one.x), "batch", "length", "patch")
        x = constrain(Dense(self.width, ("patch", "embed"), dtype=dtype, name="patch")(x), "batch", "length", "embed")
        n = x.shape[1]
        c = Summary(self.width, name="summary")(one.t, given)
        texts = [shown for shown in given if shown.form.kind == "tokens"]
        text, visible = joined_tokens(texts, self.width, n, dtype)
        places = np.concatenate([np.zeros((n, 1), int), form.positions()], axis=1)
        m = 0 if text is None else text.shape[1]
        at = [axial_rotations(p, self.axes, self.theta, len(x)) for p in (places, np.zeros((m, 3), int))]
        (x, text), doubled = self._stack(JointBlock, self.depth, "blocks", (nn.broadcast,) * 2)(
            (x, text), None, Told(c, visible, (at[0], at[1]))
        )
        both = Rotary(*(jnp.concatenate(parts, axis=1) for parts in zip(*at, strict=True)))
        x = x if text is None else jnp.concatenate([x, text], axis=1)
        x, single = self._stack(SingleBlock, self.single_depth, "single_blocks", (nn.broadcast,) * 3)(
            x, c, visible, both
        )
        after = [*doubled, *(h[:, :n] for h in single)] if kept else []
        scale, shift = ModulationRows(2, self.width, name="final_modulation")(c)
        h = modulated_norm(x[:, :n], shift, scale)
        out = Dense(form.out_features, ("embed", "patch"), zeros, name="final")(h)
        return {form.name: form.unpatch(out.astype(jnp.float32))}, {name: after[i] for name, i in kept.items()}

    def _stack(self, block: Any, length: int, name: str, axes: Any) -> nn.Module:
        stack = nn.scan(
            rematerialised(block, self.remat),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=axes,
            length=length,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        return stack(
            heads=self.heads, mlp_ratio=self.mlp_ratio, qk_norm=True, dtype=jnp.dtype(self.dtype),
            attention=self.attention, name=name,
        )  # fmt: skip

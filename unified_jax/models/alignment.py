r"""Representation alignment (REPA, Yu et al. 2024, arXiv 2410.06940): tokens of a denoiser look like a teacher's.

    h_n  tokens after one block of the network, y_n the teacher's features of the clean picture at the same places
    L   += weight * mean_n( -cos(P h_n, y_n) ),     P = Linear(SiLU(Linear(SiLU(Linear(h)))))

The term is negative, and at best -weight. The teacher is a stage: it sees the picture that the latent was made of,
mirrored with it; rows whose conditions are dropped are aligned too. The projector P is trained with the network, under
`alignment` of its parameters, and takes no part in sampling. A teacher of another grid is resized to the network's.
A weight of 0 is the model without alignment: no projector, no stage.
"""

from dataclasses import dataclass
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from unified_jax.config import check_finite, lacking
from unified_jax.layers.mlp import Dense
from unified_jax.modalities.grid import grid_of
from unified_jax.models.base import Terms
from unified_jax.models.stages import Encoder, Stage, encode
from unified_jax.models.streams import mirrored
from unified_jax.typing import Batch, Params

ALIGNMENT = "alignment"
"""Name of the projector's parameters, and of the loss term."""


@dataclass(frozen=True)
class Alignment:
    """A further loss of a `Diffusion`: its tokens are aligned with the features of a frozen encoder."""

    teacher: Stage
    """The encoder: self-supervised, trained with labels (say so), or random as a control."""
    layer: int = 8
    """Blocks after which the tokens are taken, from 1."""
    weight: float = 0.5
    """Weight of the term; 0: no alignment."""
    hidden: int = 2048
    """Features inside the projector."""
    part: Literal["map", "tokens"] = "map"
    """What of the teacher's encoding: a map of patches, or tokens, as many as the network has."""

    def __post_init__(self) -> None:
        check_finite(self)
        if words := lacking(type(self.teacher.model), Encoder):
            raise ValueError(f"The teacher {self.teacher.name!r} encodes nothing: {words}.")
        if self.layer < 1 or self.hidden < 1 or self.weight < 0:
            raise ValueError(
                "Alignment needs layer and hidden of at least 1 and a weight that is not negative; found "
                f"{self.layer}, {self.hidden} and {self.weight:g}."
            )

    @property
    def capture(self) -> str:
        """The network's name of the aligned tokens."""
        return f"block/{self.layer - 1}"

    @property
    def projector(self) -> "Projector":
        """Tokens to the teacher's features."""
        encoder: Any = self.teacher.model
        return Projector(self.hidden, encoder.condition_form(self.part).features)

    def features(
        self, params: Params, raw: Array, turned: Bool[Array, "b"] | None, grid: tuple[int, ...]
    ) -> Float[Array, "b n f"]:
        """The teacher's features of prepared pictures, mirrored where `turned`, on the network's grid."""
        found = encode(self.teacher, params, raw if turned is None else mirrored(raw, turned))
        y: Any = found.map if self.part == "map" else found.tokens
        if self.part == "map" and y.shape[1:-1] != grid:
            y = jax.image.resize(y, (len(y), *grid, y.shape[-1]), "linear")
        return y.reshape(len(y), -1, y.shape[-1])


class Projector(nn.Module):
    """Three linear layers with SiLU between them."""

    hidden: int
    features: int

    @nn.compact
    def __call__(self, h: Float[Array, "b n d"]) -> Float[Array, "b n f"]:
        """Float32."""
        h = jax.nn.silu(Dense(self.hidden, ("embed", "mlp"), name="fc1")(h.astype(jnp.float32)))
        h = jax.nn.silu(Dense(self.hidden, ("mlp", "embed"), name="fc2")(h))
        return Dense(self.features, ("embed", None), name="fc3")(h)


def active(align: Alignment | None) -> Alignment | None:
    """The alignment, if it has a weight."""
    return align if align is not None and align.weight else None


def check_alignment(align: Alignment | None, network: Any, latents: Any, owner: str) -> None:
    """Raises ValueError for a network without such a block or without a width, and for a batch without pictures."""
    if align is None:
        return
    depth, name = getattr(network, "depth", None), type(network).__name__
    if depth is None or not hasattr(network, "width"):
        raise ValueError(f"{owner}.align reads tokens after a block, and {name} has no depth and width.")
    if align.layer > depth:
        raise ValueError(f"{owner}.align reads tokens after block {align.layer}; {name} has {depth}.")
    if latents is not None and latents.cached:
        raise ValueError(f"{owner}.align shows pictures to its teacher, and a batch of cached latents holds none.")


def captures(align: Alignment | None) -> tuple[str, ...]:
    """What a training step captures."""
    return (align.capture,) if active(align) and align else ()


def projector_of(align: Alignment | None, network: Any, key: Array) -> Params:
    """{"alignment": fresh parameters as Flax makes them}; {} without alignment."""
    if not active(align) or align is None:
        return {}
    variables: Any = align.projector.init(jax.random.fold_in(key, 1), jnp.zeros((1, 1, network.width)))
    return {ALIGNMENT: variables["params"]}


def aligned(model: Any, params: Params, batch: Batch, turned: Any, captured: dict[str, Any]) -> Terms:
    """{"alignment": (weight * mean of -cos, ones)} of a model of one stream; {} without alignment."""
    align = active(model.align)
    if align is None:
        return {}
    (stream,) = model.streams
    h, raw = captured[align.capture], jnp.asarray(batch[stream.modality.name])
    y = align.features(params, raw, turned, grid_of(stream.shape[:-1], stream.cut))
    if y.shape[1] != h.shape[1]:
        raise ValueError(f"The teacher {align.teacher.name!r} has {y.shape[1]} tokens, the network {h.shape[1]}.")
    said: Any = align.projector.apply({"params": params[ALIGNMENT]}, h)
    return {ALIGNMENT: (-align.weight * jnp.mean(cosine(said, y), axis=1), jnp.ones(len(h)))}


def cosine(a: Float[Array, "b n f"], b: Float[Array, "b n f"]) -> Float[Array, "b n"]:
    """The cosine over the last axis; 0 for a vector of zeros, whose gradient is finite."""
    unit = lambda v: v * jax.lax.rsqrt(jnp.maximum(jnp.sum(v**2, axis=-1, keepdims=True), 1e-24))  # noqa: E731
    return jnp.sum(unit(a) * unit(b), axis=-1)

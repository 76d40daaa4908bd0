"""What a network knows of a modality's spans, and what an embedder answers."""

import math
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from jaxtyping import Array, Float

from unified_jax.modalities.grid import grid_of

EmbedderKind = Literal["linear", "convolutional", "unet", "pointnet", "groups"]


@dataclass(frozen=True)
class Form:
    """What a network knows of a modality's spans."""

    name: str
    """Of the modality; names the layers."""
    shape: tuple[int, ...]
    """`(*sizes, c)` of one example in model space."""
    cut: tuple[int, ...]
    """Sizes of a patch."""
    out_channels: int
    """Channels of what the network answers with."""
    embedder: EmbedderKind = "linear"
    """How it enters and leaves the trunk."""
    features: int = 32
    """Of the embedder's own layers."""

    @property
    def tokens(self) -> int:
        """Tokens of a span."""
        return math.prod(grid_of(self.shape[:-1], self.cut))


@runtime_checkable
class Embedder(Protocol):
    """Implementations: PatchEmbedder, UNet, PointNet, PointGroups (`layers.embedders` chooses)."""

    def encode(
        self, x: Float[Array, "n ..."], c: Float[Array, "n d"], width: int, dtype: Any
    ) -> tuple[Float[Array, "n k d"], tuple[Array, ...]]:
        """(tokens, skips); c is the embedding of each item's time."""
        ...

    def decode(
        self, h: Float[Array, "n k d"], skips: tuple[Array, ...], c: Float[Array, "n d"]
    ) -> Float[Array, "n ..."]:
        """The output array, float32; zero at the start."""
        ...

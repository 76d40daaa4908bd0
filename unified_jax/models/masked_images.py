r"""An image encoder that is trained without labels: masked patches are predicted (SimMIM, Xie et al. 2022, 2111.09886).

    m      = a random share of the patches, drawn per image
    x'     = x with the patches of m replaced by a learned one
    loss   = mean over m of |W token(x') + b - x|

It has seen no labels, so its vectors, the mean of the patches' features, are a fair second opinion on samples of the
set that it was trained on (`evaluate --encoder RUN`), and a teacher or a stage for other models.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from unified_jax.modalities.conditions import ConditionForm
from unified_jax.modalities.grid import patchify, unpatchify
from unified_jax.models.base import Declared, Terms
from unified_jax.models.image_encoder import ImageEncoder
from unified_jax.models.stages import Encoded, Part
from unified_jax.precision import EXACT
from unified_jax.typing import Batch, Keys, Params

MASKED = "masked"
"""Name of the learned patch and the head beside the encoder's parameters."""
DRAW = 7011
"""Purpose of the mask of an example."""


@dataclass(frozen=True)
class MaskedImages(Declared):
    """An image encoder and a head that predicts masked patches."""

    encoder: ImageEncoder
    """The transformer over the image."""
    share: float = 0.6
    """Share of the patches that are masked."""

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ValueError(f"MaskedImages.share lies between 0 and 1, found {self.share}.")
        side, patch = self.encoder.preprocessing.side, self.encoder.network.patch
        if side % patch:
            raise ValueError(
                f"MaskedImages needs whole patches: images of {side} pixels are cut into patches of {patch}."
            )

    @property
    def modalities(self) -> tuple[Any, ...]:
        """The image."""
        return (self.encoder.image,)

    @property
    def _values(self) -> int:
        """Numbers of a patch."""
        network = self.encoder.network
        return network.patch**2 * network.channels

    def init(self, key: Array) -> Params:
        """Fresh float32 parameters; the head is zero: the first prediction is the mean of all pictures, grey."""
        own = {
            "patch": jnp.zeros((self._values,)),
            "kernel": jnp.zeros((self.encoder.network.width, self._values)),
            "bias": jnp.zeros((self._values,)),
        }
        return {**self.encoder.init(key), MASKED: own}

    def axes(self) -> Any:
        """Logical axis names of every parameter."""
        return {**self.encoder.axes(), MASKED: {"patch": (None,), "kernel": ("embed", None), "bias": (None,)}}

    def losses(self, params: Params, aux: Any, batch: Batch, key: Array) -> tuple[Terms, Any, Terms]:
        """`masked`: the mean absolute error of the masked patches, in the units of the network's input."""
        del aux
        keys = jax.vmap(lambda slot: jax.random.fold_in(jax.random.fold_in(key, DRAW), slot))(batch["slot"])
        x = self.encoder.prepare(batch[self.encoder.image.name])
        size = self.encoder.network.patch
        patches = patchify(x, (size, size))
        count = patches.shape[1]
        hidden = max(1, round(self.share * count))
        masked = jax.vmap(lambda k: jax.random.permutation(k, count) < hidden)(keys)[..., None]
        own, rest = params[MASKED], _without(params)
        shown = jnp.where(masked, own["patch"], patches)
        found: Any = self.encoder.network.apply({"params": rest}, unpatchify(shown, x.shape[1:3], (size, size)))
        tokens = found.tokens[:, self.encoder.network.before :]
        made = jnp.matmul(tokens, own["kernel"], precision=EXACT) + own["bias"]
        error = jnp.sum(jnp.where(masked, jnp.abs(made - patches), 0.0), axis=(1, 2)) / (hidden * self._values)
        return {"masked": (error, jnp.ones_like(error))}, {}, {}

    def encode(self, params: Params, x: Array, keys: Keys | None = None) -> Encoded:
        """See `Encoder`; the vector is the mean of the patches' features."""
        found = self.encoder.encode(_without(params), x, keys)
        return found._replace(pooled=jnp.mean(found.map, axis=(1, 2)) if found.map is not None else None)

    def condition_form(self, part: Part) -> ConditionForm:
        """See `Encoder`."""
        if part == "pooled":
            return ConditionForm(self.encoder.image.name, "vector", self.encoder.network.width, null=self.encoder.null)
        return self.encoder.condition_form(part)


def _without(params: Params) -> Params:
    return {name: value for name, value in params.items() if name != MASKED}

r"""What a loss of an autoencoder sees, and what it declares (`models.autoencoder`).

    x    data in model space                 z  latent before scale and shift, drawn of its moments
    y    reconstruction, the decoder's of z  N  numbers of an example's data

Every value is a mean over the N numbers of an example, or a sum over its latent divided by N: latent diffusion's
weights for sums (KL 1e-6, LPIPS 1, adversary 1/2) keep their meaning; a bound of an adaptive one is N times smaller.

An adaptive weight compares gradients of one layer's kernel W, of the reconstruction and of another loss:

    d = |dR/dW| / (|dS/dW| + 1e-4),   clipped, without a gradient;   R the sum of the losses that reconstruct
"""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unified_jax.errors import UserError
from unified_jax.interop.names import flatten
from unified_jax.models.autoencoders.losses import adaptive
from unified_jax.networks.autoencoders.moments import Moments
from unified_jax.typing import Params

Values = dict[str, Float[Array, "b"]]
"""Name of a term -> its value for each example."""


class Outputs(NamedTuple):
    """What depends on the network's parameters."""

    moments: Moments
    z: Array
    y: Array


class Seen(NamedTuple):
    """One view of a batch."""

    model: Any
    """The autoencoder without its losses (`Autoencoding`)."""
    params: Params
    """All parameters: the network's, the losses' and those of stages."""
    x: Float[Array, "b ..."]
    """What is to be reconstructed."""
    out: Outputs
    step: Array
    """Number of the training step."""
    main: Callable[["Seen"], Array] = lambda seen: jnp.zeros(())
    """The sum of the losses that reconstruct."""
    pull: Callable[[Outputs], dict[str, Array]] = lambda slope: {}
    """Gradients of the watched kernels from those of the outputs."""

    averages: bool = False
    """Whether the network's table follows averages, so that no loss moves it."""

    def mean(self, x: Array) -> Float[Array, "b"]:
        """The mean over the numbers of an example."""
        return jnp.mean(x.reshape(len(x), -1), axis=-1)

    def summed(self, x: Array) -> Float[Array, "b"]:
        """The sum over an example's numbers, divided by those of its data."""
        return jnp.sum(x.reshape(len(x), -1), axis=-1) / (self.x.size // len(self.x))

    def apply(self, method: str, *arrays: Array) -> Any:
        """A method of the network."""
        return self.model.network.apply({"params": self.model.of_run(self.params)}, *arrays, method=method)

    def adaptive(self, other: Callable[["Seen"], Array], layer: str, most: float) -> Float[Array, ""]:
        """The weight of another loss, by the gradients of a layer's kernel."""
        params, x, out = jax.lax.stop_gradient((self.params, self.x, self.out))
        at = self._replace(params=params, x=x, out=out)

        def slope(loss: Callable[[Seen], Array]) -> Array:
            found = jax.grad(lambda out: loss(at._replace(out=out)))(out)
            return self.pull(jax.lax.stop_gradient(found))[layer]

        return adaptive(slope(self.main), slope(other), most)


@runtime_checkable
class AutoencoderLoss(Protocol):
    """A loss of an autoencoder: a frozen dataclass. `Loss` holds the defaults of all but `terms`."""

    @property
    def weight(self) -> float:
        """Factor of the loss; with 0 it is left out."""
        ...

    def terms(self, seen: Seen) -> Values:
        """Its terms, times the weight."""
        ...


class Loss:
    """A mixin without fields: what a loss declares beside its terms."""

    reconstructs: ClassVar[bool] = False
    """Whether it compares y with x: adaptive weights are relative to these."""
    own: ClassVar[str] = ""
    """Name of its parameters."""
    stages: tuple[Any, ...] = ()
    """Frozen models that it reads."""
    layers: tuple[str, ...] = ()
    """Paths of the kernels whose gradients it compares."""
    whole_batch: str = ""
    """Why it needs a step's rows at once, as a part of a sentence."""
    players: tuple[Any, ...] = ()
    """Players that train its parameters; (): the generator does."""
    opposed: ClassVar[tuple[str, ...]] = ()
    """Terms against another player: they measure nothing alone, so that the validation loss leaves them out."""

    def check(self, model: Any) -> None:
        """Raises ValueError for an autoencoder that it does not suit."""

    def init(self, model: Any, key: Array) -> Params:
        """Its parameters."""
        del model, key
        return {}

    def axes(self, model: Any) -> Any:
        """Logical axes of the same tree."""
        del model
        return {}

    def watch(self, seen: Seen) -> dict[str, Array]:
        """Further metrics of a batch: scalars."""
        del seen
        return {}


def kernel_at(params: Params, layer: str) -> Array:
    """The parameter at this path. Raises UserError if there is none."""
    flat = flatten(params)
    if layer not in flat:
        near = [name for name in flat if name.endswith("conv_out/kernel")] or list(flat)
        raise UserError(f"An adaptive weight compares gradients of {layer!r}, which is not there; name one of {near}.")
    return flat[layer]

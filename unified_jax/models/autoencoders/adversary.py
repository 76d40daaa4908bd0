r"""A discriminator as a loss of an autoencoder: a second player (Esser et al. 2021; Rombach et al. 2022).

    generator       + w d gate S,   S = L_G(D(x), D(y)),   gate 1 from the step `start` on
    discriminator   h L_D(D(x), D(y)) + g/2 |dD/dx|^2 (R1) + g/2 |dD/dy|^2 (R2); trained from `start` on
    d               |dR/dW| / (|dS/dW| + 1e-4), W the decoder's last kernel (`base`), or 1

L_G, L_D and the penalties are those of `gan_losses`: hinge (taming, latent diffusion, h = 1/2), the relativistic or the
separable pair; D of an image is one logit a patch, its gradient that of their mean.

The generator is updated first, then the discriminator against its new reconstructions (`training.players`). Penalties
of the gradient need a discriminator that keeps samples apart: one without batch statistics.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unified_jax.config import Open
from unified_jax.models.autoencoders.base import Loss, Seen, Values
from unified_jax.models.base import Player
from unified_jax.models.gan_losses import Adversarial, Hinge, judged
from unified_jax.networks.patchgan import PatchGan
from unified_jax.precision import seed_key
from unified_jax.sharding import logical_axes, unbox
from unified_jax.typing import Params

LAST = "decoder/conv_out/kernel"
"""The decoder's last kernel, of KL and VQ autoencoders."""


@dataclass(frozen=True)
class Adversary(Loss):
    """A discriminator of reconstructions."""

    network: Open[Any] = field(default_factory=PatchGan)
    """A Flax module from images to logits: `(x, train)`."""
    weight: float = 0.5
    """See `AutoencoderLoss`."""
    start: int = 0
    """First step in which it plays."""
    loss: Open[Adversarial] = Hinge()
    """The losses of both players."""
    half: float = 0.5
    """h: factor of the discriminator's loss."""
    adaptive: bool = True
    """Whether the weight follows the gradients of the decoder's last kernel."""
    layer: str = LAST
    """Path of that kernel."""
    r1: float = 0.0
    """Of the gradient penalty on data."""
    r2: float = 0.0
    """The same on reconstructions."""
    optimizer: Any = None
    """Its own `Optimization`; None: the experiment's."""
    most: float = 1e4
    """Largest adaptive weight. Latent diffusion bounds that of a sum over an example's N numbers, N times ours, so that
    its bound is 1e4 / N here; taming's VQGAN takes the mean."""
    own: ClassVar[str] = "adversary"
    opposed: ClassVar[tuple[str, ...]] = ("adversary",)

    def __post_init__(self) -> None:
        if min(self.start, self.r1, self.r2) < 0 or self.most <= 0:
            raise ValueError("Adversary: start, r1 and r2 must not be negative, and most must be positive.")

    @property
    def layers(self) -> tuple[str, ...]:
        """The decoder's last kernel, if the weight is adaptive."""
        return (self.layer,) if self.adaptive else ()

    @property
    def whole_batch(self) -> str:
        """Adaptive weights and batch statistics are of the whole batch."""
        if self.adaptive:
            return "the adversary's adaptive weight compares gradients of the whole batch"
        batch = getattr(self.network, "norm", "") == "batch"
        return "the discriminator's batch norm takes statistics of the whole batch" if batch else ""

    @property
    def players(self) -> tuple[Player, ...]:
        """The discriminator."""
        return (Player(self.own, (f"^{self.own}/",), ("discriminator",), self.optimizer, self.start),)

    def _boxed(self, model: Any, key: Array) -> Params:
        return self.network.init(key, jnp.zeros((1, *model.shape)))

    def check(self, model: Any) -> None:
        """Images, and no penalty beside batch statistics."""
        if len(model.shape) != 3:
            raise ValueError(f"Adversary judges images; the autoencoder is one of {list(model.shape)}.")
        held = set(jax.eval_shape(lambda k: self._boxed(model, k), seed_key(0))) - {"params"}
        if (self.r1 or self.r2) and held:
            raise ValueError(
                f"Adversary.r1 and r2 penalise the gradient of each sample, and {type(self.network).__name__} mixes "
                "samples by batch statistics: choose a norm without them (PatchGan(norm='act') or 'none')."
            )

    def init(self, model: Any, key: Array) -> Params:
        """The discriminator's parameters."""
        return unbox(self._boxed(model, key)["params"])

    def axes(self, model: Any) -> Any:
        """Their logical axes."""
        return logical_axes(jax.eval_shape(lambda k: self._boxed(model, k), seed_key(0))["params"])

    def judge(self, seen: Seen, x: Float[Array, "b ..."]) -> Float[Array, "b n"]:
        """The logits of images; running statistics are not kept, since it is used in training alone."""
        fresh = jax.eval_shape(lambda k: self._boxed(seen.model, k), seed_key(0))
        rest = {name: _blank(unbox(tree)) for name, tree in fresh.items() if name != "params"}
        variables = {**rest, "params": seen.params[self.own]}
        found: Any = self.network.apply(variables, x, True, mutable=list(rest))[0]
        return found.reshape(len(x), -1)

    def terms(self, seen: Seen) -> Values:
        """`adversary`, the generator's; `discriminator`."""
        return self._played(seen, self._terms)

    def _terms(self, seen: Seen) -> Values:
        size: Any = self.weight
        if self.adaptive:
            size = size * seen.adaptive(lambda at: jnp.mean(self._generator(at)), self.layer, self.most)
        return {"adversary": size * self._generator(seen), "discriminator": self._discriminator(seen)}

    def _played(self, seen: Seen, found: Callable[[Seen], dict[str, Array]]) -> dict[str, Array]:
        """What it finds, or zeros before its first step."""
        if not self.start:
            return found(seen)
        shapes = jax.eval_shape(lambda: found(seen))
        idle = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        return jax.lax.cond(seen.step >= self.start, lambda: found(seen), lambda: idle)

    def _generator(self, seen: Seen) -> Float[Array, "b"]:
        real = jax.lax.stop_gradient(self.judge(seen, seen.x))
        return jnp.mean(self.loss.generator(real, self.judge(seen, seen.out.y)), axis=-1)

    def _discriminator(self, seen: Seen) -> Float[Array, "b"]:
        x, y = jax.lax.stop_gradient((seen.x, seen.out.y))
        found = self.half * jnp.mean(self.loss.discriminator(self.judge(seen, x), self.judge(seen, y)), axis=-1)
        for size, images in ((self.r1, x), (self.r2, y)):
            if size:
                steep = judged(lambda x: jnp.mean(self.judge(seen, x), axis=-1), images)[1]
                found = found + size / 2 * steep
        return found

    def watch(self, seen: Seen) -> dict[str, Array]:
        """Mean logits of data and of reconstructions."""
        return self._played(seen, self._logits)

    def _logits(self, seen: Seen) -> dict[str, Array]:
        x, y = jax.lax.stop_gradient((seen.x, seen.out.y))
        return {"logits/real": jnp.mean(self.judge(seen, x)), "logits/fake": jnp.mean(self.judge(seen, y))}


def _blank(tree: Any) -> Any:
    """Fresh running statistics."""
    return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), tree)

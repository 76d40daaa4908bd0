r"""Losses of an autoencoder as values: a tuple of them is its objective (`models.autoencoder`).

    Pixels             mean |x - y|, or (x - y)^2
    Perceptual         LPIPS, or another distance of features, which its term is named after
    Kl                 sum KL(N(m, s) || N(0, 1)) / N
    Commitment         mean (z - sg e)^2, and without moving averages mean (sg z - e)^2 for the table
    Entropy            of lookup-free codes: E H(p(code | z)) - gamma H(E p(code | z))
    ScaleEquivariance  the distance of down(x) and decoder(down(z)), down bilinear (Skorokhodov et al. 2025, 2502.14831)

An adversary and the features of an encoder have files of their own. One of your own derives from `Loss`.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from unified_jax.config import Open
from unified_jax.layers.resampling import resample
from unified_jax.models.autoencoders.base import AutoencoderLoss, Loss, Seen, Values
from unified_jax.models.autoencoders.perceptual import RandomFeatures
from unified_jax.models.stages import Encoder, Stage, encode, stage_params
from unified_jax.networks.lpips import unit


@dataclass(frozen=True)
class Pixels(Loss):
    """The distance of numbers."""

    kind: Literal["l1", "l2"] = "l1"
    """Absolute or squared differences."""
    weight: float = 1.0
    """See `AutoencoderLoss`."""
    reconstructs: ClassVar[bool] = True

    def terms(self, seen: Seen) -> Values:
        """`l1` or `l2`."""
        apart = seen.x - seen.out.y
        return {self.kind: self.weight * seen.mean(jnp.abs(apart) if self.kind == "l1" else jnp.square(apart))}


@dataclass(frozen=True)
class Perceptual(Loss):
    """The distance of images by features."""

    stage: Stage | None = None
    """A distance (`LpipsDistance`), or an encoder whose map is compared; None: random filters."""
    weight: float = 1.0
    """See `AutoencoderLoss`."""
    reconstructs: ClassVar[bool] = True

    def __post_init__(self) -> None:
        known = self.stage is None or hasattr(self.stage.model, "distance") or isinstance(self.stage.model, Encoder)
        if not known:
            raise ValueError(
                f"Perceptual compares by a distance or an encoder; the stage {self.stage and self.stage.name!r} is "
                "neither."
            )

    @property
    def stages(self) -> tuple[Any, ...]:
        """The network of the features."""
        return () if self.stage is None else (self.stage,)

    @property
    def label(self) -> str:
        """Name of the term: what is compared."""
        model: Any = RandomFeatures() if self.stage is None else self.stage.model
        return getattr(model, "label", "") or f"perceptual_{self.stage and self.stage.name}"

    def terms(self, seen: Seen) -> Values:
        """Named after the network."""
        x, y = seen.x, seen.out.y
        if self.stage is None:
            return {self.label: self.weight * RandomFeatures().distance({}, x, y)}
        model: Any = self.stage.model
        own = stage_params(seen.params, self.stage.name)
        if hasattr(model, "distance"):
            return {self.label: self.weight * model.distance(own, x, y)}
        f: Any = encode(self.stage, seen.params, x).map
        g = model.encode(own, y).map
        return {self.label: self.weight * seen.mean(jnp.sum(jnp.square(unit(f) - unit(g)), axis=-1))}


@dataclass(frozen=True)
class Kl(Loss):
    """How far the Gaussians of the latent are from N(0, 1)."""

    weight: float = 1e-6
    """Latent diffusion's, for a sum over the latent beside a sum over the image."""

    def check(self, model: Any) -> None:
        """Only Gaussians have a divergence."""
        if model.point:
            raise ValueError(f"Kl needs a Gaussian latent, which {type(model.network).__name__} does not have.")

    def terms(self, seen: Seen) -> Values:
        """`kl`."""
        return {"kl": self.weight * seen.summed(seen.out.moments.kl())}


@dataclass(frozen=True)
class Commitment(Loss):
    """Vectors and the codes that they become."""

    weight: float = 0.25
    """Of the vectors' distance from their codes."""
    table: float = 1.0
    """Of the codes' distance from their vectors; unused with a codebook of moving averages."""

    def check(self, model: Any) -> None:
        """Only a table has codes."""
        if not hasattr(model.network, "lookup"):
            raise ValueError(f"Commitment needs a table of codes, which {type(model.network).__name__} does not have.")

    def terms(self, seen: Seen) -> Values:
        """`commitment`, and `table` where the table is a parameter that is trained."""
        z, stop = seen.out.z, jax.lax.stop_gradient
        code = seen.apply("lookup", stop(seen.apply("quantise", z).ids))
        found = {"commitment": self.weight * seen.mean(jnp.square(z - stop(code)))}
        learned = self.table > 0 and not seen.averages
        return found | ({"table": self.table * seen.mean(jnp.square(stop(z) - code))} if learned else {})


@dataclass(frozen=True)
class Entropy(Loss):
    """How sure vectors are of their codes, and how many codes are used."""

    weight: float = 0.1
    """See `AutoencoderLoss`."""
    gamma: float = 1.0
    """Of the entropy of the codes' use."""
    temperature: float = 0.01
    """Of the soft assignment."""
    whole_batch: ClassVar[str] = "the entropy of the use of codes is one of the whole batch"

    def check(self, model: Any) -> None:
        """Only lookup-free codes have these entropies."""
        if not hasattr(getattr(model.network, "quantiser", None), "entropies"):
            raise ValueError(f"Entropy needs lookup-free codes (Lfq), which {type(model.network).__name__} lacks.")

    def terms(self, seen: Seen) -> Values:
        """`entropy`."""
        found = seen.model.network.quantiser.entropies(seen.out.z, self.temperature)
        return {"entropy": self.weight * jnp.broadcast_to(found.each - self.gamma * found.mean, (len(seen.x),))}


@dataclass(frozen=True)
class ScaleEquivariance(Loss):
    """Smaller latents decode to smaller images, so that high frequencies of a latent are those of its image."""

    factors: tuple[int, ...] = (2, 4)
    """By which image and latent shrink, each in every step."""
    weight: float = 0.25
    """See `AutoencoderLoss`; of the mean over the factors."""
    distances: Open[tuple[AutoencoderLoss, ...]] = (Pixels(),)
    """How the smaller images are compared."""

    def __post_init__(self) -> None:
        if not self.factors or min(self.factors) < 2:
            raise ValueError(f"ScaleEquivariance.factors must be 2 or more, found {self.factors}.")

    @property
    def stages(self) -> tuple[Any, ...]:
        """Those of the distances."""
        return tuple(stage for one in self.distances for stage in getattr(one, "stages", ()))

    def check(self, model: Any) -> None:
        """Latents are grids that every factor divides."""
        shape = model.latent_shape()
        if len(shape) != 3 or any(size % f for f in self.factors for size in shape[:2]):
            raise ValueError(f"ScaleEquivariance: the factors {self.factors} do not divide latents of {list(shape)}.")

    def terms(self, seen: Seen) -> Values:
        """`scale_NAME` for each distance NAME."""
        found: Values = {}
        for factor in self.factors:
            small = smaller(seen, 1 / factor)
            for one in self.distances:
                for name, value in one.terms(small).items():
                    part = self.weight / len(self.factors) * value
                    found[f"scale_{name}"] = found.get(f"scale_{name}", 0.0) + part
        return found


def resized(x: Any, scale: float) -> Any:
    """Bilinear, to the nearest whole sizes."""
    sizes = (max(1, round(x.shape[1] * scale)), max(1, round(x.shape[2] * scale)))
    return resample(x, sizes, "linear")


def smaller(seen: Seen, scale: float) -> Seen:
    """The smaller image, and the decoder's of the smaller latent."""
    z = resized(seen.out.z, scale)
    return seen._replace(x=resized(seen.x, scale), out=seen.out._replace(z=z, y=seen.apply("decode", z)))

r"""Latents that follow the features of a frozen vision encoder: the VF loss of VA-VAE (Yao et al. 2025, 2501.01423).

z' = z W,    f = the encoder's map of x, bilinear to the latent's sizes
VF = w d (1/n sum_i relu(1 - m_c - cos(z'_i, f_i)) + 1/n^2 sum_ij relu(|cos(z'_i, z'_j) - cos(f_i, f_j)| - m_d))
d  = |dR/dV| / (|dVF/dV| + 1e-4), at most 1e8, V the encoder's last kernel, or 1
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unified_jax.config import lacking
from unified_jax.layers.resampling import resample
from unified_jax.models.autoencoders import losses as formulas
from unified_jax.models.autoencoders.base import Loss, Seen, Values
from unified_jax.models.stages import Encoder, Stage, encode
from unified_jax.precision import precision
from unified_jax.typing import Params


@dataclass(frozen=True)
class VisionFeatures(Loss):
    """A latent's cosines are those of features at the same places."""

    teacher: Stage
    """The vision encoder."""
    weight: float = 0.1
    """See `AutoencoderLoss`."""
    cosine_margin: float = 0.5
    """m_c."""
    distance_margin: float = 0.25
    """m_d."""
    adaptive: bool = True
    """Whether the weight follows the gradients of the encoder's last kernel."""
    layer: str = "encoder/conv_out/kernel"
    """Path of that kernel."""
    own: ClassVar[str] = "features"

    def __post_init__(self) -> None:
        if words := lacking(type(self.teacher.model), Encoder):
            raise ValueError(f"The teacher {self.teacher.name!r} encodes nothing: {words}.")

    @property
    def stages(self) -> tuple[Any, ...]:
        """The teacher."""
        return (self.teacher,)

    @property
    def layers(self) -> tuple[str, ...]:
        """The encoder's last kernel, if the weight is adaptive."""
        return (self.layer,) if self.adaptive else ()

    @property
    def whole_batch(self) -> str:
        """Adaptive weights are of the whole batch."""
        return "the adaptive weight of the features compares gradients of the whole batch" if self.adaptive else ""

    def check(self, model: Any) -> None:
        """Latents are grids."""
        if len(model.latent_shape()) != 3:
            raise ValueError(f"VisionFeatures compares grids; the latent is {list(model.latent_shape())}.")

    def _width(self) -> int:
        teacher: Any = self.teacher.model
        return teacher.condition_form("map").features

    def init(self, model: Any, key: Array) -> Params:
        """W, uniform as a convolution's."""
        channels = model.latent_shape()[-1]
        bound = channels**-0.5
        return {"kernel": jax.random.uniform(key, (channels, self._width()), minval=-bound, maxval=bound)}

    def axes(self, model: Any) -> Any:
        """Of W."""
        del model
        return {"kernel": (None, None)}

    def terms(self, seen: Seen) -> Values:
        """`features`."""
        f: Any = encode(self.teacher, seen.params, seen.x).map
        rows, columns = seen.out.z.shape[1:3]
        f = resample(f, (rows, columns), "linear").reshape(len(f), -1, f.shape[-1])
        size = jnp.asarray(self.weight)
        if self.adaptive:
            size = size * seen.adaptive(lambda at: jnp.mean(self._apart(at, f)), self.layer, 1e8)
        return {"features": size * self._apart(seen, f)}

    def _apart(self, seen: Seen, f: Float[Array, "b n d"]) -> Float[Array, "b"]:
        z, kernel = seen.out.z, seen.params[self.own]["kernel"]
        z = jnp.matmul(z.reshape(len(z), -1, z.shape[-1]), kernel, precision=precision(z.dtype))

        def one(z: Array, f: Array) -> Array:
            along = formulas.vf_cosines(z[None], f[None], self.cosine_margin)
            return along + formulas.vf_distances(z[None], f[None], self.distance_margin)

        return jax.vmap(one)(z, f)

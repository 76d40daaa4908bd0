"""An autoencoder as a stage: data to latents and latents to data.

    moments   a Gaussian for every number of the latent, or a point, as the network gives it
    latents   (z - shift) * scale, about N(0, 1): what a diffusion model is trained on; z is drawn or the mean
    decode    data from such latents

Scale and shift are the family's, and travel with the stage. `autoencoder` opens published weights: folders of
diffusers (AutoencoderKL, VQModel, AutoencoderDC, AutoencoderOobleck), and files of latent diffusion, taming, SD3, Flux
or VA-VAE.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from unified_jax.config import Open
from unified_jax.errors import UserError
from unified_jax.interop.autoencoders import dc, levels, oobleck, published, settings
from unified_jax.interop.autoencoders.settings import Statistics
from unified_jax.modalities.conditions import ConditionForm
from unified_jax.models.boxed import Boxed, Scaled
from unified_jax.models.stages import BUFFERS, Encoded, Part
from unified_jax.networks.autoencoders import tiling
from unified_jax.networks.autoencoders.coder import Levels
from unified_jax.networks.autoencoders.dc import DcAutoencoder, Side
from unified_jax.networks.autoencoders.kl import KlAutoencoder
from unified_jax.networks.autoencoders.moments import Moments
from unified_jax.networks.autoencoders.oobleck import Oobleck
from unified_jax.networks.autoencoders.tiling import Tiling
from unified_jax.networks.autoencoders.vq import VqAutoencoder
from unified_jax.precision import seed_key
from unified_jax.typing import Keys, Params

SD, SDXL = Statistics((0.18215,)), Statistics((0.13025,))
"""Of Stable Diffusion 1 and 2 (also ft-ema and ft-mse), and of SDXL."""
SD3, FLUX = Statistics((1.5305,), (0.0609,)), Statistics((0.3611,), (0.1159,))
"""Of Stable Diffusion 3, and of Flux."""
CODEBOOK = "codebook"
"""Name of the state of moving averages in a model's aux (`EmaState`, whose first part is the table)."""
TABLES: dict[type, ModuleType] = {
    KlAutoencoder: levels,
    VqAutoencoder: levels,
    DcAutoencoder: dc,
    Oobleck: oobleck,
}
"""Network -> how its published weights are read and written."""


@runtime_checkable
class Autoencoder(Protocol):
    """A Flax module between data and latents, channels last. Its call is the reconstruction."""

    def encode(self, x: Float[Array, "b ..."]) -> Moments:
        """What the encoder says of the latents."""
        ...

    def decode(self, z: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
        """The data of latents."""
        ...


@dataclass(frozen=True)
class Autoencoding(Scaled, Boxed):
    """An autoencoder of arrays of one shape, or of others with the same channels."""

    network: Open[Autoencoder]
    """Encoder and decoder."""
    shape: tuple[int, ...] = (256, 256, 3)
    """Shape of the data, channels last."""
    scale: tuple[float, ...] = (1.0,)
    """Factor of the latents: one, or one for each channel."""
    shift: tuple[float, ...] = (0.0,)
    """Taken from the latents before: one, or one for each channel."""
    draw: Literal["mean", "sample"] = "mean"
    """The latent of a Gaussian where keys are given: its mean, or a sample."""
    name: str = "image"
    """Name of the modality whose data it encodes."""
    tiling: Tiling | None = None
    """How pictures larger than a tile are computed; None: whole."""

    def __post_init__(self) -> None:
        if self.tiling is not None and type(self.network) is not KlAutoencoder:
            raise ValueError(f"Only a KlAutoencoder is computed in tiles, found {type(self.network).__name__}.")
        self.check_scale(self.latent_shape()[-1])

    def _boxed(self, key: Array) -> Params:
        network: Any = self.network
        return network.init(key, jnp.zeros((1, *self.shape)))["params"]

    def latent_shape(self) -> tuple[int, ...]:
        """The shape of one latent."""
        return _latent(self.network, self.shape)[0]

    @property
    def point(self) -> bool:
        """Whether a latent is a point, without a Gaussian."""
        return _latent(self.network, self.shape)[1]

    def moments(self, params: Params, x: Float[Array, "b ..."]) -> Moments:
        """What the network says of the latents, before scale and shift."""
        network: Any = self.network
        if self.tiling is not None:
            return tiling.encode(network, params, x, self.tiling)
        return network.apply({"params": params}, x, method="encode")

    def latents(self, moments: Moments, keys: Keys | None = None) -> Float[Array, "b ..."]:
        """Normalised latents, sampled with one key per row if `draw` says so."""
        if self.draw == "mean" or keys is None:
            return self.normalised(moments.mean)
        return self.normalised(moments.draw(keys))

    def encode(self, params: Params, x: Num[Array, "b ..."], keys: Keys | None = None) -> Encoded:
        """See `Encoder`: normalised latents, as a map; of images as they are prepared, or in model space."""
        if x.dtype == jnp.uint8:
            x = x.astype(jnp.float32) / 127.5 - 1.0  # as `Image.to_model`
        return Encoded(map=self.latents(self.moments(params, x), keys))

    def decode(self, params: Params, z: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
        """The data of normalised latents."""
        network: Any = self.network
        z = self.unscaled(z)
        if self.tiling is not None:
            return tiling.decode(network, params, z, self.tiling)
        return network.apply({"params": params}, z, method="decode")

    def of_run(self, params: Params) -> Params:
        """Its own of the parameters of a run that trained it: without discriminators; a table of averages from aux."""
        names = jax.eval_shape(self.init, seed_key(0))
        held = params.get(BUFFERS, {}).get(CODEBOOK)
        return {**{n: params[n] for n in names if n in params}, **({} if held is None else {"table": held[0]})}

    def condition_form(self, part: Part) -> ConditionForm:
        """See `Encoder`."""
        if part != "map":
            raise ValueError(f"Autoencoding has no {part}; its part is map.")
        return ConditionForm(self.name, "map", self.latent_shape()[-1], null="zero")

    def finds(self, source: str) -> bool:
        """See `Published`: a folder of diffusers, or a file of one of the layouts that the network has."""
        return type(self.network) in TABLES and published.finds(source)

    def read(self, source: str) -> Params:
        """See `Published`."""
        expected = jax.eval_shape(self.init, seed_key(0))
        return TABLES[type(self.network)].read(f"{source!r}", published.tensors(Path(source)), expected)

    def write(self, params: Params) -> dict[str, Any]:
        """The arrays of its class of diffusers, by name. Raises UserError for a network without one."""
        if type(self.network) not in TABLES:
            raise UserError(f"{type(self.network).__name__} has no layout other than our own.")
        return TABLES[type(self.network)].write(params)


@functools.cache
def _latent(network: Any, shape: tuple[int, ...]) -> tuple[tuple[int, ...], bool]:
    """(shape of a latent, whether it is a point)."""
    x = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    init = functools.partial(network.init_with_output, method="encode")
    key = jax.eval_shape(lambda: jax.random.key(0))  # shapes alone: a recipe that is read opens no device
    found = jax.eval_shape(init, key, x)[0]
    return found.mean.shape[1:], found.logvar is None


def autoencoder(
    path: Path,
    statistics: Statistics | None = None,
    size: int | None = None,
    dtype: Literal["float32", "bfloat16"] = "float32",
) -> tuple[Autoencoding, Params]:
    """(the autoencoder, its parameters) of published weights.

    path        a folder of diffusers, or one file, whose sizes are read from its arrays
    statistics  scale and shift of the latents; a folder says them, for a file name them (SD, SDXL, SD3, FLUX)
    size        side of an image, or length of a sound; None: 256 or 65,536

    Raises UserError for files that do not fit, and for a file without statistics.
    """
    try:
        found = _opened(path, statistics, size, dtype)
    except ValueError as error:
        raise UserError(f"{str(path)!r} does not describe an autoencoder: {error}") from error
    return found, found.read(str(path))


def _opened(path: Path, statistics: Statistics | None, size: int | None, dtype: Any) -> Autoencoding:
    what = f"{str(path)!r}"
    if path.is_dir():
        cls, c, said = published.described(path)
        network, sound = network_of(what, cls, c, dtype), cls == "AutoencoderOobleck"
        said = said if statistics is None else statistics
    else:
        if statistics is None:
            raise UserError(
                f"{what} does not say the scale of its latents: give statistics, such as SD ({SD.scale[0]}), SDXL "
                f"({SDXL.scale[0]}), SD3 or FLUX of unified_jax.models.autoencoding, or Statistics() for none."
            )
        c, said, sound = levels.measured(what, published.tensors(path)), statistics, False
        sizes = Levels(**settings.measured(c)._asdict(), dtype=dtype)
        kl = KlAutoencoder(sizes, c["use_quant_conv"], c["use_post_quant_conv"])
        network = kl if c["table"] is None else VqAutoencoder(sizes, *c["table"])
    if sound:
        return Autoencoding(network, (size or 65536, c["audio_channels"]), said.scale, said.shift, name="sound")
    return Autoencoding(network, (size or 256, size or 256, c["in_channels"]), said.scale, said.shift)


def network_of(what: str, cls: str, c: Mapping[str, Any], dtype: Literal["float32", "bfloat16"] = "float32") -> Any:
    """The network of a class of diffusers from all of its options. Raises UserError for a value it does not have."""
    match cls:
        case "AutoencoderKL":
            sizes = Levels(**settings.levels(what, c)._asdict(), dtype=dtype)
            return KlAutoencoder(sizes, c["use_quant_conv"], c["use_post_quant_conv"])
        case "VQModel":
            sizes = Levels(**settings.levels(what, c)._asdict(), dtype=dtype)
            return VqAutoencoder(sizes, c["num_vq_embeddings"], c["vq_embed_dim"] or c["latent_channels"])
        case "AutoencoderDC":
            s = dc.settings(what, c)
            return DcAutoencoder(
                s.channels, s.latents, Side(*s.encoder_sizes), Side(*s.decoder_sizes), s.head_dim, s.unshuffle,
                s.shuffle, s.out_shortcut, s.in_shortcut, s.out_activation, dtype,
            )  # fmt: skip
        case _:
            return Oobleck(*oobleck.settings(what, c), dtype=dtype)

"""CLIP's, SigLIP's or DINOv2's image encoder as a stage: images in, patch features and a vector out.

    x       uint8 or model space, any size -> [0, 1] -> resized, central square -> (x - mean) / std
    tokens  features of the patches, rows first (or of all tokens), after the final norm or before the last blocks
    map     the same on the grid of the patches
    pooled  the vector of the image

                    resized to               square   mean and std
    CLIP            shorter side 224         224      its own (.481 .458 .408, .269 .261 .276)
    SigLIP          224 x 224                224      .5, .5                  (larger networks: their own size)
    DINOv2          shorter side 256         224      ImageNet's (.485 .456 .406, .229 .224 .225)

The resizing is Pillow's filter on floats, which averages where it shrinks; it does not round to bytes, so that values
differ from those of 8-bit programs by up to half a step. `encoder.encode(params, images).pooled` are the vectors of a
Frechet distance or a cosine.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from unified_jax.errors import UserError
from unified_jax.interop import clip, dinov2, folder as folders, siglip, table
from unified_jax.interop.preprocessing import DEFAULTS, Preprocessing, preprocessing
from unified_jax.layers.resampling import resample
from unified_jax.modalities.conditions import ConditionForm
from unified_jax.modalities.image import Image
from unified_jax.models.boxed import Boxed
from unified_jax.models.encoder_networks import Dtype, vision_transformer
from unified_jax.models.stages import Encoded, Part
from unified_jax.networks.encoder_blocks import Norm
from unified_jax.networks.vit import VisionOutput, Vit
from unified_jax.precision import seed_key
from unified_jax.typing import Keys, Params

KINDS = (*clip.VISION_KINDS, *siglip.VISION_KINDS, *dinov2.KINDS)


@dataclass(frozen=True)
class ImageEncoder(Boxed):
    """A vision transformer with its preprocessing."""

    network: Vit
    """The transformer."""
    image: Image
    """The images that it encodes."""
    preprocessing: Preprocessing = DEFAULTS["clip"]
    """Sizes, filter, mean and standard deviation."""
    skip: int = 0
    """Last blocks that tokens do not pass."""
    norm: bool = True
    """Whether tokens pass the final norm."""
    tokens: Literal["patches", "all"] = "patches"
    """Whether the class token and the registers are among the tokens."""
    null: Literal["learned", "zero", "none"] = "learned"
    """What replaces an absent condition in a network that reads it."""

    def __post_init__(self) -> None:
        p = self.preprocessing
        if p.side < self.network.patch or p.side > p.resize:
            raise ValueError(
                f"ImageEncoder cuts a square of {p.side} from images of {p.resize}, in patches of {self.network.patch}."
            )
        if not 0 <= self.skip < self.network.depth:
            raise ValueError(f"ImageEncoder.skip is less than the {self.network.depth} blocks, found {self.skip}.")
        if self.image.channels not in (1, self.network.channels):
            raise ValueError(
                f"ImageEncoder reads {self.network.channels} channels, the images have {self.image.channels}."
            )

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        side = self.preprocessing.side // self.network.patch
        return side, side

    def _boxed(self, key: Array) -> Params:
        side = self.network.size
        variables: Any = self.network.init(key, jnp.zeros((1, side, side, self.network.channels)))
        return variables["params"]

    def prepare(self, x: Num[Array, "b h w c"]) -> Float[Array, "b s s c"]:
        """The network's input, from uint8 images or from model space, [-1, 1]."""
        p = self.preprocessing
        x = (self.image.to_model(x) if x.dtype == jnp.uint8 else x) / 2 + 0.5
        if x.shape[-1] < self.network.channels:
            x = jnp.repeat(x, self.network.channels, axis=-1)
        h, w = x.shape[1:3]
        short = min(h, w)
        sizes = (p.resize, p.resize) if p.stretch else (p.resize * h // short, p.resize * w // short)
        x = jnp.clip(resample(x, sizes, p.filter, antialias=True), 0.0, 1.0)
        top, left = (sizes[0] - p.side) // 2, (sizes[1] - p.side) // 2
        x = x[:, top : top + p.side, left : left + p.side]
        return (x - jnp.asarray(p.mean, jnp.float32)) / jnp.asarray(p.std, jnp.float32)

    def encode(self, params: Params, x: Num[Array, "b h w c"], keys: Keys | None = None) -> Encoded:
        """The encoding of images, uint8 or in model space."""
        del keys
        kept = self.skip > 0 or not self.norm
        found: Any = self.network.apply({"params": params}, self.prepare(x), kept)
        tokens = self._tokens(params, found)
        patches = tokens[:, self.network.before :]
        cells = patches.reshape(len(patches), *self.grid, -1)
        return Encoded(tokens if self.tokens == "all" else patches, pooled=found.pooled, map=cells)

    def _tokens(self, params: Params, found: VisionOutput) -> Float[Array, "b n d"]:
        if found.hidden is None:
            return found.tokens
        tokens = found.hidden[-1 - self.skip]
        if not self.norm:
            return tokens
        normed: Any = Norm("layer", self.network.eps).apply({"params": params["norm"]}, tokens)
        return normed

    def condition_form(self, part: Part) -> ConditionForm:
        """See `Encoder`."""
        name, width, (rows, columns) = self.image.name, self.network.width, self.grid
        match part:
            case "tokens":
                count = rows * columns + (self.network.before if self.tokens == "all" else 0)
                return ConditionForm(name, "tokens", width, count, null=self.null)
            case "map":
                return ConditionForm(name, "map", width, null=self.null)
            case _ if self.network.pool == "none":
                raise ValueError("ImageEncoder has no vector: its network pools nothing.")
            case _:
                return ConditionForm(name, "vector", self.network.projection or width, null=self.null)

    def finds(self, source: str) -> bool:
        """See `Published`: a folder of transformers with a CLIP, a SigLIP or a DINOv2."""
        return folders.is_family(source, KINDS)

    def read(self, source: str) -> Params:
        """See `Published`."""
        lines, found = _published(Path(source), self.network)
        return table.read(f"The folder {source!r}", found, lines, jax.eval_shape(self.init, seed_key(0)))


def _published(folder: Path, network: Vit) -> tuple[table.Table, dict[str, Any]]:
    """(the lines, the arrays) of a folder, by its family."""
    source, projected = str(folder), network.projection > 0
    if folders.is_family(source, dinov2.KINDS):
        config = folders.read_json(folder / folders.CONFIG)
        found = dinov2.published(folders.tensors(folder, dinov2.wanted))
        return dinov2.table(dinov2.fields(config, f"The folder {source!r}")), found
    found = folders.tensors(folder, lambda name: clip.vision_wanted(name, projected))
    if folders.is_family(source, siglip.VISION_KINDS):
        prefix = clip.prefix_of(found, "vision_model.")
        return siglip.vision_table(prefix, network.pool == "probe", network.channels), found
    return clip.vision_table(clip.prefix_of(found, "vision_model."), projected, network.channels), found


def image_encoder(
    folder: Path,
    image: Image | None = None,
    *,
    projected: bool | None = None,
    dtype: Dtype = "float32",
) -> ImageEncoder:
    """The encoder of a folder of transformers, without its parameters; as a stage its source is that folder.

    image       the images; None: RGB of the network's own size (others are resized all the same)
    projected   whether CLIP's vector is projected; None: as the folder's class is

    Raises UserError for files that are missing or do not fit.
    """
    config, what = folders.read_json(folder / folders.CONFIG), f"{str(folder / folders.CONFIG)!r}"
    kind = config.get("model_type")
    if kind in dinov2.KINDS:
        fields, family = dinov2.fields(config, what), "dinov2"
    elif kind in siglip.VISION_KINDS:
        fields, family = siglip.vision_fields(config, what), "siglip"
    else:
        classes = config.get("architectures") or []
        by_class = any(one in ("CLIPModel", "CLIPVisionModelWithProjection") for one in classes)
        fields, family = clip.vision_fields(config, what, by_class if projected is None else projected), "clip"
    try:
        network = vision_transformer(fields, dtype)
        shown = image or Image(network.size, network.size, network.channels, network.patch)
        return ImageEncoder(network, shown, preprocessing(folder, family, network.size))
    except ValueError as error:
        raise UserError(f"The folder {str(folder)!r} does not describe an image encoder: {error}") from error

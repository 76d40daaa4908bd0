"""What the pipelines of all families share: the model of their parts, and its parameters."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax

from unified_jax.data.tfds import Tfds
from unified_jax.errors import UserError
from unified_jax.interop import tokenizers
from unified_jax.interop.autoencoders import published
from unified_jax.interop.folder import CONFIG, read_json
from unified_jax.modalities.image import Image
from unified_jax.modalities.numbers import Numbers
from unified_jax.models.autoencoding import Autoencoding, network_of
from unified_jax.models.diffusion import Diffusion
from unified_jax.models.latents import Latents
from unified_jax.models.stages import Stage
from unified_jax.models.streams import Condition
from unified_jax.models.text_encoders import TextEncoders
from unified_jax.precision import seed_key
from unified_jax.samplers.plan import SamplingPlan
from unified_jax.training.experiment import Experiment, Previews
from unified_jax.typing import Params

CLIP, PROJECTED, T5 = ("CLIPTextModel",), ("CLIPTextModelWithProjection",), ("T5EncoderModel",)
CLIP_TOKENIZER = ("CLIPTokenizer", "CLIPTokenizerFast")
T5_TOKENIZER = ("T5TokenizerFast", "T5Tokenizer")
KL = ("AutoencoderKL",)
TEXT = "text"
"""Name of the prompt's field, of its stage, and of its tokens."""


class Pipeline(NamedTuple):
    """A pipeline as a model of ours."""

    experiment: Experiment
    params: Params
    """Of the network; its stages are read from their sources."""


class Request(NamedTuple):
    """What is asked of a pipeline's folder."""

    folder: Path
    size: int | None = None
    """Side of an image in pixels; None: as the network was trained."""
    dtype: Any = "float32"
    """Compute dtype of all parts."""


class Coder(NamedTuple):
    """The autoencoder of a pipeline, for images of one size."""

    stage: Stage
    model: Autoencoding

    @property
    def side(self) -> int:
        """Side of an image in pixels."""
        return self.model.shape[0]

    @property
    def latent(self) -> tuple[int, ...]:
        """The shape of a latent."""
        return self.model.latent_shape()


def coder_of(asked: Request, folder: Path, latent: int | None, channels: int, patch: int = 1) -> Coder:
    """The autoencoder in `folder`, whose latents have these channels, and sides that `patch` divides.

    `latent` is the side of the latents where no size is asked for. Raises UserError for latents that do not fit.
    """
    cls, config, said = published.described(folder)
    network = network_of(repr(str(folder)), cls, config, asked.dtype)
    factor = patch * 2 ** (len(config["block_out_channels"]) - 1)
    side = asked.size or factor // patch * int(latent or 64)
    if side % factor:
        raise UserError(f"The autoencoder {str(folder)!r} takes sides that are multiples of {factor}, found {side}.")
    model = Autoencoding(network, (side, side, config["in_channels"]), said.scale, said.shift)
    if model.latent_shape()[-1] != channels:
        raise UserError(
            f"The network of {str(asked.folder)!r} reads {channels} channels, and latents of its autoencoder have "
            f"{model.latent_shape()[-1]}; a network of inpainting is not served."
        )
    return Coder(Stage("vae", model, str(folder)), model)


def check_tokenizers(parts: Mapping[str, Path]) -> None:
    """Raises UserError for a tokenizer's folder without one."""
    for folder in (folder for name, folder in parts.items() if name.startswith("tokenizer")):
        if not any((folder / name).is_file() for name in tokenizers.FILES):
            raise UserError(f"The folder {str(folder)!r} holds no tokenizer: {' or '.join(tokenizers.FILES)}.")


def check_features(asked: Request, what: str, wanted: Any, found: int) -> None:
    """Raises UserError where a network reads another number of features than its text encoders have."""
    if wanted != found:
        raise UserError(
            f"The network of {str(asked.folder)!r} reads {what} of {wanted} features, its text encoder has {found}."
        )


def config_of(folder: Path) -> tuple[dict[str, Any], str]:
    """(the configuration of a part, what it is called in messages)."""
    return read_json(folder / CONFIG), repr(str(folder / CONFIG))


def joined_encoders(
    asked: Request, encoders: tuple[Any, ...], tokens: tuple[tuple[int, ...], ...], pooled: tuple[int, ...],
    width: int = 0, empty_tokens: int = 0, null: Literal["zero", "empty"] = "empty",
) -> TextEncoders:  # fmt: skip
    """Several text encoders as one. Raises UserError for some that do not fit each other."""
    try:
        return TextEncoders(encoders, tokens, pooled, width, empty_tokens, null)
    except ValueError as error:
        raise UserError(f"The text encoders of {str(asked.folder)!r} do not fit each other: {error}") from error


def prompt_conditions(asked: Request, encoders: TextEncoders) -> tuple[Condition, Condition]:
    """The tokens and the vector of a prompt that several encoders read."""
    stage = Stage(TEXT, encoders, str(asked.folder))
    return Condition(encoders.text, encoder=stage), Condition(encoders.text, "pooled", encoder=stage, part="pooled")


def sizes_condition(name: str, *numbers: int | float) -> Condition:
    """Numbers that are told unless others are given."""
    return Condition(Numbers(name, len(numbers), "scalars", tuple(map(float, numbers))))


def assembled(coder: Coder, network: Any, process: Any, conditions: tuple[Condition, ...], patch: int = 1) -> Diffusion:
    """The model of a pipeline's parts."""
    return Diffusion(
        network=network, process=process, modality=Image(*coder.model.shape, patch=1), conditions=conditions,
        latents=Latents(coder.stage, patch=patch),
    )  # fmt: skip


def expected_of(asked: Request, model: Diffusion) -> Params:
    """The shapes of a model's parameters. Raises UserError for parts that do not fit each other."""
    try:
        return jax.eval_shape(model.init, seed_key(0))
    except ValueError as error:
        raise UserError(f"The parts of {str(asked.folder)!r} do not fit each other: {error}") from error


def pipeline_of(model: Diffusion, plan: SamplingPlan, params: Params) -> Pipeline:
    """The pipeline of a model, whose plan is that of its previews."""
    return Pipeline(Experiment(model=model, data=Tfds("unknown"), preview=Previews(plan=plan)), params)

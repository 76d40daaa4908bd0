"""CLIP's or SigLIP's text tower as a stage: prompts in, tokens and a vector out, as diffusion models read them.

    tokens    features after the final norm, or those that enter one of the last blocks (`skip`), normed or not
    pooled    the vector of the text, projected if the network has a projection

    Stable Diffusion 1.x    skip 0, norm                    the last features
    Stable Diffusion 2.x    skip 1, norm                    the ones before, through the final norm
    SDXL, both towers       skip 1, no norm, empty "zero"   the ones before, as they are

Texts are always filled up to the full length, and no mask is given: what fills them is read like any token, by the
tower (after the text) and by who attends to its tokens. A row without tokens (an absent text) is the empty prompt, or
zeros.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from unified_jax.errors import UserError
from unified_jax.interop import clip, folder as folders, siglip, table, tokenizers
from unified_jax.modalities.bpe import load_bpe
from unified_jax.modalities.conditions import ConditionForm
from unified_jax.modalities.text import Text
from unified_jax.models.boxed import Boxed
from unified_jax.models.encoder_networks import Dtype, empty_prompt, text_tower
from unified_jax.models.stages import Encoded, Part
from unified_jax.networks.clip import TextOutput, TextTower
from unified_jax.networks.encoder_blocks import Norm
from unified_jax.precision import seed_key
from unified_jax.typing import Keys, Params

KINDS = (*clip.TEXT_KINDS, *siglip.TEXT_KINDS)


@dataclass(frozen=True)
class ClipEncoder(Boxed):
    """A text tower with its tokenizer."""

    network: TextTower
    """The transformer."""
    text: Text
    """The prompts, with the tokenizer; they are filled up to its length."""
    pad: int
    """Id that fills a prompt up: the end token (OpenAI's CLIP), 0 (OpenCLIP) or 1 (SigLIP)."""
    skip: int = 0
    """Last blocks that tokens do not pass."""
    norm: bool = True
    """Whether tokens pass the final norm."""
    empty: Literal["encode", "zero"] = "encode"
    """A row without tokens: the encoding of the empty prompt, or zeros."""
    null: Literal["learned", "zero", "empty", "none"] = "learned"
    """What replaces an absent condition in a network that reads it; "empty" is the encoding of a row without tokens."""

    def __post_init__(self) -> None:
        if self.text.vocabulary > self.network.vocabulary:
            raise ValueError(
                f"ClipEncoder: the tokenizer has {self.text.vocabulary} ids, the network {self.network.vocabulary}."
            )
        if self.text.length > self.network.length:
            raise ValueError(
                f"ClipEncoder: texts have up to {self.text.length} tokens, the network {self.network.length} positions."
            )
        if not 0 <= self.pad < self.network.vocabulary:
            raise ValueError(f"ClipEncoder.pad is an id of the network, found {self.pad}.")
        if not 0 <= self.skip < self.network.depth:
            raise ValueError(f"ClipEncoder.skip is less than the {self.network.depth} blocks, found {self.skip}.")

    def _boxed(self, key: Array) -> Params:
        variables: Any = self.network.init(key, jnp.zeros((1, 1), jnp.int32))
        return variables["params"]

    def encode(self, params: Params, x: Int[Array, "b m"], keys: Keys | None = None) -> Encoded:
        """The encoding of prompts, as `Text.prepare` gives them: ids, then -1."""
        del keys
        absent = jnp.all(x < 0, axis=1)
        ids = jnp.where(absent[:, None], jnp.asarray(self.empty_prompt()[: x.shape[1]]), x)
        ids = jnp.where(ids < 0, self.pad, ids)
        kept = self.skip > 0 or not self.norm
        found: Any = self.network.apply({"params": params}, ids, None, kept)
        tokens, pooled = self._tokens(params, found), found.pooled
        if self.empty == "zero":
            tokens, pooled = jnp.where(absent[:, None, None], 0.0, tokens), jnp.where(absent[:, None], 0.0, pooled)
        return Encoded(tokens=tokens, pooled=pooled)

    def _tokens(self, params: Params, found: TextOutput) -> Float[Array, "b m d"]:
        if found.hidden is None:
            return found.tokens
        tokens = found.hidden[-1 - self.skip]
        if not self.norm:
            return tokens
        normed: Any = Norm("layer", self.network.eps).apply({"params": params["norm"]}, tokens)
        return normed

    def empty_prompt(self) -> Int[np.ndarray, " m"]:
        """The ids of the empty prompt, filled up."""
        return empty_prompt(self.text, self.pad)

    def condition_form(self, part: Part) -> ConditionForm:
        """See `Encoder`."""
        width = self.network.width
        match part:
            case "tokens":
                return ConditionForm(self.text.name, "tokens", width, self.text.length, null=self.null)
            case "pooled":
                return ConditionForm(self.text.name, "vector", self.network.projection or width, null=self.null)
            case _:
                raise ValueError(f"ClipEncoder has no {part}; its parts are tokens and pooled.")

    def finds(self, source: str) -> bool:
        """See `Published`: a folder of transformers with a CLIP or a SigLIP."""
        return folders.is_family(source, KINDS)

    def read(self, source: str) -> Params:
        """See `Published`."""
        path, projected = Path(source), self.network.projection > 0
        is_siglip = folders.is_family(source, siglip.TEXT_KINDS)
        found = folders.tensors(path, lambda name: clip.text_wanted(name, projected))
        prefix = clip.prefix_of(found, "text_model.")
        lines = siglip.text_table(prefix) if is_siglip else clip.text_table(prefix, projected)
        return table.read(f"The folder {source!r}", found, lines, jax.eval_shape(self.init, seed_key(0)))


def clip_encoder(
    folder: Path,
    tokenizer: Path | None = None,
    *,
    projected: bool | None = None,
    skip: int = 0,
    norm: bool = True,
    empty: Literal["encode", "zero"] = "encode",
    null: Literal["learned", "zero", "empty", "none"] = "learned",
    name: str = "caption",
    dtype: Dtype = "float32",
) -> ClipEncoder:
    """The encoder of a folder of transformers, without its parameters; as a stage its source is that folder.

    tokenizer   the folder of its files; None: the encoder's own, or the one beside it
    projected   whether the vector is projected; None: as the folder's class is

    Raises UserError for files that are missing or do not fit.
    """
    config, what = folders.read_json(folder / folders.CONFIG), f"{str(folder / folders.CONFIG)!r}"
    if config.get("model_type") in siglip.TEXT_KINDS:
        fields, otherwise = siglip.text_fields(config, what), 1
    else:
        classes = config.get("architectures") or []
        by_class = any(one in ("CLIPModel", "CLIPTextModelWithProjection") for one in classes)
        fields = clip.text_fields(config, what, by_class if projected is None else projected)
        otherwise = None
    place = tokenizers.folder_of(folder) if tokenizer is None else tokenizer
    words = tokenizers.tokenizer_json(place)
    try:
        network = text_tower(fields, dtype)
        text = Text(network.length, words, name=name, too_long="crop", empty="keep")
        last = load_bpe(words).after
        pad = tokenizers.pad_id(place, words, otherwise if otherwise is not None else last[-1] if last else 0)
        return ClipEncoder(network, text, pad, skip, norm, empty, null)
    except ValueError as error:
        raise UserError(f"The folder {str(folder)!r} does not describe a text encoder: {error}") from error

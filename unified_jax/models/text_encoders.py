r"""Several text encoders of one prompt as one stage: the text of Stable Diffusion XL and 3, and of Flux.

    tokens    groups one after the other; in a group the encoders' features side by side, zeros after them
    pooled    vectors of some encoders side by side

    SDXL      tokens [clip, clip 2]                  pooled clip 2
    SD3       tokens [clip, clip 2], then T5         pooled clip, clip 2
    Flux      tokens T5                              pooled clip

Every place of a text is a token, whether the text reaches it or not. An encoder of which neither tokens nor a vector
is read would do nothing, and is refused.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from unified_jax.interop.pipelines import is_pipeline
from unified_jax.modalities.conditions import ConditionForm
from unified_jax.modalities.prompts import Prompts, joined
from unified_jax.models.boxed import Boxed
from unified_jax.models.clip_encoder import ClipEncoder
from unified_jax.models.stages import Encoded, Part
from unified_jax.models.t5_encoder import T5TextEncoder
from unified_jax.typing import Keys, Params


def part_name(i: int) -> str:
    """The folder of encoder i in a pipeline of diffusers, and its name among the parameters."""
    return "text_encoder" if i == 0 else f"text_encoder_{i + 1}"


@dataclass(frozen=True)
class TextEncoders(Boxed):
    """Text encoders that read the same prompt."""

    encoders: tuple[ClipEncoder | T5TextEncoder, ...]
    """The encoders, each with its tokenizer; of one field."""
    tokens: tuple[tuple[int, ...], ...]
    """Groups of encoders: in a group features are side by side, groups stand one after the other."""
    pooled: tuple[int, ...]
    """Encoders whose vectors are joined."""
    width: int = 0
    """Features of a token, narrower ones are followed by zeros; 0: those of the widest group."""
    empty_tokens: int = 0
    """Tokens of zeros at the end, in the place of an encoder that is left out (SD3 without T5)."""
    null: Literal["zero", "empty"] = "empty"
    """What an absent text is: zeros, or the encoding of the empty prompt."""

    def __post_init__(self) -> None:
        used = {i for group in self.tokens for i in group} | set(self.pooled)
        if used != set(range(len(self.encoders))) or not self.tokens or not all(self.tokens):
            raise ValueError(f"TextEncoders reads each of its {len(self.encoders)} encoders, found {sorted(used)}.")
        if any(one.text.length != self.encoders[group[0]].text.length for group in self.tokens
               for one in (self.encoders[i] for i in group)):  # fmt: skip
            raise ValueError("TextEncoders joins features of encoders whose texts have one length.")
        if self.width and self.width < self.widest:
            raise ValueError(f"TextEncoders.width must be at least {self.widest}, found {self.width}.")
        if any(getattr(one, "mask", False) for one in self.encoders):
            raise ValueError("TextEncoders joins tokens of which all are there: set mask of a T5TextEncoder to False.")
        if self.empty_tokens < 0:
            raise ValueError(f"TextEncoders.empty_tokens must not be negative, found {self.empty_tokens}.")
        _ = self.text  # refuses several fields

    @property
    def widest(self) -> int:
        """Features of the widest group of tokens."""
        return max(sum(self.encoders[i].network.width for i in group) for group in self.tokens)

    @property
    def text(self) -> Prompts:
        """The prompt, by the tokenizers of all encoders."""
        return joined(tuple(one.text for one in self.encoders))

    def _boxed(self, key: Array) -> Params:
        return {part_name(i): one._boxed(jax.random.fold_in(key, i)) for i, one in enumerate(self.encoders)}

    def encode(self, params: Params, x: Int[Array, "b m"], keys: Keys | None = None) -> Encoded:
        """The encoding of prompts, as `Prompts.prepare` gives them."""
        del keys
        ids = self.text.split(x)
        found = [one.encode(params[part_name(i)], ids[i]) for i, one in enumerate(self.encoders)]
        width = self.width or self.widest
        groups = [_widened([found[i] for i in group], width) for group in self.tokens]
        if self.empty_tokens:
            groups.append(jnp.zeros((len(x), self.empty_tokens, width), groups[0].dtype))
        vectors: list[Any] = [found[i].pooled for i in self.pooled]
        return Encoded(
            tokens=jnp.concatenate(groups, axis=1), pooled=jnp.concatenate(vectors, axis=-1) if vectors else None
        )

    def condition_form(self, part: Part) -> ConditionForm:
        """See `Encoder`."""
        name = self.text.name
        match part:
            case "tokens":
                length = sum(self.encoders[group[0]].text.length for group in self.tokens) + self.empty_tokens
                return ConditionForm(name, "tokens", self.width or self.widest, length, null=self.null)
            case "pooled" if self.pooled:
                features = sum(self.encoders[i].condition_form("pooled").features for i in self.pooled)
                return ConditionForm(name, "vector", features, null=self.null)
            case _:
                raise ValueError(f"TextEncoders has no {part}; its parts are tokens and, of some encoders, pooled.")

    def finds(self, source: str) -> bool:
        """See `Published`: the folder of a pipeline of diffusers."""
        return is_pipeline(source)

    def read(self, source: str) -> Params:
        """See `Published`: each encoder from its folder in the pipeline's."""
        return {part_name(i): one.read(str(Path(source) / part_name(i))) for i, one in enumerate(self.encoders)}


def _widened(found: list[Encoded], width: int) -> Float[Array, "b m f"]:
    """The tokens of several encodings side by side, zeros after them."""
    tokens: list[Any] = [one.tokens for one in found]
    together = jnp.concatenate(tokens, axis=-1)
    return jnp.pad(together, [(0, 0), (0, 0), (0, width - together.shape[-1])])

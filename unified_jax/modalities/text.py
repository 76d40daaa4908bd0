"""Text as token ids: the bytes of UTF-8, or a byte-level BPE that was trained for a data set.

A BPE is carried whole, as the JSON of the `tokenizers` package, so that a run's config needs no other file. Any string
can be written in either, and `decode(encode(s)) == s`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from unified_jax.modalities.files import draw_words


@dataclass(frozen=True)
class Text:
    """Strings of at most `length` tokens."""

    length: int = 96
    """Longest text in tokens; longer ones are refused."""
    bpe: str = ""
    """JSON of a trained BPE (`learn_bpe`); empty: bytes."""
    names: tuple[str, ...] = ()
    """Texts of a class label: where a data set has a number, it is the index of one of these."""
    name: str = "caption"
    """Field of the batch."""

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ValueError(f"Text.length must be at least 1, found {self.length}.")
        if self.bpe:
            _load(self.bpe)

    @property
    def vocabulary(self) -> int:
        """Number of token ids."""
        return _load(self.bpe).get_vocab_size() if self.bpe else 256

    @property
    def suffix(self) -> str:
        """Plain text."""
        return ".txt"

    def encode(self, text: str) -> Int[np.ndarray, " k"]:
        """Token ids."""
        if not self.bpe:
            return np.frombuffer(text.encode(), np.uint8).astype(np.int32)
        return np.asarray(_load(self.bpe).encode(text).ids, np.int32)

    def decode(self, ids: Int[np.ndarray, " k"]) -> str:
        """The text; ids that are none and broken UTF-8 become the replacement character."""
        known = [int(i) for i in ids if 0 <= i < self.vocabulary]
        return _load(self.bpe).decode(known) if self.bpe else bytes(known).decode(errors="replace")

    def blank(self) -> Int[np.ndarray, " length"]:
        """As `Continuous.blank`."""
        return np.full(self.length, -1, np.int32)

    def prepare(self, raw: Any) -> Int[np.ndarray, " length"]:
        """A string (UTF-8 bytes, an index into `names`) as ids, filled up with -1."""
        if isinstance(raw, np.ndarray) and raw.shape == ():
            raw = raw.item()
        if self.names and isinstance(raw, int | np.integer):
            if not 0 <= raw < len(self.names):
                raise ValueError(f"expected an index in 0 .. {len(self.names) - 1}, found {raw}")
            raw = self.names[raw]
        if isinstance(raw, bytes):
            try:
                raw = raw.decode()
            except UnicodeDecodeError as error:
                raise ValueError(f"expected UTF-8, found bytes that are not ({error.reason})") from None
        if not isinstance(raw, str):
            raise ValueError(f"expected a text, found {type(raw).__name__}")
        ids = self.encode(raw)
        if not raw.strip():
            raise ValueError("expected a text, found an empty one")
        if len(ids) > self.length:
            raise ValueError(f"expected at most {self.length} tokens, found {len(ids)} in {raw[:40]!r}")
        return np.pad(ids, (0, self.length - len(ids)), constant_values=-1)

    def from_model(self, ids: Any) -> np.ndarray:
        """Token ids `[b, length]` as an array of strings."""
        return np.asarray([self.decode(row) for row in np.asarray(ids)], np.str_)

    def load(self, path: Path) -> str:
        """A text file without the blanks around it."""
        try:
            with path.open("rb") as file:
                return file.read(1 << 20).decode().strip()
        except FileNotFoundError:
            raise ValueError("no such file") from None
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"it is no text that can be read ({error})") from None

    def save(self, path: Path, example: str) -> None:
        """One text."""
        path.write_text(example + "\n")

    def picture(self, example: str) -> Any:
        """The text, wrapped, in black on white."""
        return draw_words(example)


@lru_cache(maxsize=8)
def _load(bpe: str) -> Any:
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_str(bpe)
    except Exception as error:  # the package raises plain Exception
        raise ValueError(f"Text.bpe is not the JSON of a tokenizer: {error}.") from None


def learn_bpe(texts: Iterable[str], vocabulary: int) -> str:
    """The JSON of a byte-level BPE of this size (at least 256), trained on texts. The same texts give the same one."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    if vocabulary < 256:
        raise ValueError(f"A byte-level BPE has at least 256 tokens, asked for {vocabulary}.")
    tokenizer: Any = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer.to_str()

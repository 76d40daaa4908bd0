"""Text as token ids: UTF-8 bytes, a byte-level BPE trained on a data set, or the WordPiece of a text encoder.

A tokenizer is stored in the configuration, as the JSON of the `tokenizers` package, so that a run needs no other file.
All encode any string. Of bytes and BPE `decode(encode(s)) == s`; a WordPiece loses case, blanks and unknown words.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Int

from unified_jax.modalities.bpe import load_bpe
from unified_jax.modalities.files import draw_words
from unified_jax.modalities.reading import read_text


@dataclass(frozen=True)
class Text:
    """Strings of at most `length` tokens."""

    length: int = 96
    """Maximum length in tokens."""
    bpe: str = ""
    """JSON of a trained BPE (`learn_bpe`) or of a WordPiece (`bpe.wordpiece_json`); empty: bytes."""
    names: tuple[str, ...] = ()
    """Texts of a class label: a number in the data set is the index of one of these."""
    name: str = "caption"
    """Field of the batch."""
    too_long: Literal["refuse", "crop", "skip"] = "refuse"
    """Longer texts: refuse them, crop them to `length` tokens, or skip their records."""
    empty: Literal["refuse", "skip", "keep"] = "refuse"
    """Blank texts: refuse them, skip their records, or keep them (the empty prompt of a text encoder)."""
    listed: ClassVar[bool] = False
    """A comma in a flag is a part of the text."""

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ValueError(f"Text.length must be at least 1, found {self.length}.")
        around = len(load_bpe(self.bpe).encode("")) if self.bpe else 0
        if self.length <= around:
            raise ValueError(f"Text.length must be above the {around} tokens around each text, found {self.length}.")

    @property
    def vocabulary(self) -> int:
        """Number of token ids."""
        return load_bpe(self.bpe).size if self.bpe else 256

    @property
    def suffix(self) -> str:
        """Plain text."""
        return ".txt"

    def encode(self, text: str) -> Int[np.ndarray, " k"]:
        """Token ids. Raises UnicodeEncodeError for half a character."""
        units = text.encode()
        if not self.bpe:
            return np.frombuffer(units, np.uint8).astype(np.int32)
        return np.asarray(load_bpe(self.bpe).encode(text), np.int32)

    def decode(self, ids: Int[np.ndarray, " k"]) -> str:
        """The text; unknown ids and broken UTF-8 become the replacement character."""
        known = [int(i) for i in ids if 0 <= i < self.vocabulary]
        return load_bpe(self.bpe).decode(known) if self.bpe else bytes(known).decode(errors="replace")

    def blank(self) -> Int[np.ndarray, " length"]:
        """See `Continuous.blank`."""
        return np.full(self.length, -1, np.int32)

    def prepare(self, raw: Any) -> Int[np.ndarray, " length"]:
        """A string (UTF-8 bytes, an index into `names`) as ids, padded with -1.

        Also refuses texts that `skip` leaves out of a data set, since a given text cannot be skipped.

        >>> Text(length=5).prepare("abc").tolist()
        [97, 98, 99, -1, -1]
        """
        text, ids = self._read(raw)
        if fault := self._fault(text, ids):
            raise ValueError(fault)
        return np.pad(ids, (0, self.length - len(ids)), constant_values=-1)

    def left_out(self, raw: Any) -> bool:
        """Whether a record with this text is left out of a data set. Raises ValueError where `prepare` would."""
        text, ids = self._read(raw)
        fault = self._fault(text, ids)
        if fault and (self.too_long if len(ids) > self.length else self.empty) != "skip":
            raise ValueError(fault)
        return bool(fault)

    def _fault(self, text: str, ids: Int[np.ndarray, " k"]) -> str:
        if len(ids) > self.length:
            hint = "; raise length, or set too_long to crop or skip" if self.too_long == "refuse" else ""
            return f"expected at most {self.length} tokens, found {len(ids)} in {text[:40]!r}{hint}"
        return "" if text.strip() or self.empty == "keep" else "expected a text, found an empty one"

    def _read(self, raw: Any) -> tuple[str, Int[np.ndarray, " k"]]:
        """A raw text and its ids, cropped with `too_long="crop"`."""
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
                raise ValueError(
                    f"expected UTF-8, found bytes that are not ({error.reason} at byte {error.start})"
                ) from None
        if not isinstance(raw, str):
            raise ValueError(f"expected a text, found {type(raw).__name__}")
        try:
            ids = self.encode(raw)
        except UnicodeEncodeError as error:
            raise ValueError(f"expected a text, found half a character at {error.start} of {raw[:40]!r}") from None
        if self.too_long == "crop" and len(ids) > self.length:
            ids = self._cropped(raw, ids)
            raw = self.decode(ids)
        return raw, ids

    def _cropped(self, text: str, ids: Int[np.ndarray, " k"]) -> Int[np.ndarray, " length"]:
        """The first tokens, at most `length`; a character of several tokens is kept or dropped as a unit.

        What a WordPiece puts after a text stays last.
        """
        if self.bpe and (last := len(load_bpe(self.bpe).after)):
            return np.concatenate([ids[: self.length - last], ids[-last:]])
        for stop in range(self.length, max(self.length - 5, -1), -1):
            if text.startswith(self.decode(ids[:stop])):
                return ids[:stop]
        return ids[: self.length]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the token ids of one text."""
        return (self.length,)

    def to_model(self, ids: Any) -> Any:
        """Token ids as they are: a text is denoised in the latent space of an autoencoder, which reads them."""
        return ids

    def from_model(self, ids: Any) -> np.ndarray:
        """Token ids `[b, length]` as an array of strings."""
        return np.asarray([self.decode(row) for row in np.asarray(ids)], np.str_)

    def to_prepared(self, ids: Any) -> Any:
        """Token ids as they are, for the links of a chain."""
        return ids

    def parse(self, text: str) -> str:
        """A text of the command line is itself."""
        return text

    def load(self, path: Path) -> str:
        """A text file of any system (`read_text`) without the blanks around it; its lines end with a line feed."""
        return read_text(path).strip()

    def save(self, path: Path, example: str) -> None:
        """One text."""
        path.write_text(example + "\n", encoding="utf-8", newline="\n")

    def picture(self, example: str) -> Any:
        """The text, wrapped, in black on white."""
        return draw_words(example)


def learn_bpe(texts: Iterable[str], vocabulary: int) -> str:
    """The JSON of a byte-level BPE of this size (at least 256), trained on texts. Deterministic."""
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

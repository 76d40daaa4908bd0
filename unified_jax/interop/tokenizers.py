"""The tokenizer of a published text encoder, from the files that its users have.

    tokenizer.json                      any family
    vocab.json, merges.txt              CLIP's
    spiece.model                        not read: a sentence says how to make tokenizer.json of it
    tokenizer_config.json, special_tokens_map.json      the token that fills a text up

A folder of diffusers keeps them beside the encoder: text_encoder and tokenizer, text_encoder_2 and tokenizer_2.
"""

import json
from pathlib import Path
from typing import Any

from unified_jax.errors import UserError
from unified_jax.interop.folder import read_json
from unified_jax.modalities.clip_bpe import END, clip_bpe_json

FILES = ("tokenizer.json", "vocab.json", "spiece.model", "spm.model")
"""One of them is in a folder with a tokenizer."""


def folder_of(encoder: Path) -> Path:
    """The folder with an encoder's tokenizer: its own, or the one beside it. Raises UserError if there is none."""
    beside = encoder.parent / encoder.name.replace("text_encoder", "tokenizer")
    for folder in (encoder, encoder / "tokenizer", beside):
        if any((folder / name).is_file() for name in FILES):
            return folder
    raise UserError(
        f"The folder {str(encoder)!r} holds no tokenizer (tokenizer.json, or vocab.json and merges.txt), nor is one in "
        f"{str(beside)!r}; name its folder."
    )


def tokenizer_json(folder: Path) -> str:
    """The JSON of the folder's tokenizer. Raises UserError for files that are missing, damaged or not read here."""
    path = folder / "tokenizer.json"
    if path.is_file():
        found = read_json(path)  # without the length that texts were once filled to
        return json.dumps(found | {"truncation": None, "padding": None}, ensure_ascii=False, separators=(",", ":"))
    path = folder / "vocab.json"
    if not path.is_file():
        raise UserError(
            f"The folder {str(folder)!r} holds its tokenizer as a sentencepiece model, which is not read here: write "
            "tokenizer.json beside it, by AutoTokenizer.from_pretrained(folder).save_pretrained(folder) where "
            "transformers and sentencepiece are installed."
        )
    merges = folder / "merges.txt"
    if not merges.is_file():
        raise UserError(f"The folder {str(folder)!r} holds vocab.json but no merges.txt.")
    try:
        lines = merges.read_text(encoding="utf-8").split("\n")
        return clip_bpe_json(read_json(path), lines, _pad(folder)[0] or END)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"The tokenizer of {str(folder)!r} cannot be read: {error}") from error


def lowered(tokenizer: str) -> str:
    """The JSON of a tokenizer whose texts lose upper case and the blanks around them first (PixArt's captions)."""
    content = json.loads(tokenizer)
    first = [{"type": "Lowercase"}, {"type": "Strip", "strip_left": True, "strip_right": True}]
    own = [content["normalizer"]] if content.get("normalizer") else []
    changed = content | {"normalizer": {"type": "Sequence", "normalizers": [*first, *own]}}
    return json.dumps(changed, ensure_ascii=False, separators=(",", ":"))


def pad_id(folder: Path, tokenizer: str, otherwise: int) -> int:
    """The id of the token that fills a text up; `otherwise` where no file says it.

    Raises UserError for a token that the tokenizer lacks.
    """
    token, name = _pad(folder)
    if not token:
        return otherwise
    found = _ids(tokenizer).get(token)
    if found is None:
        raise UserError(f"{str(folder / name)!r} fills texts up with {token!r}, which the tokenizer lacks.")
    return found


def _pad(folder: Path) -> tuple[str, str]:
    """(the token that fills a text up, the file that says so), or empty.

    The map holds before a tokenizer_config.json without `added_tokens_decoder`: Stable Diffusion 2's "!" stands there.
    """
    config, special = "tokenizer_config.json", "special_tokens_map.json"
    newer = "added_tokens_decoder" in read_json(folder / config, optional=True)
    for name in (config, special) if newer else (special, config):
        said: Any = read_json(folder / name, optional=True).get("pad_token")
        token = said.get("content") if isinstance(said, dict) else said
        if isinstance(token, str):
            return token, name
    return "", ""


def _ids(tokenizer: str) -> dict[str, int]:
    from tokenizers import Tokenizer

    try:
        loaded: Any = Tokenizer.from_str(tokenizer)
    except Exception as error:  # the package raises plain Exception
        raise UserError(f"The tokenizer's JSON cannot be read: {error}.") from error
    return loaded.get_vocab(with_added_tokens=True)

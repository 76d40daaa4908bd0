"""uj_emoji: the emoji of Unicode 16 as Google's Noto and Twitter's Twemoji draw them, 64 x 64 on white.

The pictures are cut from the two sheets of iamcal/emoji-data (those without other vendors' pictures); names and groups
come from unicode-emoji-json, keywords from emojilib. Emoji without a name there (the five skin tones) are left out.
The captions of the test set are a tenth of all captions, drawn by numpy's RandomState(0) from their sorted list: both
drawings of an emoji are in the same split, and no caption of the test set occurs in the training set.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from unified_jax.data.public.base import Original, PublicSet, Records, png, unreadable

GROUPS = (
    *("Activities", "Animals & Nature", "Flags", "Food & Drink", "Objects"),
    *("People & Body", "Smileys & Emotion", "Symbols", "Travel & Places"),
)
SIDE, BORDER = 64, 1
"""Pixels of a picture, and of the transparent border around it."""
KEYWORDS = 12
"""Most keywords of a record."""
STYLES = (("noto", "google"), ("twemoji", "twitter"))
"""Style of the record, and vendor in the originals."""
DATA, NAMES, WORDS = "emoji.json", "data-by-emoji.json", "emoji-en-US.json"
PICTURES = "https://raw.githubusercontent.com/iamcal/emoji-data/v16.0.0"


def sheet(vendor: str) -> str:
    """File name of a vendor's sheet."""
    return f"sheet_{vendor}_64_clean.png"


def features() -> dict[str, Any]:
    """A picture with its caption, keywords, group and style."""
    import tensorflow_datasets as tfds

    text = {name: tfds.features.Text() for name in ("caption", "keywords", "style")}
    return text | {
        "image": tfds.features.Image(shape=(SIDE, SIDE, 3)),
        "label": tfds.features.ClassLabel(names=list(GROUPS)),
    }


def splits(originals: Mapping[str, Path]) -> dict[str, Callable[[], Records]]:
    """Train and test by caption."""
    drawn = _emoji(originals)
    captions = sorted({record["caption"] for _, record in drawn})
    order = np.random.RandomState(0).permutation(len(captions))
    held_out = {captions[i] for i in order[: len(captions) // 10]}

    def records(test: bool) -> Records:
        for style, vendor in STYLES:
            pictures = _open_sheet(originals[sheet(vendor)])
            for emoji, record in drawn:
                if emoji.get(f"has_img_{vendor}") and (record["caption"] in held_out) == test:
                    picture = _cut(pictures, emoji, originals[sheet(vendor)])
                    yield f"{style}-{emoji['unified']}", record | {"style": style, "image": png(picture)}

    return {"train": lambda: records(False), "test": lambda: records(True)}


def _emoji(originals: Mapping[str, Path]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Emoji that have a name: the entry of emoji.json, and the record without picture and style."""
    names, words = _read(originals[NAMES], dict), _read(originals[WORDS], dict)
    found = []
    try:
        for emoji in _read(originals[DATA], list):
            letters = "".join(chr(int(code, 16)) for code in emoji["unified"].split("-"))
            if letters not in names:
                continue
            keywords = [word.replace("_", " ") for word in words.get(letters, ())[:KEYWORDS]]
            record = {"caption": names[letters]["name"].replace(":", ""), "keywords": ", ".join(keywords)}
            found.append((emoji, record | {"label": names[letters]["group"]}))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise unreadable(originals[DATA], f"an entry is not as expected ({error!r})") from None
    if unknown := sorted({record["label"] for _, record in found} - set(GROUPS)):
        raise unreadable(originals[NAMES], f"it has unknown groups: {', '.join(unknown)}")
    return found


def _read(path: Path, kind: type) -> Any:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from None
    if not isinstance(found, kind):
        raise unreadable(path, f"expected a JSON {kind.__name__}, found a {type(found).__name__}")
    return found


def _open_sheet(path: Path) -> Any:
    from PIL import Image as Pillow

    try:
        return Pillow.open(path).convert("RGBA")
    except Exception as error:  # decoders raise any exception
        raise unreadable(path, error) from None


def _cut(pictures: Any, emoji: dict[str, Any], path: Path) -> np.ndarray:
    """One picture of a sheet, on white."""
    from PIL import Image as Pillow

    left, top = (emoji[at] * (SIDE + 2 * BORDER) + BORDER for at in ("sheet_x", "sheet_y"))
    if left + SIDE > pictures.width or top + SIDE > pictures.height:
        raise unreadable(path, f"{emoji['unified']} lies outside of its {pictures.width} x {pictures.height} pixels")
    ground = Pillow.new("RGBA", (SIDE, SIDE), "white")
    ground.alpha_composite(pictures.crop((left, top, left + SIDE, top + SIDE)))
    return np.asarray(ground.convert("RGB"))


EMOJI = PublicSet(
    name="uj_emoji",
    short="emoji",
    version="1.0.0",
    summary="drawings of emoji, 64 x 64, with caption, keywords, 9 groups and 2 styles",
    records="3,432 train, 380 test",
    licence="Apache-2.0 (Noto), CC BY 4.0 (Twemoji), MIT (names and keywords)",
    licence_address="https://github.com/iamcal/emoji-data/blob/v16.0.0/README.md#image-sources",
    home="https://github.com/iamcal/emoji-data",
    originals=(
        Original(
            DATA, f"{PICTURES}/{DATA}", "1d602e65be88772bf8cc368ce16b855d719eeddbafe128d471b80203f494d29f", 1_313_457
        ),
        Original(
            sheet("google"),
            f"{PICTURES}/sheets-clean/{sheet('google')}",
            "795a0c598d162c9a4aae23f2188c607b8c9bc1912cb7d84382459f8de91a3ae1",
            13_842_666,
        ),
        Original(
            sheet("twitter"),
            f"{PICTURES}/sheets-clean/{sheet('twitter')}",
            "daa7711b29897de6bd811a4cfeae911d8d8baa7f7e25c97d9b64354ae425ff5c",
            11_283_284,
        ),
        Original(
            NAMES,
            f"https://raw.githubusercontent.com/muan/unicode-emoji-json/v0.8.0/{NAMES}",
            "482fd00f3c24687e428dcda89c619bdf7dda25e51cdf7a064c75862671c4ba31",
            385_566,
        ),
        Original(
            WORDS,
            f"https://raw.githubusercontent.com/muan/emojilib/v4.0.2/dist/{WORDS}",
            "3e3ac8b3a3a12e414857efbcd06c1c74fb457848e565ecde3372cff826bfc032",
            264_089,
        ),
    ),
    features=features,
    splits=splits,
    supervised=("image", "label"),
)

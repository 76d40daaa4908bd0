"""Which files hold which kind of data, and which names mean which split."""

import re

from unified_jax.modalities.meshes import FORMATS as MESHES

PICTURES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".ppm", ".pgm"),
    *(".pbm", ".pnm", ".jp2", ".avif", ".tga", ".ico", ".pcx", ".qoi"),
)
SOUNDS = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aif", ".aiff", ".au", ".caf")
FILMS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ogv", ".flv", ".gif")
KINDS: dict[str, tuple[str, ...]] = {"image": PICTURES, "video": FILMS, "audio": SOUNDS, "points": MESHES}
"""Suffixes of each kind; a GIF is an image and a video."""
MEDIA = tuple(dict.fromkeys(suffix for suffixes in KINDS.values() for suffix in suffixes))
"""Suffixes of all kinds."""
TEXTS = (".txt", ".caption")
"""Suffixes of a caption beside a file."""

SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
    "held_out": ("held_out", "heldout"),
}
"""Names of splits, in folders and in names of files, as public sets have them."""
_SPLIT_OF = {word: split for split, words in SPLITS.items() for word in words}
_WORD = re.compile(rf"(?:^|[-._ /\d])({'|'.join(sorted(_SPLIT_OF, key=len, reverse=True))})(?=[-._ /\d]|$)")


def split_of(word: str) -> str | None:
    """The split that a folder's name means.

    >>> split_of("Training"), split_of("cats")
    ('train', None)
    """
    return _SPLIT_OF.get(word.lower())


def split_in(path: str) -> str | None:
    """The split that a path names in one of its words.

    >>> split_in("data/train-00000-of-00002.parquet"), split_in("contest.csv")
    ('train', None)
    """
    found = _WORD.search(path.lower())
    return _SPLIT_OF[found[1]] if found else None

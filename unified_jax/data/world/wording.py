"""Captions in free words: what a person may type, and `read_caption` understands, beyond the grammar of `caption.py`.

    object   = the values that are named, in any order, with synonyms, with or without articles, commas or a noun
    caption  = [opening] object  |  [opening] object "and" object  |  object ";" object
    strange  = a caption with words that mean nothing to the world, which `read_caption` refuses

An encoder that is trained on the grammar's captions alone misreads "huge disc, upper right"; one that has seen these
does not, and learns to pass over what it does not know.
"""

from dataclasses import dataclass

import numpy as np

from unified_jax.data.world.caption import MIDDLES, ROWS, WORDS
from unified_jax.data.world.scene import MOTIONS, PLACES

_MEDIUM = ("medium-sized", "medium size")
_NOUNS = ("object", "shape", "thing", "one")
_OPENINGS = ("", "", "", "", "there is ", "this is ", "we see ", "a photo of ", "an image of ", "picture: ", "it is ")
_STILL = ("still", "at rest", "stationary", "motionless", "standing still", "resting", "not moving", "that stays still")
_VERBS = ("moving", "going", "heading", "drifting", "that moves", "which goes", "that is moving", "it moves")
_TURNS = ("{}", "{}", "{}wards", "{}ward", "towards the {}", "to the {}")
"""Of up and down the first four."""
_WHERE = ("{}", "{}", "at the {}", "in the {}", "in the {} corner", "on the {} side", "at {}", "in the {} part")
_JOINS = (" and ", " and ", "; ", ", and ", " and there is ")
_STRANGE = ("nice", "very", "beautiful", "please", "draw", "shiny", "photorealistic", "like", "from", "new", "my", "so")
_LETTERS = ("bcdfghklmnprstvwz", "aeiou")


@dataclass(frozen=True)
class Wording:
    """How captions of the world are worded."""

    free: float = 0.0
    """Share of captions in free words, in [0, 1]; the others are the grammar's."""
    strange: float = 0.0
    """Share of the free ones that hold words without a meaning; `read_caption` refuses them."""

    def __post_init__(self) -> None:
        for name in ("free", "strange"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"Wording.{name} must lie in [0, 1], found {getattr(self, name)}.")

    def of(self, caption: str, said: tuple[dict[str, int], ...], rng: np.random.Generator) -> str:
        """The caption, or one in free words that says the same of each object: attribute -> value."""
        if rng.random() >= self.free:
            return caption
        text = free_caption(said, rng)
        return with_strangers(text, rng) if rng.random() < self.strange else text


def free_caption(said: tuple[dict[str, int], ...], rng: np.random.Generator) -> str:
    """A caption in free words of one object or two, in this order; `read_caption` of it is `said`.

    >>> free_caption(({"shape": 4, "colour": 0},), np.random.default_rng(3))
    'this is one red star.'
    """
    parts = [_object(one, rng) for one in said]
    opening = _pick(_OPENINGS, rng) if rng.random() < 0.5 else ""
    text = opening + _pick(_JOINS, rng).join(parts)
    if rng.random() < 0.1:
        text = text.upper() if rng.random() < 0.3 else text.capitalize()
    return text + ("." if rng.random() < 0.2 else "")


def with_strangers(text: str, rng: np.random.Generator) -> str:
    """The text with one to three words at its ends that mean nothing, real ones or invented."""
    words = text.split(" ")
    for _ in range(int(rng.integers(1, 4))):
        word = _pick(_STRANGE, rng)
        if rng.random() < 0.5:
            word = "".join(_pick(tuple(_LETTERS[i % 2]), rng) for i in range(int(rng.integers(3, 9))))
        words.insert(0 if rng.random() < 0.5 else len(words), word)
    return " ".join(words)


def _object(named: dict[str, int], rng: np.random.Generator) -> str:
    words: dict[str, str] = {}
    if "size" in named:
        sizes = _words(WORDS["size"], named["size"])
        words["size"] = _pick((*sizes, *_MEDIUM) if sizes == ("medium",) else sizes, rng)
    if "colour" in named:
        colour, *others = _words(WORDS["colour"], named["colour"])
        words["colour"] = _pick((colour, colour, *others, f"{colour}-coloured"), rng)
    if "shape" in named:
        words["shape"] = _pick(_words(WORDS["shape"], named["shape"]), rng)
    elif rng.random() < 0.6:
        words["shape"] = _pick(_NOUNS, rng)
    if "place" in named:
        words["place"] = _place(PLACES[named["place"]], rng)
    if "motion" in named:
        words["motion"] = _motion(named["motion"], rng)
    order = ["size", "colour", "shape", "place", "motion"]
    if rng.random() < 0.4:
        rng.shuffle(order)
    article = _pick(("a ", "the ", "one ", "", ""), rng)
    return article + _pick((" ", " ", " ", ", "), rng).join(words[name] for name in order if name in words)


def _place(name: str, rng: np.random.Generator) -> str:
    if name == "centre":
        return _pick(_WHERE[:4], rng).format(_pick(MIDDLES, rng))
    words = [_pick(_words(ROWS, ROWS[word]) if word in ROWS else (word,), rng) for word in name.split()]
    if len(words) == 1 and rng.random() < 0.2:
        words.insert(int(rng.random() < 0.5), _pick(MIDDLES, rng))
    return _pick(_WHERE, rng).format(_pick((" ", " ", "-"), rng).join(words))


def _motion(motion: int, rng: np.random.Generator) -> str:
    if motion == 0:
        return _pick(_STILL, rng)
    name = MOTIONS[motion]
    turns = _TURNS if name in ("left", "right") else _TURNS[:4]
    return f"{_pick(_VERBS, rng)} {_pick(turns, rng).format(name)}"


def _words(table: dict[str, int], value: int) -> tuple[str, ...]:
    """All words for a value, its name first."""
    return tuple(word for word, meant in table.items() if meant == value)


def _pick(choices: tuple[str, ...], rng: np.random.Generator) -> str:
    return choices[int(rng.random() * len(choices))]

"""Captions of scenes: a small grammar with paraphrases, and its exact inverse.

    caption  = [opening] object  |  [opening] object "and" object  |  "two objects:" object "and" object
    object   = article [size] [colour] noun [place] [motion]  |  article [size] [colour] noun [motion] [place]
    noun     = the shape; "object", "shape" or "thing" where the shape is not named
    place    = "at the top left", "in the top left corner", "on the left", "in the centre", ...
    motion   = "moving right", "that moves up", "drifting to the left", "staying still", ...

`read_caption` returns, for each object in the order of mention, exactly the named attributes. It parses word by
word, not by the grammar, and so also accepts free phrasing. A word names a value, or is a part of a place ("top",
"left"), or announces a direction ("moving"), or has no meaning ("the", "in"). "left" and "right" belong to
the motion directly after a verb of motion (except "to", "the", "towards"), else to the place; "up" and "down" always
belong to the motion. "and" or a semicolon separates two objects; case, other punctuation and spaces are ignored.
"""

import re

import numpy as np

from unified_jax.data.world.scene import ATTRIBUTES, COLOURS, MOTIONS, PLACES, SHAPES, SIZES, Object, Scene

NAMES = tuple(name for name, _ in ATTRIBUTES)

# What is written.
_OPENINGS = ("", "", "", "there is ", "here is ", "this is ", "we see ", "a picture of ", "an image of ")
_PAIR_OPENINGS = (*_OPENINGS, "two objects: ", "two objects: ", "two shapes: ")
_NOUNS = ("object", "shape", "thing")
_STILL = ("staying still", "standing still", "that stays still", "at rest", "not moving")
_GOING = ("moving ", "going ", "heading ", "that moves ", "drifting to the ")
_RISING = ("moving ", "going ", "heading ", "that moves ", "drifting ")

# What is read, and written in free words (`wording`).
WORDS: dict[str, dict[str, int]] = {
    "size": {name: n for n, name in enumerate(SIZES)} | {"tiny": 0, "little": 0, "big": 2, "huge": 2},
    "colour": {name: n for n, name in enumerate(COLOURS)} | {"violet": 6},
    "shape": {name: n for n, name in enumerate(SHAPES)} | {"disc": 0, "disk": 0, "rhombus": 3, "annulus": 5},
}
_STILL_WORDS = ("still", "rest", "resting", "stationary", "motionless", "unmoving")
_VERBS = ("moving", "moves", "going", "goes", "drifting", "drifts", "heading", "heads")
_TURNS = {f"{name}{end}": n for n, name in enumerate(MOTIONS) if n for end in ("", "ward", "wards")}
ROWS = {"top": 0, "upper": 0, "bottom": 2, "lower": 2}
_COLUMNS = {"left": 0, "right": 2}
MIDDLES = ("centre", "center", "middle")
_TOWARDS = ("to", "the", "toward", "towards")
_GENERIC = ("object", "shape", "thing")
_EMPTY = frozenset(
    [
        "a",
        "an",
        "the",
        "one",
        "of",
        "in",
        "on",
        "at",
        "to",
        "is",
        "are",
        "that",
        "which",
        "with",
        "there",
        "here",
        "this",
        "it",
        "we",
        "see",
        "and",
        "picture",
        "image",
        "photo",
        "photograph",
        "side",
        "corner",
        "part",
        "half",
        "edge",
        "colour",
        "color",
        "coloured",
        "colored",
        "size",
        "sized",
        "staying",
        "stays",
        "standing",
        "stands",
    ]
)


def write_caption(
    scene: Scene, rng_or_seed: np.random.Generator | int, attributes: tuple[str, ...] | None = None
) -> str:
    """A caption of the scene.

    It names the given `attributes` of every object (a subset of `NAMES`, in any order); by default all of them in half
    of the captions, otherwise a random subset for each object. ValueError for an unknown attribute.
    """
    unknown = sorted(set(attributes or ()) - set(NAMES))
    if unknown:
        raise ValueError(f"A caption cannot name {unknown[0]!r}; expected some of {', '.join(NAMES)}.")
    rng = np.random.default_rng(rng_or_seed) if isinstance(rng_or_seed, int) else rng_or_seed
    draws = rng.random(3 + 10 * len(scene.objects)).tolist()
    every = attributes is None and draws[0] < 0.5
    parts = []
    for n, object in enumerate(scene.objects):
        own = draws[3 + 10 * n : 13 + 10 * n]
        if attributes is not None or every:
            named = NAMES if attributes is None else attributes
        else:
            # A caption that names nothing conditions on nothing, so at least one attribute is named.
            named = tuple(name for name, u in zip(NAMES, own, strict=False) if u < 0.6) or (NAMES[int(own[5] * 5)],)
        parts.append(_phrase(object, named, own[6:]))
    if len(parts) == 1:
        return _pick(_OPENINGS, draws[1]) + parts[0]
    if draws[2] < 0.5:
        parts.reverse()
    return _pick(_PAIR_OPENINGS, draws[1]) + " and ".join(parts)


def _pick(choices: tuple[str, ...], u: float) -> str:
    return choices[int(u * len(choices))]


def _phrase(object: Object, named: tuple[str, ...], draws: list[float]) -> str:
    """One object, phrased by four uniform numbers."""
    words = [SIZES[object.size]] if "size" in named else []
    if "colour" in named:
        words.append(COLOURS[object.colour])
    words.append(SHAPES[object.shape] if "shape" in named else _pick(_NOUNS, draws[0]))
    words.insert(0, "an" if words[0][0] in "aeiou" else "a")
    where = [_place(object.place, draws[1])] if "place" in named else []
    motion = [_motion(object.motion, draws[2])] if "motion" in named else []
    return " ".join(words + (where + motion if draws[3] < 0.7 else motion + where))


def _place(place: int, u: float) -> str:
    name = PLACES[place]
    if name == "centre":
        return _pick(("in the centre", "at the centre", "in the middle"), u)
    if name in _COLUMNS:
        return _pick((f"on the {name}", f"at the {name}", f"on the {name} side"), u)
    if name in ROWS:
        return f"at the {name}"
    return _pick((f"at the {name}", f"in the {name}", f"in the {name} corner"), u)


def _motion(motion: int, u: float) -> str:
    if motion == 0:
        return _pick(_STILL, u)
    name = MOTIONS[motion]
    return _pick(_GOING if name in _COLUMNS else _RISING, u) + name


def read_caption(text: str) -> tuple[dict[str, int], ...]:
    """The attributes that a caption names, for one object or two in the order of mention: name -> index of the value.

    ValueError for an unknown word, for two values of one attribute, for no object or for more than two.

    >>> read_caption("a small red star at the top left")
    ({'size': 0, 'colour': 0, 'shape': 4, 'place': 0},)
    """
    plain = re.sub(r"[,.:!?\"'()\-_\s]+", " ", text.lower().replace(";", " and ")).strip()
    plain = plain.replace("not moving", "still")
    plain, announced = re.subn(r"^(there are )?(the )?two (objects|shapes|things)\b", "", plain)
    parts = [part.split() for part in re.split(r"\band\b", plain)]
    if not any(parts):
        raise ValueError(
            "The caption describes no object; expected, for example, 'a small red circle at the top left'."
        )
    if len(parts) > 2 or (announced and len(parts) != 2):
        expected = "two objects are announced" if announced else "a scene holds one object or two"
        raise ValueError(f"The caption describes {len(parts)} object(s), but {expected}: {text!r}.")
    if not all(set(part) - _EMPTY for part in parts):
        raise ValueError(f"The caption has nothing to say of one of its objects: {text!r}.")
    return tuple(_read_object(part) for part in parts)


def caption_or_nothing(text: str) -> tuple[dict[str, int], ...]:
    """As `read_caption`; () for a text that it refuses."""
    try:
        return read_caption(text)
    except ValueError:
        return ()


def _read_object(words: list[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    rows: set[int] = set()
    columns: set[int] = set()
    middle = expecting = False
    for word in words:
        if expecting and word in _TOWARDS:
            continue
        attribute = next((name for name, values in WORDS.items() if word in values), None)
        if attribute is not None:
            _name(found, attribute, WORDS[attribute][word])
        elif word in _STILL_WORDS:
            _name(found, "motion", 0)
        elif word in _TURNS and (expecting or word not in _COLUMNS):
            _name(found, "motion", _TURNS[word])
        elif word in ROWS:
            rows.add(ROWS[word])
        elif word in _COLUMNS:
            columns.add(_COLUMNS[word])
        elif word in MIDDLES:
            middle = True
        elif word not in _VERBS and word not in _GENERIC and word not in _EMPTY:
            raise ValueError(f"The caption's word {word!r} is not understood; {_known()}.")
        expecting = word in _VERBS
    if len(rows) > 1 or len(columns) > 1:
        raise ValueError("The caption gives one object two places; name one of " + ", ".join(PLACES) + ".")
    if rows or columns or middle:
        found["place"] = 3 * min(rows, default=1) + min(columns, default=1)
    return found


def _name(found: dict[str, int], attribute: str, value: int) -> None:
    if found.setdefault(attribute, value) != value:
        names = dict(ATTRIBUTES)[attribute]
        raise ValueError(
            f"The caption gives one object two {attribute}s: {names[found[attribute]]} and {names[value]}."
        )


def _known() -> str:
    """The vocabulary, attribute by attribute, for an error message."""
    motion = ", ".join(("still", *(f"moving {name}" for name in MOTIONS[1:])))
    lists = [f"{name}s are {', '.join(words)}" for name, words in WORDS.items()]
    return f"{'; '.join(lists)}; places are {', '.join(PLACES)}; motions are {motion}"

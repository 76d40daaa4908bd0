"""The world as a data source: a list of examples, each a pure function of (seed, split, id).

The fields of an example (those of a second object have the suffix "_2"; without one they hold the number of values of
the attribute, which is the null row of a `Label(absent=True)`):

    id                                    int64     the index
    image                                 uint8     [r, r, 3], the video's first frame
    video                                 uint8     [f, r, r, 3]
    depth                                 float32   [f, r, r, 1] in [0, 1], of the video's frames
    audio                                 float32   [8000] in [-1, 1], a second
    points                                float32   [k, 6] in [0, 1], of the first frame
    action                                float32   [16, 2], the trajectory to the first object
    caption                               str
    label                                 int32     shape * 8 + colour of the first object, in [0, 48)
    count                                 int32     1 or 2
    shape, colour, size, place, motion    int32     indices into the tuples of `scene`
    shape_2, colour_2, ...                int32

and, only on request,

    mask                                  uint8     [r, r, 1], where the objects of the image are
    named_shape, named_shape_2, ...       int32     what the caption says of the attribute, of its objects in the order
                                                    of mention; the number of values where it says nothing

and, in worlds of one object and only on request (`edits`),

    instruction                           str
    edited                                uint8     [r, r, 3], the edited image

The first object is the one whose place is first in reading order.
"""

import functools
import operator
from dataclasses import dataclass
from typing import ClassVar, Literal, SupportsIndex

import numpy as np

from unified_jax.data.world.action import render_action
from unified_jax.data.world.cache import read_cached
from unified_jax.data.world.caption import NAMES, read_caption, write_caption
from unified_jax.data.world.edits import Edit, draw_edit
from unified_jax.data.world.render import MIN_RESOLUTION, render_image, render_mask, render_video
from unified_jax.data.world.scene import ATTRIBUTES, COLOURS, FRAMES, SPLITS, Scene, generator, sample_scene
from unified_jax.data.world.solid import render_depth, render_points
from unified_jax.data.world.sound import RATE, render_audio
from unified_jax.data.world.wording import Wording
from unified_jax.errors import UserError

TEST_EXAMPLES = 10_000
FIELDS = (
    *("id", "image", "video", "depth", "audio", "points", "action", "caption", "label", "count"),
    *NAMES,
    *(f"{name}_2" for name in NAMES),
)

EDIT_FIELDS = ("instruction", "edited")
ASKED_FIELDS = ("mask",)
NAMED_FIELDS = tuple(f"named_{name}{end}" for end in ("", "_2") for name in NAMES)

_CAPTION_STREAM, _POINTS_STREAM, _EDIT_STREAM, _WORDING_STREAM = 1, 2, 3, 4


@dataclass(frozen=True)
class World:
    """The synthetic world of coloured shapes. Examples are rendered on demand; nothing is downloaded."""

    seed: int = 0
    """Seed of the world: an integer in [0, 2^32). All splits follow from it."""
    resolution: int = 32
    """Height and width of the images in pixels, at least 16."""
    max_objects: Literal[1, 2] = 2
    """1: always one object; 2: one or two, equally often."""
    jitter: bool = True
    """Random offsets from the cell centres. False with one object gives the finite variant."""
    frames: int = 8
    """Frames of a video and of its depth, 1 to 16."""
    points: int = 256
    """Points of a point cloud."""
    examples: int = 1_000_000
    """Examples of the training split; the splits test and held_out have 10,000."""
    cache: str = ""
    """Folder of examples rendered by `unified-jax data build unified_world`; what is missing is rendered on demand."""
    name: str = "world"
    """Name of this data set in error messages."""
    wording: Wording = Wording()
    """How captions are worded; of the grammar alone by default."""
    places: ClassVar[tuple[str, ...]] = ("cache",)
    """See `data.base.DataSet`."""

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"The seed of {self.name!r} must be in [0, 2^32); found {self.seed}.")
        if self.resolution < MIN_RESOLUTION:
            raise ValueError(
                f"The resolution of {self.name!r} must be at least {MIN_RESOLUTION}; found {self.resolution}."
            )
        if self.max_objects not in (1, 2):
            raise ValueError(
                f"{self.name!r} has scenes of at most 1 or 2 objects; found max_objects={self.max_objects}."
            )
        if not 1 <= self.frames <= FRAMES:
            raise ValueError(f"Videos of {self.name!r} have 1 to {FRAMES} frames; found {self.frames}.")
        if self.points < 1:
            raise ValueError(f"Point clouds of {self.name!r} have at least one point; found {self.points}.")
        if self.examples < 1:
            raise ValueError(f"{self.name!r} must have at least one training example; found {self.examples}.")

    def source(self, split: str, fields: tuple[str, ...] | None = None) -> "WorldSource":
        """The examples of a split ("train", "test" or "held_out"), with the requested fields (default: all).

        ValueError for an unknown split or field.

        >>> example = World(max_objects=1).source("test", ("image", "shape"))[0]
        >>> example["image"].shape, sorted(example)
        ((32, 32, 3), ['image', 'shape'])
        """
        if split not in SPLITS:
            raise ValueError(f"{self.name!r} has no split {split!r}; expected one of {', '.join(SPLITS)}.")
        for field in fields or ():
            if field not in FIELDS + ASKED_FIELDS + NAMED_FIELDS + EDIT_FIELDS:
                expected = ", ".join(FIELDS + ASKED_FIELDS + NAMED_FIELDS + EDIT_FIELDS)
                raise ValueError(f"{self.name!r} has no field {field!r}; expected some of {expected}.")
            if field in EDIT_FIELDS and self.max_objects != 1:
                raise ValueError(
                    f"{self.name!r} has the field {field!r} where max_objects=1, found {self.max_objects}."
                )
        return WorldSource(self, split, FIELDS if fields is None else tuple(fields))

    def parts(self, split: str, fields: tuple[str, ...]) -> tuple[tuple[float, str, "WorldSource"], ...]:
        """(weight, name, source): the world is one part. UserError for an unknown split or field."""
        try:
            return ((1.0, self.name, self.source(split, fields)),)
        except ValueError as error:
            raise UserError(f"Data set {error}") from None

    def features(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Field -> (shape, name of the numpy dtype; "str" for text); edits are left out, as in `source`."""
        kinds: dict[str, tuple[tuple[int, ...], str]] = dict.fromkeys(FIELDS, ((), "int32"))
        kinds["id"] = ((), "int64")
        kinds["image"] = ((self.resolution, self.resolution, 3), "uint8")
        kinds["video"] = ((self.frames, self.resolution, self.resolution, 3), "uint8")
        kinds["depth"] = ((self.frames, self.resolution, self.resolution, 1), "float32")
        kinds["audio"] = ((RATE,), "float32")
        kinds["points"] = ((self.points, 6), "float32")
        kinds["action"] = ((FRAMES, 2), "float32")
        kinds["caption"] = ((), "str")
        return kinds


@dataclass(frozen=True)
class WorldSource:
    """A list of examples. It is stateless, so it can be pickled and read from many threads."""

    world: World
    split: str
    fields: tuple[str, ...] = FIELDS

    def __len__(self) -> int:
        return self.world.examples if self.split == "train" else TEST_EXAMPLES

    def __getitem__(self, index: SupportsIndex) -> dict[str, np.ndarray | str]:
        """Example `index` in [0, len): field -> array or text. IndexError outside."""
        id = operator.index(index)
        if not 0 <= id < len(self):
            raise IndexError(
                f"{self.world.name!r} has {len(self)} examples in the split {self.split!r}; found the index {id}."
            )
        found: dict[str, np.ndarray | str] = {}
        if self.world.cache:  # what it does not hold is computed
            plain = not self.world.wording.free  # the cache holds the grammar's captions
            held = tuple(field for field in self.fields if field in FIELDS and (plain or field != "caption"))
            found = read_cached(self.world.cache, self.split, held, self.world, id) or {} if held else {}
        scene = self.scene(id)
        return {field: found[field] if field in found else self._field(field, id, scene) for field in self.fields}

    def scene(self, id: int) -> Scene:
        """The scene that example `id` renders."""
        return sample_scene(self.world.seed, self.split, id, self.world.max_objects, self.world.jitter)

    def edit(self, id: int) -> tuple[Edit, Scene]:
        """The edit of example `id`, and its scene after it."""
        rng = generator(self.world.seed, self.split, id, _EDIT_STREAM)
        return draw_edit(self.scene(id), self.split, self.world.jitter, rng)

    def _field(self, field: str, id: int, scene: Scene) -> np.ndarray | str:
        match field:
            case "image":
                return render_image(scene, self.world.resolution)
            case "mask":
                return render_mask(scene, self.world.resolution)
            case "video":
                return render_video(scene, self.world.resolution, self.world.frames)
            case "depth":
                return render_depth(scene, self.world.resolution, self.world.frames)
            case "audio":
                return render_audio(scene)
            case "points":
                rng = generator(self.world.seed, self.split, id, _POINTS_STREAM)
                return render_points(scene, self.world.points, rng)
            case "action":
                return render_action(scene)
            case "caption":
                written = self._written(id, scene)
                if not self.world.wording.free:
                    return written
                rng = generator(self.world.seed, self.split, id, _WORDING_STREAM)
                return self.world.wording.of(written, _said(written), rng)
            case "instruction":
                return self.edit(id)[0].instruction
            case "edited":
                return render_image(self.edit(id)[1], self.world.resolution)
            case "id":
                return np.array(id, np.int64)
            case "label":
                first = scene.objects[0]
                return np.array(first.shape * len(COLOURS) + first.colour, np.int32)
            case "count":
                return np.array(len(scene.objects), np.int32)
            case _ if field in NAMED_FIELDS:
                return np.array(_named(_said(self._written(id, scene)), field.removeprefix("named_")), np.int32)
            case _:
                return np.array(_attribute(scene, field), np.int32)

    def _written(self, id: int, scene: Scene) -> str:
        """The caption in the grammar's words."""
        return write_caption(scene, generator(self.world.seed, self.split, id, _CAPTION_STREAM))


@functools.lru_cache(maxsize=1024)
def _said(caption: str) -> tuple[dict[str, int], ...]:
    return read_caption(caption)


def _named(said: tuple[dict[str, int], ...], field: str) -> int:
    """The value that a caption names of one attribute of one object, or the number of its values."""
    name, which = field.removesuffix("_2"), 1 if field.endswith("_2") else 0
    absent = len(dict(ATTRIBUTES)[name])
    return said[which].get(name, absent) if which < len(said) else absent


def _attribute(scene: Scene, field: str) -> int:
    """One attribute of one object, or the number of its values if the object is absent."""
    position = NAMES.index(field.removesuffix("_2"))
    which = 1 if field.endswith("_2") else 0
    if which >= len(scene.objects):
        return len(ATTRIBUTES[position][1])
    object = scene.objects[which]
    return (object.shape, object.colour, object.size, object.place, object.motion)[position]

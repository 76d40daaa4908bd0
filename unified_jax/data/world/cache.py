"""The world on disk: the first examples of each split as a TFDS set in ArrayRecord files, written without TensorFlow.

    DIR/unified_world/1.0.0/    read by `tfds.builder("unified_world", data_dir=DIR)`

Images are PNGs; videos and depth are stored frame by frame or compressed by zlib, all without loss. The metadata names
the world it was rendered from; `World(cache=DIR)` reads it and refuses that of another world.
"""

import contextlib
import io
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from unified_jax.errors import RunError, UserError

NAME, VERSION = "unified_world", "1.0.0"
SETTINGS = ("seed", "resolution", "max_objects", "jitter", "frames", "points")
"""Fields of a World that determine its examples."""


def settings(world: Any) -> dict[str, Any]:
    """The settings that determine the examples of a world."""
    return {name: getattr(world, name) for name in SETTINGS}


def build(world: Any, folder: Path, counts: dict[str, int], report: Callable[[int], Any]) -> Path:
    """Writes the first `counts[split]` examples of each split; returns the data set's folder.

    `report(1)` after each. Raises UserError if the data set exists, RunError if it cannot be written.
    """
    import tensorflow_datasets as tfds

    target = folder / NAME / VERSION
    if target.exists():
        raise UserError(f"{str(target)!r} exists already; remove it, or choose another --data-dir.")

    class UnifiedWorld(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        """The world's examples in order."""

        name = NAME
        VERSION = tfds.core.Version(VERSION)

        def _info(self) -> Any:
            return tfds.core.DatasetInfo(
                builder=self,
                description="Scenes of coloured shapes in every modality, rendered by unified_jax.",
                features=tfds.features.FeaturesDict(_features(world)),
                disable_shuffling=True,
                metadata=tfds.core.MetadataDict(settings(world)),
            )

        def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
            del dl_manager
            return {split: self._generate_examples(split, count) for split, count in counts.items()}

        def _generate_examples(self, split: str, count: int) -> Iterator[tuple[int, dict[str, Any]]]:
            source = world.source(split)
            for i in range(count):
                yield i, _encoded(source[i])
                report(1)

    tfds.disable_progress_bar()  # `report` has one
    try:
        builder: Any = UnifiedWorld(data_dir=folder, file_format="array_record")
        with tempfile.TemporaryDirectory() as nothing, contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare(
                download_dir=nothing, download_config=tfds.download.DownloadConfig(try_download_gcs=False)
            )
    except OSError as error:
        shutil.rmtree(target, ignore_errors=True)
        raise RunError(f"{str(target)!r} cannot be written: {error.strerror or error}; nothing was kept.") from None
    return target


def _features(world: Any) -> dict[str, Any]:
    import tensorflow_datasets as tfds

    found: dict[str, Any] = {}
    for name, (shape, kind) in world.features().items():
        if kind == "str":
            found[name] = tfds.features.Text()
        elif name == "image":
            found[name] = tfds.features.Image(shape=shape, encoding_format="png")
        elif name == "video":
            frame = tfds.features.Image(shape=shape[1:], encoding_format="png")
            found[name] = tfds.features.Sequence(frame, length=shape[0])
        elif shape:
            found[name] = tfds.features.Tensor(shape=shape, dtype=np.dtype(kind), encoding="zlib")
        else:
            found[name] = tfds.features.Scalar(np.dtype(kind))
    return found


def _encoded(example: dict[str, Any]) -> dict[str, Any]:
    return example | {"image": _png(example["image"]), "video": [_png(frame) for frame in example["video"]]}


def _png(pixels: np.ndarray) -> bytes:
    from PIL import Image as Pillow

    file = io.BytesIO()
    Pillow.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()


@lru_cache(maxsize=8)
def open_cache(folder: str, split: str, fields: tuple[str, ...], wanted: str) -> Any:
    """The cached examples of a split as a source; `wanted` is the JSON of the world's settings.

    Raises UserError if there is no cache, or it holds another world.
    """
    from unified_jax.data.tfds import Tfds

    found = Path(folder) / NAME / VERSION / "metadata.json"
    try:
        there = json.loads(found.read_text(encoding="utf-8"))
        if not isinstance(there, dict):
            raise ValueError("it holds no settings")
    except (OSError, ValueError) as error:
        if found.exists():
            raise UserError(f"{str(found)!r} cannot be read: {error}; build the cached world again.") from None
        raise UserError(
            f"{folder!r} holds no cached world; write one with "
            f"unified-jax data build {NAME} --data-dir {folder}, or leave out --data.cache."
        ) from None
    asked = json.loads(wanted)
    if other := [f"{k} {there.get(k)!r}, asked for {v!r}" for k, v in asked.items() if there.get(k) != v]:
        raise UserError(f"The world cached in {folder!r} differs: {'; '.join(other)}. Build it again.")
    return Tfds(NAME, folder).parts(split, fields)[0][2]


def read_cached(folder: str, split: str, fields: tuple[str, ...], world: Any, id: int) -> dict[str, Any] | None:
    """Example `id` as rendering gives it, or None beyond the end of the cache."""
    source = open_cache(folder, split, fields, json.dumps(settings(world)))
    if id >= len(source):
        return None
    kinds = world.features()
    return {name: _decoded(value, kinds[name][1]) for name, value in source[id].items()}


def _decoded(value: Any, kind: str) -> Any:
    if kind == "str":
        return value.decode() if isinstance(value, bytes) else str(value)
    return np.asarray(value, np.dtype(kind))

"""The features of a set of pictures, in shards on disk: a killed extraction goes on, a finished one is read again.

    FOLDER/set.json       the set, the extractor, the number of pictures
    FOLDER/000000.npz     float32 features of pictures 0 .. 1023 by kind, and so on

A shard appears whole. Each picture's features are independent of its batch and of the mesh, which has all devices.
"""

import functools
import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from unified_jax.data.listing import user_cache
from unified_jax.errors import RunError, UserError
from unified_jax.evaluation.extractors import Extractor
from unified_jax.evaluation.feature_sets import Vectors
from unified_jax.hosts import lay, lay_rows, local_rows, shared, together, writes
from unified_jax.modalities.reading import first_line
from unified_jax.precision import same_numbers
from unified_jax.runs.directory import write_json
from unified_jax.runs.pictures import Pictures
from unified_jax.sharding import MESH_AXES, MeshShape, make_mesh

SHARD = 1024
"""Pictures of a file of features."""
FORMAT = 1


class Shards(Mapping[str, np.ndarray]):
    """Kind -> all features of that kind, read from the shards when it is asked for; one kind is kept at a time."""

    def __init__(self, folder: Path, kinds: tuple[str, ...], count: int) -> None:
        self.folder, self.kinds, self.count = folder, kinds, count
        self._read = functools.lru_cache(maxsize=1)(self._whole)

    def __getitem__(self, kind: str) -> np.ndarray:
        if kind not in self.kinds:
            raise KeyError(kind)
        return self._read(kind)

    def __iter__(self) -> Iterator[str]:
        return iter(self.kinds)

    def __len__(self) -> int:
        return len(self.kinds)

    def _whole(self, kind: str) -> np.ndarray:
        found: np.ndarray | None = None
        for at in range(0, self.count, SHARD):
            with np.load(shard_path(self.folder, at // SHARD), allow_pickle=False) as file:
                part = file[kind]
            if found is None:
                found = np.empty((self.count, part.shape[1]), np.float32)
            found[at : at + len(part)] = part[: self.count - at]  # a set of which less is wanted now
        assert found is not None
        return found


def shard_path(folder: Path, shard: int) -> Path:
    """The file of a shard."""
    return folder / f"{shard:06d}.npz"


def cache_folder() -> Path:
    """`unified_jax/features/` in the user's cache folder."""
    return user_cache() / "features"


def features_folder(root: Path, pictures: Pictures, extractor: Extractor) -> Path:
    """Where the features of a set by an extractor are: a folder below `root` for each pair of them."""
    text = json.dumps([FORMAT, pictures.digest, extractor.label, list(extractor.kinds)])
    return root / hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


@same_numbers()
def extract(
    pictures: Pictures, extractor: Extractor, root: Path, batch: int = 64, report: Callable[[int], Any] = lambda k: None
) -> Vectors:  # fmt: skip
    """The features of all pictures of a set; those that `root` holds are not computed again.

    `report(n)` after n more pictures. Raises UserError for a picture that cannot be used, RunError for a full disk.
    """
    count, folder = len(pictures), features_folder(root, pictures, extractor)
    if count < 2:
        raise UserError(f"The set {pictures.name} holds {count} picture(s); a distance needs at least two.")
    together(lambda: _begin(folder, pictures, extractor), by="first")
    shards = -(-count // SHARD)
    done = shared([_done(folder, extractor.kinds[0], count)])[0]
    report(min(done * SHARD, count))
    if done < shards:
        forward = Forward(extractor, batch)
        for shard in range(done, shards):
            first = shard * SHARD
            rows = pictures.rows(first, min(SHARD, count - first))
            found = forward(pictures.name, rows, first, report)
            together(functools.partial(_write, shard_path(folder, shard), found), by="first")
    return Vectors(pictures.name, Shards(folder, extractor.kinds, count))


def _begin(folder: Path, pictures: Pictures, extractor: Extractor) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "set.json").is_file():
            write_json(folder / "set.json", {"set": pictures.name, "extractor": extractor.label, "n": len(pictures)})
    except OSError as error:
        raise UserError(f"The folder of features {str(folder)!r} cannot be written: {first_line(error)}.") from error


def _done(folder: Path, kind: str, count: int) -> int:
    """The number of shards that are there, without a gap; one of fewer pictures, which ended a smaller set, is not."""

    def lacks(shard: int) -> bool:
        path = shard_path(folder, shard)
        return not path.is_file() or _rows(path, kind) < min(SHARD, count - shard * SHARD)

    shards = -(-count // SHARD)
    return next((i for i in range(shards) if lacks(i)), shards)


def _rows(path: Path, kind: str) -> int:
    """The number of pictures of a shard, from its head; 0 where it cannot be read."""
    try:
        with zipfile.ZipFile(path) as whole, whole.open(f"{kind}.npy") as file:
            np.lib.format.read_magic(file)
            return np.lib.format.read_array_header_1_0(file)[0][0]
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):
        return 0


def _write(path: Path, found: dict[str, np.ndarray]) -> None:
    if not writes():
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            np.savez(file, **found)  # type: ignore[arg-type]
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise RunError(
            f"The features {str(path)!r} cannot be written: {first_line(error)}; those before are kept, and the same "
            "command goes on from there."
        ) from error


class Forward:
    """An extractor over batches on all devices; pictures are prepared in threads while the devices compute."""

    def __init__(self, extractor: Extractor, batch: int) -> None:
        mesh = make_mesh(MeshShape())
        self.extractor = extractor
        self.rows = NamedSharding(mesh, PartitionSpec(MESH_AXES[:2]))
        whole = NamedSharding(mesh, PartitionSpec())
        parts = mesh.size
        self.batch = -(-min(batch, SHARD) // parts) * parts
        self.held = local_rows(self.rows, self.batch)
        loaded = together(extractor.load)
        self.params = jax.tree.map(lambda x: lay(np.asarray(x), whole), loaded if loaded is not None else {})
        self.call = jax.jit(extractor.features, out_shardings=whole)

    def __call__(self, name: str, pictures: Any, first: int, report: Callable[[int], Any]) -> dict[str, np.ndarray]:
        """The features of some pictures by kind."""
        found: list[tuple[Any, int]] = []
        with ThreadPoolExecutor(os.cpu_count() or 2) as pool:
            for at in range(0, len(pictures), self.batch):
                kept = min(self.batch, len(pictures) - at)
                take = np.minimum(at + self.held, len(pictures) - 1)
                inputs = together(functools.partial(self._inputs, pool, name, pictures, take, first))
                assert inputs is not None
                made = self.call(self.params, lay_rows(np.stack(inputs), self.held, self.batch, self.rows))
                if found:
                    found[-1] = (jax.device_get(found[-1][0]), found[-1][1])
                    report(found[-1][1])
                found.append((made, kept))
        found[-1] = (jax.device_get(found[-1][0]), found[-1][1])
        report(found[-1][1])
        return {kind: np.concatenate([np.asarray(f[kind], np.float32)[:n] for f, n in found]) for kind in found[0][0]}

    def _inputs(self, pool: ThreadPoolExecutor, name: str, pictures: Any, take: np.ndarray, first: int) -> list[Any]:
        def one(index: int) -> np.ndarray:
            try:
                return self.extractor.prepare(np.asarray(pictures[index]))
            except ValueError as error:
                raise UserError(f"Picture {first + index} of {name} cannot be used: {error}.") from None

        return list(pool.map(one, map(int, take)))

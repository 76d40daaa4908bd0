"""`unified-jax data build unified_world`: the world's examples as a TFDS set on disk."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from unified_jax.errors import UserError
from unified_jax.runs.flags import parse
from unified_jax.runs.folders import make_folder


@dataclass(frozen=True)
class WorldCommand:
    """Render the first examples of each split to ArrayRecord files in TFDS layout."""

    set: tyro.conf.Positional[Literal["unified_world"]]
    """unified_world"""
    data_dir: str = "data/tfds"
    """Folder for unified_world/1.0.0/."""
    train: int = 20_000
    """Examples of the split train."""
    test: int = 1_000
    """Examples of the split test."""
    held_out: int = 1_000
    """Examples of the split held_out."""
    seed: int = 0
    """Seed of the world. It and the options below must equal those of the recipe that reads it."""
    resolution: int = 32
    """Height and width of the images in pixels."""
    max_objects: Literal[1, 2] = 2
    """Most objects of a scene."""
    jitter: bool = True
    """Random offsets from the cell centres."""
    frames: int = 8
    """Frames of a video."""
    points: int = 256
    """Points of a point cloud."""


def main(arguments: list[str]) -> None:
    """Runs the command."""
    command = parse(WorldCommand, "unified-jax data build", arguments)
    from tqdm import tqdm

    from unified_jax.data.world import World
    from unified_jax.data.world.cache import SETTINGS, build
    from unified_jax.data.world.scene import SPLITS

    try:
        world = World(**{name: getattr(command, name) for name in SETTINGS})
    except ValueError as error:
        raise UserError(str(error)) from None
    counts = {split: getattr(command, split) for split in SPLITS}
    if min(counts.values()) < 1 or any(counts[split] > len(world.source(split)) for split in SPLITS):
        raise UserError(
            f"--train, --test and --held-out must be at least 1 and at most {world.examples}, 10000 and 10000; found "
            f"{', '.join(str(count) for count in counts.values())}."
        )
    try:
        folder = Path(command.data_dir).expanduser()
    except RuntimeError as error:  # ~ of an unknown user, or one without a home
        raise UserError(f"--data-dir {command.data_dir!r} cannot be found: {error}") from None
    make_folder(folder)
    with tqdm(total=sum(counts.values()), unit="scene", dynamic_ncols=True) as bar:
        target = build(world, folder, counts, bar.update)
    size = sum(path.stat().st_size for path in target.iterdir())
    print(
        f"{sum(counts.values())} scenes, {size / 1e6:.0f} MB in {target}; use them with --data.cache {command.data_dir}"
    )

"""`unified-jax data build SOURCE --to DIR`: any data set as ArrayRecord files."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from unified_jax.cli.datasets.source import PathFlags, read_command
from unified_jax.data.base import DataSet
from unified_jax.errors import UserError
from unified_jax.training.experiment import Experiment


@dataclass(frozen=True)
class BuildCommand:
    """Write the records of a folder, table or tar to ArrayRecord files, which are read faster and move as a whole.

    Pictures and sounds stay as they are encoded. A build that was killed goes on with the same command.
    """

    read: Annotated[PathFlags, tyro.conf.arg(name="")] = field(default_factory=PathFlags)
    """How the files are read."""
    to: str = ""
    """Folder of the records, which --data.path names then."""
    fields: tuple[str, ...] = ()
    """Columns that are kept; default: all."""
    splits: tuple[str, ...] = ()
    """Default: all."""
    workers: int = 2
    """Threads that read; the files do not depend on them."""
    shard: int = 0
    """Records of a file; 0: about 256 MB."""


@dataclass(frozen=True)
class BuildRecipe:
    """Write the records that a recipe reads."""

    experiment: Annotated[Experiment, tyro.conf.arg(name="")]
    """The recipe's."""
    to: str = ""
    """Folder of the records: data=uj.Records(FOLDER), or --data.path FOLDER."""
    splits: tuple[str, ...] = ()
    """Default: those of training and validation."""
    workers: int = 2
    """Threads that read; the files do not depend on them."""
    shard: int = 0
    """Records of a file; 0: about 256 MB."""
    skip: bool = False
    """Leave out records that the recipe cannot use; skipped.txt lists them."""


def main(arguments: list[str]) -> None:
    """Runs the command."""
    word, command = read_command("build", arguments, BuildCommand, BuildRecipe)
    if not command.to or command.workers < 1 or command.shard < 0:
        raise UserError("Name a folder with --to; --workers is at least 1, and --shard not negative.")
    data, splits, fields, skip = _what(word, command)
    from tqdm import tqdm

    from unified_jax.runs.building import Order, build

    try:
        folder = Path(command.to).expanduser()
    except RuntimeError as error:  # ~ of an unknown user, or one without a home
        raise UserError(f"--to {command.to!r} cannot be found: {error}") from None
    total = sum(len(source) for split in splits for _, _, source in data.parts(split, fields))
    with tqdm(total=total, unit="record", dynamic_ncols=True) as bar:
        order = Order(folder, splits, fields, command.workers, command.shard, skip)
        head = build(data, order, bar.update)
    counts = ", ".join(f"{split} {entry['records']}" for split, entry in head["splits"].items())
    left = total - sum(entry["records"] for entry in head["splits"].values())
    size = sum(path.stat().st_size for path in folder.rglob("*.array_record"))
    print(f"{head['set']['name']} ({counts} records), {size / 1e6:.1f} MB in {folder}")
    if left:
        print(f"{left} records are left out: {folder / 'skipped.txt'} says why.")


def _what(word: str, command: Any) -> tuple[DataSet, tuple[str, ...], tuple[str, ...], tuple[Any, ...]]:
    """(data set, splits, fields, modalities that decide what is skipped)."""
    if isinstance(command, BuildRecipe):
        e = command.experiment
        splits = command.splits or tuple(dict.fromkeys((e.split, e.validation.split)))
        return e.data, splits, tuple(m.name for m in e.model.modalities), e.model.modalities if command.skip else ()
    data = command.read.files(word)
    splits = command.splits or data.splits()
    return data, splits, command.fields or data.columns(splits[0]), ()

"""`unified-jax data show SOURCE`: what a data set holds, in words and as a sheet."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from unified_jax.cli.datasets.source import PathFlags, read_command
from unified_jax.runs.looking import look, save_sheet
from unified_jax.training.experiment import Experiment


@dataclass(frozen=True)
class ShowCommand:
    """Say what a folder, table, tar or built set holds, and draw records of it."""

    read: Annotated[PathFlags, tyro.conf.arg(name="")] = field(default_factory=PathFlags)
    """How the files are read."""
    fields: tuple[str, ...] = ()
    """Columns that are shown; default: all."""
    splits: tuple[str, ...] = ()
    """Default: all."""
    count: int = 64
    """Records of the sheet."""
    to: str = ""
    """File of the sheet; default: data-NAME.png here."""


@dataclass(frozen=True)
class ShowRecipe:
    """Draw the first examples of a recipe's training, prepared as the model reads them."""

    experiment: Annotated[Experiment, tyro.conf.arg(name="")]
    """The recipe's."""
    count: int = 64
    """Examples of the sheet."""
    to: str = ""
    """File of the sheet; default: data-NAME.png here."""


def main(arguments: list[str]) -> None:
    """Runs the command."""
    word, command = read_command("show", arguments, ShowCommand, ShowRecipe)
    path = Path(command.to or f"data-{Path(word).resolve().stem}.png")
    if isinstance(command, ShowRecipe):
        return _show_recipe(command, path)
    found = look(command.read.files(word), command.fields, command.splits, max(1, command.count))
    print("\n".join(found.lines))
    if found.sheet is not None:
        save_sheet(found.sheet, path)
        print(f"sheet: {path}")


def _show_recipe(command: ShowRecipe, path: Path) -> None:
    from unified_jax.data.pipeline import Pipeline
    from unified_jax.modalities.label import named
    from unified_jax.modalities.sheets import show_samples
    from unified_jax.runs.full_rows import row_lines
    from unified_jax.runs.looking import bucket_lines

    e = command.experiment
    pipeline = Pipeline(e.data, e.split, e.model.modalities, max(1, command.count), e.seed, vary=True)
    for _, name, source in pipeline.parts:
        print(f"split {e.split!r}: {len(source)} records of {name}")
    lines = bucket_lines(pipeline, e.batch_size)
    if getattr(e.model.packer, "mixed", False):
        lines = row_lines(Pipeline(e.data, e.split, e.model.modalities, e.batch_size, e.seed, packer=e.model.packer))
    for line in lines:
        print(f"  {line}")
    rows = pipeline.batch(0).arrays
    shown = named(e.model.modalities, pipeline.class_names())
    for modality in shown:
        value = rows[modality.name]
        print(f"  {modality.name}: {value.dtype} {list(value.shape[1:])}, {_range(value)}")
    save_sheet(show_samples(shown, {m.name: rows[m.name] for m in shown}, {}, limit=command.count), path)
    print(f"sheet: {path}")


def _range(value: np.ndarray) -> str:
    return f"{value.min():.4g} .. {value.max():.4g}" if value.dtype.kind in "iufb" and value.size else "no numbers"

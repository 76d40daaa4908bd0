"""`unified-jax data encode RECIPE --to DIR`: the features of a recipe's cached conditions, computed once."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from unified_jax.cli.entry import use_compilation_cache, use_fake_devices
from unified_jax.errors import UserError
from unified_jax.runs.flags import check_devices
from unified_jax.runs.recipe import parse_command
from unified_jax.training.experiment import Experiment


@dataclass(frozen=True)
class EncodeCommand:
    """Compute the features of a recipe's cached conditions. Every field of its experiment is a flag."""

    experiment: Annotated[Experiment, tyro.conf.arg(name="")]
    to: str = ""
    """Folder of the features; default: that of the recipe's data set."""
    splits: tuple[str, ...] = ()
    """Splits of the data set; default: those of training and validation."""
    batch: int = 0
    """Records at a time, over all devices; 0: on each device as many as in a step of the training."""
    stage: tuple[str, ...] = ()
    """NAME=PATH: where a stage of the model is (a run or a file), in the place of its source."""
    devices: int = 0
    """Splits the CPU into so many devices; 0: the real ones."""
    limit: int = 0
    """Most records of a split, from the first one on; 0: all."""
    trust: bool = False
    """Import the custom code that the stages' runs keep."""


def main(arguments: list[str]) -> None:
    """Runs the command."""
    more = "unified-jax data encode RECIPE --help lists the flags of a recipe with their defaults."
    called = ("unified-jax data encode", "unified-jax data encode RECIPE --to DIR", more)
    _, command = parse_command(EncodeCommand, called, arguments)
    check_devices(command.devices)
    use_fake_devices(command.devices)
    use_compilation_cache()
    from unified_jax.runs.encode import Request, encode
    from unified_jax.runs.stages import parse_places

    try:
        folder = Path(command.to or getattr(command.experiment.data, "folder", "")).expanduser()
    except RuntimeError as error:  # ~ of an unknown user, or one without a home
        raise UserError(f"--to {command.to!r} cannot be found: {error}") from None
    places = parse_places(command.stage)
    request = Request(folder, command.splits, command.batch, command.limit, places=places, trust=command.trust)
    print(told(folder, encode(command.experiment, request)))


def told(folder: Path, record: dict[str, Any]) -> str:
    """What a folder of features holds, in words."""
    found = [f"{split} {sum(part['count'] for part in parts)}" for split, parts in record["splits"].items()]
    size = sum(path.stat().st_size for path in folder.rglob("*.npy"))
    return f"Features of {record['set']['name']} ({', '.join(found)} records), {size / 1e6:.1f} MB in {folder}"

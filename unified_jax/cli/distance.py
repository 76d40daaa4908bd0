"""`unified-jax distance REFERENCE SAMPLES`: FID and its relatives between two sets of pictures."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from unified_jax.cli.entry import run_command, start_process, use_compilation_cache
from unified_jax.errors import UserError
from unified_jax.hosts import Hosts, writes
from unified_jax.runs.directory import write_json
from unified_jax.runs.distance_flags import DistanceFlags
from unified_jax.runs.flags import parse

USAGE = "unified-jax distance REFERENCE SAMPLES, or unified-jax distance SET --statistics FILE.npz"


@dataclass(frozen=True)
class DistanceCommand:
    """Compare two sets of pictures: folders, .npz batches, PATH:SPLIT of a data set, or a file of statistics."""

    flags: Annotated[DistanceFlags, tyro.conf.arg(name="")] = DistanceFlags()
    """Extractors and metrics."""
    statistics: str = ""
    """Write the moments of one set to this .npz (mu, sigma, mu_s, sigma_s) instead."""
    out: str = ""
    """Also write the rows to this JSON file."""
    batch: int = 64
    """Images per compiled call; does not change the numbers."""
    trust: bool = False
    """Import the custom code that encoders' runs keep."""
    hosts: Hosts = Hosts()
    """Several processes (docs/launch.md)."""


def main(arguments: list[str]) -> None:
    """Runs the command."""
    words = [word for i, word in enumerate(arguments) if not any(w.startswith("-") for w in arguments[: i + 1])]
    command = parse(DistanceCommand, f"unified-jax distance {' '.join(words)}", arguments[len(words) :])
    if len(words) != (1 if command.statistics else 2):
        raise UserError(f"Name two sets, or one with --statistics: {USAGE}.")
    if command.batch < 1:
        raise UserError(f"--batch must be at least 1, found {command.batch}.")
    use_compilation_cache()
    start_process(command.hosts)
    from unified_jax.runs import distance

    extractors, measures = command.flags.extractors(command.trust), command.flags.measures()
    with command.flags.root() as root:
        if command.statistics:
            pictures = distance.open_pictures(words[0])
            found = distance.features(pictures, extractors[0], root, command.batch)
            if writes():
                distance.write_statistics(Path(command.statistics), found, extractors[0].label)
                print(f"{extractors[0].label} of {len(pictures)} images: {command.statistics}")
            return
        real, made = distance.open_reference(words[0]), distance.open_pictures(words[1])
        rows = distance.distances(real, made, extractors, measures, (root, root), command.batch)
    if writes():
        print("\n".join(distance.lines(rows)))
        if command.out:
            write_json(Path(command.out), {"rows": rows, "samples": made.name})


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))

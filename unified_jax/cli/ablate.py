"""`python -m unified_jax.cli.ablate STUDY`: trains all cells of a study and reports the supported claims.

A study is a file under configs/studies/, or a path to one (`ablation/study.py`). Rerun the command
to resume: finished cells are kept, unfinished ones resume, failed ones are tried again.
"""

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from unified_jax.cli.entry import run_command, use_compilation_cache
from unified_jax.cli.heap import keep_heap
from unified_jax.errors import RunError, UserError
from unified_jax.precision import same_numbers
from unified_jax.runs.flags import parse
from unified_jax.runs.folders import make_folder


@dataclass(frozen=True)
class AblateCommand:
    """Run an ablation study; writes tables, plots and index.html into --out."""

    study: tyro.conf.Positional[str]
    """A name under configs/studies/, or a path to a .py file."""
    out: str = ""
    """Output folder; default runs/studies/STUDY."""
    init_from: str = ""
    """A run that every cell starts from, instead of the study's."""
    set: Annotated[tuple[str, ...], tyro.conf.arg(metavar="FIELD=VALUE ...")] = ()
    """Fields of all arms, such as data.data_dir=/sets."""
    trust: bool = False
    """Import the custom code that the run of --init-from keeps."""
    dry_run: bool = False
    """Print the cells, their cost and the existing results; train nothing."""


@same_numbers()
def main(arguments: list[str]) -> None:
    """Runs the command."""
    from unified_jax.studies.study import load_study, parse_settings, study_names

    if not arguments:
        raise UserError(f"Usage: unified-jax ablate STUDY [--dry-run]; studies: {', '.join(study_names())}, or a path.")
    command = parse(AblateCommand, "unified-jax ablate", arguments)
    study, settings = load_study(command.study), parse_settings(command.set)
    if command.init_from:
        study = dataclasses.replace(study, init_from=command.init_from)
    study = dataclasses.replace(study, trust=study.trust or command.trust)
    name = Path(command.study).stem
    out = Path(command.out or Path("runs") / "studies" / name)
    use_compilation_cache()
    import jax

    from unified_jax.runs.lock import RunLock
    from unified_jax.studies.cells import plan_arms
    from unified_jax.studies.report import write_report
    from unified_jax.studies.running import Stopped, run_study
    from unified_jax.studies.timing import Stopwatch

    if jax.process_count() > 1:
        raise UserError("A study runs in one process; its cells may use all devices of the machine.")
    watch = Stopwatch(out)
    if command.dry_run:
        print(cost(study, plan_arms(study, settings, watch.guess), watch, out))
        return
    make_folder(out)
    with RunLock(out):
        arms = plan_arms(study, settings, watch.seconds)
        try:
            records = run_study(study, arms, out)
        except Stopped:
            print("Stopped and saved; the same command resumes.", file=sys.stderr)
            return
        write_report(name, study, arms, records, out)
    print((out / "table.md").read_text(encoding="utf-8"))
    print(f"{out / 'index.html'}")
    if all(record["failed"] for record in records):
        raise RunError(f"All {len(records)} cells failed; the first: {records[0]['failed']}")


def cost(study: Any, arms: Any, watch: Any, out: Path) -> str:
    """The output of --dry-run: one line per cell, and the match of the budget."""
    from unified_jax.studies.cells import cells_of
    from unified_jax.studies.results import MATCH_HEAD, match

    lines, left, flops = [f"{'cell':32s} {'state':>14s} {'FLOPs left':>11s} {'time left':>10s}"], 0.0, 0.0
    seen = set()
    for cell in cells_of(arms, out):
        record, done = cell.record(study), cell.trained_steps
        state = "cached" if record and not record["failed"] else "trained" if cell.trained else f"at step {done}"
        state = "failed before" if record and record["failed"] else state if done or cell.trained else "new"
        if cell.run_dir in seen and state == "new":
            state = "shared"
        steps = 0 if cell.trained or cell.run_dir in seen else cell.arm.experiment.steps - done
        seen.add(cell.run_dir)
        seconds = steps * watch.estimate(cell.arm.experiment, cell.arm.flops_per_step)
        left, flops = left + seconds, flops + steps * cell.arm.flops_per_step
        lines.append(
            f"{cell.name:32.32s} {state:>14s} {steps * cell.arm.flops_per_step:11.3g} {_duration(seconds):>10s}"
        )
    lines += [f"{'all':32s} {'':14s} {flops:11.3g} {_duration(left):>10s}", "", *_columns([MATCH_HEAD, *match(arms)])]
    how = "steps measured before" if all(watch.known(arm.experiment) for arm in arms) else watch.how
    told = f"Training time only, cell by cell, from {how}; compilation, once per arm, is not included."
    return "\n".join([*lines, "", told])


def _columns(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _duration(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    return f"{seconds:.0f} s" if seconds < 100 else f"{minutes:.1f} min" if minutes < 100 else f"{hours:.1f} h"


if __name__ == "__main__":
    keep_heap()
    sys.exit(run_command(main, sys.argv[1:]))

"""`python -m unified_jax.cli.evaluate --run DIR`: accuracy, distances, a sheet of samples beside true examples."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tyro

from unified_jax.cli.entry import run_command, start_process, use_compilation_cache
from unified_jax.config import to_plain
from unified_jax.errors import UserError
from unified_jax.hosts import Hosts, writes

if TYPE_CHECKING:
    from unified_jax.models.plan import Plan


@dataclass(frozen=True)
class EvaluateCommand:
    """Evaluate a run; writes evaluation.json and evaluation.png into it and prints the main number last."""

    run: str
    """Run directory."""
    out: str = ""
    """Where the files go; default the run directory."""
    count: int = 512
    """Samples a split."""
    splits: tuple[str, ...] = ()
    """Splits whose conditions are used; default test, and held_out on the world."""
    batch: int = 64
    """Samples a compiled call."""
    seed: int = 0
    """Seed of the samples' noise."""
    steps: int | None = None
    """Sampler steps; default as in the run's previews."""
    guidance: float | None = None
    """Guidance scale; default as in the run's previews."""
    hosts: Hosts = Hosts()
    """Several processes as one evaluation (docs/launch.md)."""
    bits: int = 0
    """Also score this many examples a split in bits/dim; 0 leaves it out."""


def evaluate_run(command: EvaluateCommand, plan: "Plan | None" = None, bars: bool = True) -> list[dict[str, Any]]:
    """Evaluates, writes evaluation.json and a sheet a split, and returns the rows.

    `plan` takes the place of the run's own; without `bars` nothing is shown.
    """
    count, batch, seed, bits = command.count, command.batch, command.seed, command.bits
    if count < 2 or batch < 1 or bits < 0:
        raise UserError(
            f"--count must be at least 2, --batch at least 1 and --bits not negative; found {count}, {batch}, {bits}."
        )
    from tqdm import tqdm

    from unified_jax.cli.edits import edits_images, evaluate_edits
    from unified_jax.cli.matrix import Bench, evaluate_matrix
    from unified_jax.cli.opened import open_run
    from unified_jax.evaluation import evaluate as ev
    from unified_jax.evaluation.bits import bits_per_dim
    from unified_jax.modalities.image import sheet
    from unified_jax.models.transfusion import Transfusion
    from unified_jax.training.run_dir import provenance, write_json

    run_dir = Path(command.run)
    out = Path(command.out) if command.out else run_dir
    experiment, params, step = open_run(run_dir, ema="0")
    out.mkdir(parents=True, exist_ok=True)
    model, data = experiment.model, experiment.data
    plan = (plan or experiment.preview.plan).with_steps(command.steps, command.guidance)
    splits, show = ev.splits_for(data, command.splits), bars and writes()
    if isinstance(model, Transfusion):
        bench = Bench(out, experiment, params, count, batch, seed, plan, show)
        return (evaluate_edits if edits_images(model) else evaluate_matrix)(bench, step, splits)
    world = ev.is_world(data, model)
    rows: list[dict[str, Any]] = []
    for split in splits:
        with tqdm(total=count, unit="sample", desc=split, dynamic_ncols=True, disable=not show) as bar:
            samples = ev.draw(model, params, data, split, count, seed, plan, batch, experiment.rules, bar.update)
        rows += ev.rows_of(samples, model, world)
        if bits:
            with tqdm(
                total=bits, unit="example", desc=f"{split} bits/dim", dynamic_ncols=True, disable=not show
            ) as bar:
                found = bits_per_dim(model, params, data, split, bits, seed, batch=batch, report=bar.update)
            rows.append(ev.bits_row(found, model, split))
        shown = min(16, count)
        pairs = [image for i in range(shown) for image in (samples.truth[i], samples.made[i])]
        titles = [text for i in range(shown) for text in (samples.titles(model)[i], "sampled")]
        if writes():
            sheet(np.stack(pairs), columns=8, titles=titles).save(out / f"evaluation_{split}.png")
    result = {"rows": rows, "step": step, "plan": to_plain(plan), "sampling_seed": seed} | provenance(experiment)
    if writes():
        write_json(out / "evaluation.json", result)
    if show:
        _print_rows(rows)
    return rows


def _print_rows(rows: list[dict[str, Any]]) -> None:
    main = [row for row in rows if row["metric"] == "attribute_accuracy"]
    for row in [row for row in rows if row["metric"] != "attribute_accuracy"] + main[::-1]:
        interval = "" if row["low"] is None else f" [{row['low']:.3f}, {row['high']:.3f}]"
        where = "" if row is (main[0] if main else None) else f"{row['split']} "
        print(f"{where}{row['metric'].replace('_', ' ')} {row['value']:.3f}{interval}")


def main(arguments: list[str]) -> None:
    """The command."""
    command = tyro.cli(EvaluateCommand, prog="evaluate", args=arguments)
    use_compilation_cache()
    start_process(command.hosts)
    evaluate_run(command)


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))

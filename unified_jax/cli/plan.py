"""The cost of a recipe on a pod or a GPU host, ahead of time: memory, time, traffic, and whether it fits.

    python -m unified_jax.cli.plan RECIPE --target v5p:8x8x8 [--experiment flags such as --mesh.fsdp 64] [--json]

Compiles the real train step with the real compilers on this machine; no device is needed. Exit code 1 if it does not
fit.
"""

import json
import sys
from dataclasses import dataclass
from typing import Annotated, Any

import jax
import tyro

from unified_jax.cli.entry import run_command
from unified_jax.errors import RunError, UserError
from unified_jax.precision import same_numbers
from unified_jax.runs.recipe import parse_command
from unified_jax.training.experiment import Experiment


@dataclass(frozen=True)
class PlanCommand:
    """Plan memory, time and communication of a recipe. Every field of its experiment is a flag."""

    experiment: Annotated[Experiment, tyro.conf.arg(name="")]
    target: str = "v5p:8x8x8"
    """KIND:SHAPE, such as v5p:8x8x8, v6e:16x16 or h200:8."""
    json: bool = False
    """Print one JSON object instead of text."""
    search: bool = False
    """Try meshes, batch sizes and remat policies that could fit, and rank them."""
    most: int = 8
    """Candidates that --search compiles."""


@same_numbers()
def main(arguments: list[str]) -> None:
    """Runs the command."""
    more = "unified-jax plan RECIPE --help lists the flags of a recipe with their defaults."
    jax.config.update("jax_platforms", "cpu")  # targets are only compiled for
    called = ("unified-jax plan", "unified-jax plan RECIPE --target KIND:SHAPE", more)
    _, command = parse_command(PlanCommand, called, arguments)
    if command.most < 1:
        raise UserError(f"--most must be at least 1, found {command.most}.")
    from unified_jax.planning.hardware import open_target
    from unified_jax.planning.plan import forecast
    from unified_jax.planning.search import search
    from unified_jax.runs.directory import provenance

    if command.experiment.reduction == "strict":
        raise UserError("Plans are of the fast reduction; with --reduction strict every device holds the whole state.")
    target = open_target(command.target)
    if command.search:
        found = search(command.experiment, target, command.most, _say)
        if not found:
            raise RunError(f"No mesh of {command.target} divides this recipe and fits; use more chips.")
        whole = provenance(command.experiment) | {"candidates": found}
        print(json.dumps(whole, indent=1) if command.json else table(found))
        best = found[0]
    else:
        best = forecast(command.experiment, target)
        whole = best | provenance(command.experiment)
        print(json.dumps(whole, indent=1) if command.json else describe(best, command.experiment))
    if not best["fits"]:
        raise RunError(f"It does not fit: {best['refusal'] or 'more bytes than the chip has'}")


def _say(i: int, n: int, experiment: Experiment) -> None:
    from unified_jax.planning.search import blocks_of

    mesh, remat = experiment.mesh, getattr(blocks_of(experiment), "remat", "")
    print(
        f"{i + 1}/{n} data {mesh.data} fsdp {mesh.fsdp} tensor {mesh.tensor} sequence {mesh.sequence} remat {remat} "
        f"batch {experiment.batch_size} ...", file=sys.stderr,
    )  # fmt: skip


def describe(found: dict[str, Any], experiment: Experiment) -> str:
    """The figures as text."""
    size, limit = found["bytes"], found["bytes"]["limit"]
    lines = [
        f"{found['target']}: {found['chips']} chips, mesh {' x '.join(f'{k}={v}' for k, v in found['mesh'].items())}",
        f"parameters {found['parameters'] / 1e6:.1f} M, batch {experiment.batch_size}, {experiment.steps} steps",
        "",
        "bytes a chip (activations are estimated)",
    ]
    for name in ("params", "optimizer", "ema", "frozen", "batch", "activations", "temporaries", "total"):
        if name not in size:
            continue
        lines.append(f"  {name:12s} {size[name] / 2**30:8.2f} GiB  {100 * size[name] / limit:5.1f} %")
    lines += [f"  {'limit':12s} {limit / 2**30:8.2f} GiB", "", f"FLOPs a step {found['flops_per_step']:.4g}"]
    if seconds := found["step_seconds"]:
        lines += [
            f"step {seconds['value']:.4g} s ({seconds['source']}), {100 * found['share_of_peak']:.1f} % of the peak",
            f"{found['examples_per_second']:.4g} examples/s"
            + (f", {found['tokens_per_second']:.4g} tokens/s" if "tokens_per_second" in found else ""),
            f"whole run {found['chip_hours']:.4g} chip-hours",
            "",
            "collectives, bytes a chip and step",
        ]
        lines += [
            f"  {m['axis']:16s} {m['kind']:20s} {m['bytes'] / 2**20:10.1f} MiB in {m['count']}"
            for m in found["collectives"]
        ] or ["  none"]
    lines += ["", "fits" if found["fits"] else f"does not fit: {found['refusal'] or 'more bytes than the chip has'}"]
    return "\n".join(lines)


def table(found: list[dict[str, Any]]) -> str:
    """Candidates, the fastest that fits first."""
    lines = [
        f"{'data':>5s}{'fsdp':>6s}{'tensor':>7s}{'sequence':>9s} {'remat':8s}{'batch':>8s}{'GiB':>8s}{'step s':>10s}"
        f"{'examples/s':>12s}{'of peak':>10s}  fits"
    ]
    for row in found:
        mesh, seconds = row["mesh"], (row["step_seconds"] or {}).get("value", float("nan"))
        lines.append(
            f"{mesh['data']:5d}{mesh['fsdp']:6d}{mesh['tensor']:7d}{mesh['sequence']:9d} {row['remat'] or '':8s}"
            f"{row['batch_size']:8d}{row['bytes']['total'] / 2**30:8.2f}{seconds:10.4g}"
            f"{row.get('examples_per_second', 0):12.4g}{100 * row.get('share_of_peak', 0):8.1f} %"
            f"  {'yes' if row['fits'] else 'no'}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))

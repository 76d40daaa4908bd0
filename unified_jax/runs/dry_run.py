"""The cost of a run on the present devices, and its first batch as an image; nothing is compiled or trained."""

from pathlib import Path

import jax
import numpy as np

from unified_jax.errors import UserError
from unified_jax.hosts import together, writes
from unified_jax.modalities.sheets import show_samples
from unified_jax.runs.directory import load_experiment
from unified_jax.runs.dtype import chosen
from unified_jax.runs.loop import Run, prepare
from unified_jax.runs.measuring import measurer
from unified_jax.runs.memory import GIB, room_of, state_bytes
from unified_jax.runs.stages import NOWHERE, Places, check_places, check_sources
from unified_jax.runs.start import check_afresh, check_graft
from unified_jax.training.experiment import Experiment
from unified_jax.training.flops import count_flops


def dry_run(
    experiment: Experiment, run_dir: Path, places: Places = NOWHERE, init_from: Path | None = None, trust: bool = False
) -> str:
    """The report; the examples of step 1 are in RUN_DIR-first_batch.png. Raises UserError as `train` would.

    A stage whose source is not there yet is counted all the same, and the report says that it is not.
    """
    if run_dir.exists() and not run_dir.is_dir():
        raise UserError(f"--run-dir {str(run_dir)!r} is a file; name a folder.")
    check_places(experiment.model, places)
    begins = _begins(experiment, run_dir, init_from, trust)
    run = together(lambda: prepare(chosen(experiment, run_dir)))
    assert run
    if run.experiment.checkpoint.best.every:
        measurer(run.experiment)  # refuses what cannot be measured
    waits = together(lambda: _waits(experiment, places))
    program = run.program
    frozen = program.abstract_frozen()
    key = jax.eval_shape(lambda: run.key)
    with experiment.rules.active(program.mesh):
        flops = count_flops(program.fast, program.abstract_state(), frozen, program.abstract_batch(), key)
    held = state_bytes(program.shapes, program.shardings, frozen)
    room = room_of(program.mesh.local_devices[0])
    shape = " x ".join(f"{name}={size}" for name, size in program.mesh.shape.items() if size > 1) or "one device"
    lines = [
        f"parameters      {program.parameters / 1e6:.2f} M",
        f"mesh            {shape} ({program.mesh.local_devices[0].device_kind})",
        f"batch           {experiment.batch_size} examples, {experiment.steps} steps",
        f"FLOPs a step    {flops:.3g}, the whole run {flops * experiment.steps:.3g}",
        "state a device  " + ", ".join(f"{name} {size / GIB:.3f} GiB" for name, size in held.items()),
    ]
    if room is not None:
        lines.append(f"free a device   {room / GIB:.1f} GiB (activations come on top of the state)")
    lines += [f"data            {line}" for line in _data(run)]
    lines += [f"begins from     {begins}"] if begins else []
    lines += [f"not there yet   {waits}"] if waits else []
    if writes():
        lines.append(f"first batch     {_draw(run, run_dir)}")
    return "\n".join(lines)


def _begins(experiment: Experiment, run_dir: Path, init_from: Path | None, trust: bool) -> str:
    """The run that it begins from and what it takes of it; "" for drawn parameters, or a run that is resumed."""
    if init_from is None:
        if not (run_dir / "checkpoints").is_dir():
            check_afresh(experiment)
        return ""
    return f"{init_from}: {check_graft(experiment, load_experiment(init_from, trust)).tell()}"


def _waits(experiment: Experiment, places: Places) -> str:
    """Why training would not begin for want of a stage's source; "" where all are there."""
    try:
        check_sources(experiment.model, places)
    except UserError as error:
        return str(error)
    return ""


def _data(run: Run) -> list[str]:
    split, parts = run.experiment.split, run.pipeline.parts
    total = sum(weight for weight, _, _ in parts)
    shares = ["" if len(parts) == 1 else f", {weight / total:.0%} of a batch" for weight, _, _ in parts]
    seen = run.experiment.steps * run.experiment.batch_size
    return [
        f"{name}, split {split!r}: {len(source)} examples{share}, {seen * weight / total / len(source):.3g} epochs"
        for (weight, name, source), share in zip(parts, shares, strict=True)
    ]


def _draw(run: Run, run_dir: Path) -> Path:
    """The first examples of step 1, unpacked, as the model is trained on them."""
    ids = run.pipeline.batch(0).ids[:16]
    examples = [run.pipeline.example(int(i)) for i in ids]
    modalities = run.experiment.model.modalities
    rows = {m.name: np.stack([example[m.name] for example in examples]) for m in modalities}
    path = run_dir.with_name(f"{run_dir.name}-first_batch.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    show_samples(modalities, rows, {}, limit=len(ids)).save(path)
    return path

"""`probe loss`: loss over time, without labels, against its Bayes floor."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unified_jax.cli.probing.opened import need_denoiser, open_for_probe
from unified_jax.errors import RunError, UserError
from unified_jax.runs.flags import check_steps


@dataclass(frozen=True)
class LossCommand:
    """Loss over time, without labels, against its Bayes floor."""

    run: str
    """Run directory."""
    times: int = 12
    """Number of times between data and noise."""
    samples: int = 512
    """Scenes per time."""
    seed: int = 0
    """Seed of the noise."""
    trust: bool = False
    """Import the custom code that the run keeps."""
    step: int | None = None
    """The checkpoint of this step, of those that are kept; default the newest."""
    stage: tuple[str, ...] = ()
    """NAME=PATH: where a stage of the model is, if it is not in the run's folder (a run or a file)."""


def loss(command: LossCommand) -> None:
    """Writes the curve."""
    import jax

    from unified_jax.data.world import World
    from unified_jax.evaluation.probes.floor import loss_over_time
    from unified_jax.runs.directory import provenance, write_json

    if not 2 <= command.samples <= 1 << 24:
        raise UserError(f"--samples must lie in 2 .. {1 << 24}, found {command.samples}.")
    check_steps(command.times)
    experiment, params, folder, _ = open_for_probe(command.run, command.trust, command.step, command.stage)
    model, data = experiment.model, experiment.data
    need_denoiser(model)
    if not isinstance(data, World) or data.jitter or data.max_objects != 1 or model.modality.channels != 3:
        raise UserError("The Bayes floor is known on the finite world only: World(max_objects=1, jitter=False).")
    process, grid = experiment.preview.plan.with_steps(command.times, None).prepare(model.process)
    del process
    times = [t for t in np.asarray(grid).tolist()[::-1] if t > 0]
    found = loss_over_time(model, params, times, jax.random.key(command.seed), command.samples)
    rows = [one._asdict() for one in found]
    for one in found:
        if not np.isfinite([one.loss, one.floor]).all():
            raise RunError(f"The loss at time {one.t:.3f} is not a finite number ({one.loss}), so nothing was written.")
    write_json(folder / "loss_over_time.json", {"rows": rows} | provenance(experiment))
    _plot_loss(found, folder / "loss_over_time.png")
    print(f"{'t':>6s} {'loss':>10s} {'floor':>10s} {'above':>10s}")
    for one in found:
        print(f"{one.t:6.3f} {one.loss:10.5f} {one.floor:10.5f} {one.loss - one.floor:10.5f}")
    print(folder / "loss_over_time.png")


def _plot_loss(found: list[Any], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(5.5, 3.8), layout="constrained")
    t = [one.t for one in found]
    axis.errorbar(t, [o.loss for o in found], [1.96 * o.loss_error for o in found], fmt="o-", ms=3, label="model")
    axis.errorbar(t, [o.floor for o in found], [1.96 * o.floor_error for o in found], fmt="k--", label="Bayes floor")
    axis.set(xlabel="time (0 data, 1 noise)", ylabel="squared error of the target", yscale="log")
    axis.grid(alpha=0.3)
    axis.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)

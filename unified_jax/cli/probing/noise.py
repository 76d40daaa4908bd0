"""`probe noise`: the gradient noise scale by loss term."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from unified_jax.cli.probing.opened import open_for_probe
from unified_jax.errors import RunError, UserError
from unified_jax.models.stages import BUFFERS, beside, own
from unified_jax.typing import Batch, Params


@dataclass(frozen=True)
class NoiseCommand:
    """The gradient noise scale, from batches of the training split."""

    run: str
    """Run directory."""
    batches: int = 8
    """Batches of the run's size."""
    parts: int = 8
    """Small batches per batch."""
    seed: int = 0
    """Seed of data order and noise, separate from the run's."""
    trust: bool = False
    """Import the custom code that the run keeps."""
    step: int | None = None
    """The checkpoint of this step, of those that are kept; default the newest."""
    stage: tuple[str, ...] = ()
    """NAME=PATH: where a stage of the model is, if it is not in the run's folder (a run or a file)."""


def noise(command: NoiseCommand) -> None:
    """Writes the noise scales."""
    import jax
    from tqdm import tqdm

    from unified_jax.data.pipeline import Pipeline
    from unified_jax.evaluation.probes.noise_scale import measure_noise_scale
    from unified_jax.runs.directory import provenance, write_json
    from unified_jax.training.program import check_trains

    if command.batches < 1 or command.parts < 2:
        raise UserError(
            f"--batches must be at least 1 and --parts at least 2, found {command.batches} and {command.parts}."
        )
    experiment, params, folder, step = open_for_probe(command.run, command.trust, command.step, command.stage)
    check_trains(experiment)
    e = experiment
    pipeline = Pipeline(
        e.data, e.split, e.model.modalities, e.batch_size, command.seed + 1, packer=e.model.packer, vary=True
    )
    batches = [pipeline.batch(i).arrays for i in range(command.batches)]
    rows = len(next(iter(batches[0].values()))) if batches else 0
    if command.parts < 2 or not rows or rows % command.parts:
        raise UserError(f"--parts must be at least 2 and divide the {rows} rows of a batch, found {command.parts}.")
    weights = dict(getattr(e.balance, "weights", ()))
    with tqdm(total=len(batches), unit="batch", dynamic_ncols=True) as bar:
        found = measure_noise_scale(
            losses_at(e.model, beside(params), step),
            e.model.terms,
            weights,
            own(params),
            batches,
            jax.random.key(command.seed),
            command.parts,
            bar.update,
        )
    each = e.batch_size // rows
    for name, one in found.items():
        if not math.isfinite(one.noise):
            raise RunError(f"The gradients of {name!r} are not finite numbers, so nothing was written.")
    plain = {
        name: one._asdict() | {"scale": _plain(one.scale), "examples": _plain(each * one.scale)}
        for name, one in found.items()
    }
    write_json(folder / "noise_scale.json", {"terms": plain, "batches": len(batches)} | provenance(e))
    print(f"{'term':12s} {'noise scale, examples':>22s} {'|G|^2':>12s} {'tr(S), a row':>14s}")
    for name, one in found.items():
        print(f"{name:12s} {each * one.scale:22.4g} {one.signal:12.4g} {one.noise:14.4g}")
    print(f"batch of this run: {e.batch_size} examples")


def losses_at(model: Any, others: Params, step: int) -> Callable[..., Any]:
    """`Model.losses` as of a step: with the aux and the stages that are beside the parameters, which are constant."""

    def losses(params: Params, _: Any, batch: Batch, key: Any) -> Any:
        return model.losses({**others, **params}, others.get(BUFFERS, {}), batch | {"step": step}, key)

    return losses


def _plain(scale: float) -> float | None:
    """None if the gradient is below the noise: JSON has no infinity."""
    return scale if math.isfinite(scale) else None

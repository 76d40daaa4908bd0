"""`python -m unified_jax.cli.probe KIND --run DIR`: what a trained model attends to, what its loss has left, its noise.

    attention   maps of every block and head while a sample is drawn: PNGs, a GIF over the steps (Diffusion models)
    loss        loss over time beside the Bayes floor (Diffusion models of the finite world): PNG, JSON
    noise       the gradient noise scale by loss term (any model): JSON and a table

Files go to RUN/probes/.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from unified_jax.cli.entry import run_command, use_compilation_cache
from unified_jax.cli.given import parse_given, split_arguments
from unified_jax.errors import UserError


@dataclass(frozen=True)
class AttentionCommand:
    """Attention maps over the steps of one sample; conditions as in sample.py: --given.NAME VALUE."""

    run: str
    """Run directory."""
    steps: int = 10
    """Sampler steps, a frame each."""
    query: tuple[int, int] | None = None
    """A patch (row, column): also where it looks, over the picture."""
    seed: int = 0
    """Of the noise."""


@dataclass(frozen=True)
class LossCommand:
    """Loss over time, without labels, beside the least that is possible."""

    run: str
    """Run directory."""
    times: int = 12
    """Times between data and noise."""
    samples: int = 512
    """Scenes a time."""
    seed: int = 0
    """Of the noise."""


@dataclass(frozen=True)
class NoiseCommand:
    """The gradient noise scale, from batches of the training split."""

    run: str
    """Run directory."""
    batches: int = 8
    """Batches of the run's size."""
    parts: int = 8
    """Small batches that each is cut into."""
    seed: int = 0
    """Of data order and noise, apart from the run's."""


def main(arguments: list[str]) -> None:
    """The command."""
    kinds: dict[str, tuple[Any, Callable[[Any, dict[str, str]], None]]] = {
        "attention": (AttentionCommand, attention),
        "loss": (LossCommand, loss),
        "noise": (NoiseCommand, noise),
    }
    if not arguments or arguments[0] not in kinds:
        raise UserError(f"Usage: probe KIND --run DIR; kinds: {', '.join(kinds)}.")
    given, rest = split_arguments(arguments[1:])
    kind, act = kinds[arguments[0]]
    if given and kind is not AttentionCommand:
        raise UserError("--given belongs to the probe of attention.")
    command = tyro.cli(kind, prog=f"probe {arguments[0]}", args=rest)
    use_compilation_cache()
    act(command, given)


def _open(run: str) -> tuple[Any, Any, Path]:
    """(experiment, parameters of the first average, folder for the files)."""
    from unified_jax.cli.opened import open_run

    experiment, params, _ = open_run(Path(run))
    folder = Path(run) / "probes"
    folder.mkdir(exist_ok=True)
    return experiment, params, folder


def _need_diffusion(model: Any) -> None:
    from unified_jax.models.diffusion import Diffusion

    if not isinstance(model, Diffusion):
        raise UserError(f"This probe is for class-conditional models (Diffusion), not for {type(model).__name__}.")


def attention(command: AttentionCommand, given: dict[str, str]) -> None:
    """The maps."""
    import jax

    from unified_jax.evaluation.probes.attention import map_grid, query_maps, trace_attention
    from unified_jax.modalities.image import to_pillow

    experiment, params, folder = _open(command.run)
    model = experiment.model
    _need_diffusion(model)
    labels = parse_given(given, model.conditions, 1)
    plan = experiment.preview.plan.with_steps(command.steps, None)
    trace = trace_attention(model, params, labels, plan, jax.random.key(command.seed))
    shown, name = trace.weights, "attention"
    if command.query is not None:
        try:
            size = model.modality.shape[0] // model.modality.patch, model.modality.shape[1] // model.modality.patch
            shown = np.stack([query_maps(maps, size, command.query) for maps in trace.weights])
        except ValueError as error:
            raise UserError(f"--query: {error}") from error
        name = f"attention_from_{command.query[0]}_{command.query[1]}"
    pictures = model.modality.from_model(trace.x0)
    frames = []
    for maps, picture, t in zip(shown, pictures, trace.t, strict=True):
        frames.append(_beside(to_pillow(picture), map_grid(maps), f"t = {t:.2f}"))
    for i in sorted({0, len(frames) // 2, len(frames) - 1}):
        frames[i].save(folder / f"{name}_step_{i:03d}.png")
    frames[0].save(folder / f"{name}.gif", save_all=True, append_images=frames[1:], duration=400, loop=0)
    print(f"{folder / name}.gif and the first, middle and last of its {len(frames)} frames as PNG")


def _beside(picture: Any, grid: Any, title: str) -> Any:
    from PIL import Image as Pillow
    from PIL import ImageDraw

    side = 128
    canvas = Pillow.new("RGB", (side + 12 + grid.width, max(grid.height, side + 30)), "white")
    canvas.paste(picture.convert("RGB").resize((side, side), Pillow.Resampling.NEAREST), (4, 20))
    canvas.paste(grid, (side + 12, 0))
    ImageDraw.Draw(canvas).text((6, 4), title, fill="black")
    return canvas


def loss(command: LossCommand, given: dict[str, str]) -> None:
    """The curve."""
    import jax

    from unified_jax.data.world import World
    from unified_jax.evaluation.probes.floor import loss_over_time
    from unified_jax.training.run_dir import provenance, write_json

    experiment, params, folder = _open(command.run)
    model, data = experiment.model, experiment.data
    _need_diffusion(model)
    if not isinstance(data, World) or data.jitter or data.max_objects != 1 or model.modality.channels != 3:
        raise UserError("The Bayes floor is known on the finite world only: World(max_objects=1, jitter=False).")
    process, grid = experiment.preview.plan.with_steps(command.times, None).prepare(model.process)
    del process
    times = [t for t in np.asarray(grid).tolist()[::-1] if t > 0]
    found = loss_over_time(model, params, times, jax.random.key(command.seed), command.samples)
    rows = [one._asdict() for one in found]
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


def noise(command: NoiseCommand, given: dict[str, str]) -> None:
    """The scale."""
    import jax
    from tqdm import tqdm

    from unified_jax.data.pipeline import Pipeline
    from unified_jax.evaluation.probes.noise_scale import measure_noise_scale
    from unified_jax.training.run_dir import provenance, write_json

    experiment, params, folder = _open(command.run)
    e = experiment
    pipeline = Pipeline(e.data, e.split, e.model.modalities, e.batch_size, command.seed + 1, packer=e.model.packer)
    batches = [pipeline.batch(i).arrays for i in range(command.batches)]
    rows = len(next(iter(batches[0].values()))) if batches else 0
    if command.parts < 2 or not rows or rows % command.parts:
        raise UserError(f"--parts must be at least 2 and divide the {rows} rows of a batch, found {command.parts}.")
    weights = dict(getattr(e.balance, "weights", ()))
    with tqdm(total=len(batches), unit="batch", dynamic_ncols=True) as bar:
        found = measure_noise_scale(
            e.model.losses,
            e.model.terms,
            weights,
            params,
            batches,
            jax.random.key(command.seed),
            command.parts,
            bar.update,
        )
    each = e.batch_size // rows
    plain = {name: one._asdict() | {"examples": each * one.scale} for name, one in found.items()}
    write_json(folder / "noise_scale.json", {"terms": plain, "batches": len(batches)} | provenance(e))
    print(f"{'term':12s} {'noise scale, examples':>22s} {'|G|^2':>12s} {'tr(S), a row':>14s}")
    for name, one in found.items():
        print(f"{name:12s} {each * one.scale:22.4g} {one.signal:12.4g} {one.noise:14.4g}")
    print(f"batch of this run: {e.batch_size} examples")


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))

"""`python sample.py --run DIR ...`: draw samples from a run directory alone."""

import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from unified_jax.cli.entry import use_compilation_cache
from unified_jax.cli.given import parse_given, split_arguments
from unified_jax.cli.sampling import parse_sampler
from unified_jax.config import to_plain
from unified_jax.errors import UserError
from unified_jax.models.plan import Plan, Spacing
from unified_jax.samplers.guidance import Guidance

FORMATS = ("sheet", "png", "npz")


@dataclass(frozen=True)
class SampleCommand:
    """Draw samples. Conditions: --given.NAME VALUE[,VALUE...], --given.caption TEXT, or @FILE with one value a line."""

    run: str
    """Run directory."""
    out: str = ""
    """Output directory; default RUN/samples."""
    count: int = 16
    """Number of samples."""
    batch: int = 64
    """Samples a compiled call; does not change what is drawn."""
    seed: int = 0
    """Sample i of a seed is always the same."""
    formats: str = "sheet"
    """What is written, separated by commas: sheet, png, npz."""
    ema: str = "0"
    """Which average of the parameters: its index, or none."""
    best: bool = False
    """Use the checkpoint with the lowest validation loss instead of the newest."""
    sampler: str = ""
    """NAME[:OPTION=VALUE,...], such as heun, ddim:eta=0.5 or dpm_solver:order=3,sde=true. Default as in the run's
    previews; so are the next eight."""
    steps: int | None = None
    """Sampler steps."""
    guidance: float | None = None
    """Classifier-free guidance scale s = 1 + w; 1 is none."""
    guidance_interval: tuple[float, float] | None = None
    """Guide only between these times (0 data, 1 noise)."""
    guidance_power: float | None = None
    """Power-cosine schedule of the scale."""
    guidance_rescale: float | None = None
    """Share of the conditional standard deviation that is restored."""
    spacing: Spacing | None = None
    """Spacing of the steps."""
    shift: float | None = None
    """Resolution shift of the time grid."""
    clip: bool | None = None
    """Clip the predicted x0."""
    trust: bool = False
    """Allow classes of your own modules in the run's configuration."""
    devices: int = 0
    """Use this many fake CPU devices; 0 uses what there is."""


def main(arguments: list[str]) -> None:
    """The command."""
    given_text, rest = split_arguments(arguments)
    command = tyro.cli(SampleCommand, prog="sample.py", args=rest)
    formats = tuple(part.strip() for part in command.formats.split(","))
    if unknown := sorted(set(formats) - set(FORMATS)):
        raise UserError(f"--formats {','.join(unknown)} is unknown; expected some of {', '.join(FORMATS)}.")
    if command.count < 1 or command.batch < 1:
        raise UserError(f"--count and --batch must be at least 1, found {command.count} and {command.batch}.")
    import jax

    if command.devices:
        jax.config.update("jax_num_cpu_devices", command.devices)
    use_compilation_cache()
    from tqdm import tqdm

    from unified_jax.cli.opened import open_run
    from unified_jax.models.sampling import generate_many
    from unified_jax.training.run_dir import load_experiment, provenance

    out = Path(command.out or Path(command.run) / "samples")
    model = load_experiment(Path(command.run), command.trust).model
    given = parse_given(given_text, model.conditions, command.count)
    _make(out)
    experiment, params, step = open_run(Path(command.run), command.ema, command.best, command.trust)
    plan = _plan(experiment.preview.plan, command)
    plan.prepare(model.process)
    name = model.modality.name
    with tqdm(total=command.count, unit="sample", dynamic_ncols=True) as bar:
        made = generate_many(
            model, params, given, (name,), command.count, command.seed, plan, command.batch, experiment.rules,
            bar.update,
        )  # fmt: skip
    request = {f.name: getattr(command, f.name) for f in fields(command)}
    request |= {"given": given_text, "plan": to_plain(plan), "step": step}
    write_samples(out, model, given, model.modality.from_model(made[name]), formats, provenance(experiment) | request)
    print(f"{command.count} samples in {out}")


def _plan(plan: Plan, command: SampleCommand) -> Plan:
    given = {name: value for name, value in vars(command).items() if value is not None}
    low, high = given.get("guidance_interval", (plan.guidance.low, plan.guidance.high))
    try:
        guidance = Guidance(
            given.get("guidance", plan.guidance.scale), low, high,
            given.get("guidance_power", plan.guidance.power), given.get("guidance_rescale", plan.guidance.rescale),
            plan.guidance.channels,
        )  # fmt: skip
    except ValueError as error:
        raise UserError(str(error)) from error
    sampler = parse_sampler(command.sampler) if command.sampler else plan.sampler
    changed = {name: given[name] for name in ("steps", "spacing", "shift", "clip") if name in given}
    return replace(plan, sampler=sampler, guidance=guidance, **changed)


def _make(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / ".writable").write_text("")
        (out / ".writable").unlink()
    except OSError as error:
        raise UserError(f"The output directory {str(out)!r} cannot be written: {error.strerror or error}.") from error


def write_samples(
    out: Path, model: Any, given: dict[str, np.ndarray], images: np.ndarray, formats: tuple[str, ...], request: Any
) -> None:
    """sheet.png, images/NNNNNN.png, samples.npz (as asked) and request.json."""
    from unified_jax.modalities.image import sheet
    from unified_jax.training.run_dir import write_json

    if "sheet" in formats:
        titles = [" ".join(c.title(int(given[c.name][i])) for c in model.conditions) for i in range(len(images))]
        sheet(images, titles=titles if model.conditions else None).save(out / "sheet.png")
    if "png" in formats:
        (out / "images").mkdir(exist_ok=True)
        for i, image in enumerate(images):
            model.modality.save(out / "images" / f"{i:06d}.png", image)
    if "npz" in formats:
        arrays = {model.modality.name: images, "index": np.arange(len(images))}
        arrays |= {f"given/{name}": value for name, value in given.items()}
        np.savez(out / "samples.npz", **arrays)
    write_json(out / "request.json", json.loads(json.dumps(request)))

"""`python sample.py --run DIR ...`: draw samples from a run directory alone."""

import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from unified_jax.cli.entry import run_command, start_process, use_compilation_cache, use_fake_devices
from unified_jax.cli.given import read_given, split_arguments
from unified_jax.cli.outputs import FORMATS, write_samples
from unified_jax.cli.sampling import parse_sampler
from unified_jax.config import to_plain
from unified_jax.errors import UserError, meant
from unified_jax.evaluation.finite import check_samples
from unified_jax.hosts import Hosts, together, writes
from unified_jax.precision import same_numbers
from unified_jax.runs.flags import check_devices, check_room, check_seed, check_steps, parse
from unified_jax.runs.folders import check_folder
from unified_jax.samplers.guidance import Guidance
from unified_jax.samplers.plan import Plan, Spacing

FREE = "free"
"""--generate free."""


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
    generate: str = ""
    """What is made, in this order, separated by commas; default: everything that is not given. With
    "free" the model chooses what it makes and when it ends (Transfusion)."""
    formats: str = ""
    """What is written, separated by commas: sheet, png (pictures), files (one a sample and modality: PNG, GIF, WAV,
    PLY, TXT, CSV), npz. Default sheet; of several modalities sheet,files."""
    ema: str = "0"
    """Which average of the parameters: its index, or none."""
    best: bool = False
    """Use the checkpoint with the lowest validation loss instead of the newest."""
    sampler: str = ""
    """NAME[:OPTION=VALUE,...], such as heun, ddim:eta=0.5 or dpm_solver:order=3,sde=true. Default as in the run's
    previews; so are the next ten."""
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
    temperature: float | None = None
    """Of text; 0 takes the likeliest token."""
    top_p: float | None = None
    """Text is drawn among the fewest tokens that hold this share of the probability."""
    trust: bool = False
    """Allow classes of your own modules in the run's configuration."""
    devices: int = 0
    """Use this many fake CPU devices; 0 uses what there is."""
    hosts: Hosts = Hosts()
    """Several processes as one request (docs/launch.md)."""


@same_numbers()
def main(arguments: list[str]) -> None:
    """The command."""
    given_text, rest = split_arguments(arguments)
    command = parse(SampleCommand, "sample.py", rest)
    formats = _check(command)
    use_fake_devices(command.devices)
    use_compilation_cache()
    start_process(command.hosts)
    from tqdm import tqdm

    from unified_jax.models.free_running import ORDER
    from unified_jax.models.sampling import generate_many
    from unified_jax.runs.directory import load_experiment, provenance
    from unified_jax.runs.opened import open_run

    out = Path(command.out or Path(command.run) / "samples")
    model = load_experiment(Path(command.run), command.trust).model
    check_room("--count", command.count, model.modalities)
    given = read_given(given_text, model, command.count)
    _, wanted = model.request(tuple(given), _wanted(command.generate, given, model))
    formats = formats or (("sheet", "files") if len(model.wantable) > 1 else ("sheet",))
    together(lambda: check_folder(out), by="first")
    experiment, params, step = open_run(Path(command.run), command.ema, command.best, command.trust)
    plan = _plan(experiment.preview.plan, command)
    for process in model.processes:
        plan.prepare(process)
    with tqdm(total=command.count, unit="sample", dynamic_ncols=True, disable=not writes()) as bar:
        made = generate_many(
            model, params, given, wanted, command.count, command.seed, plan, command.batch, experiment.rules, bar.update
        )
    check_samples(made)
    if not writes():
        return
    by_name: dict[str, Any] = {m.name: m for m in model.modalities}
    order = made.pop(ORDER, None)
    drawn = {name: by_name[name].from_model(value) for name, value in made.items()}
    request = {f.name: getattr(command, f.name) for f in fields(command) if f.name != "hosts"}
    request |= {"given": given_text, "plan": to_plain(plan), "step": step}
    if order is not None:
        names = [m.name for m in model.modalities]
        request["made"] = [[names[m] for m in row if m >= 0] for row in order]
        drawn = {name: value for name, value in drawn.items() if any(name in row for row in request["made"])}
    write_samples(out, model.modalities, given, drawn, formats, provenance(experiment) | request)
    print(f"{command.count} samples in {out}")


def _check(command: SampleCommand) -> tuple[str, ...]:
    """The formats. Raises UserError for what no run can answer."""
    formats = tuple(part.strip() for part in command.formats.split(",")) if command.formats else ()
    for name in formats:
        if name not in FORMATS:
            near = meant(name, FORMATS)
            raise UserError(f"--formats {name} is unknown{near} Expected some of {', '.join(FORMATS)}.")
    if command.count < 1 or command.batch < 1:
        raise UserError(f"--count and --batch must be at least 1, found {command.count} and {command.batch}.")
    check_seed(command.seed)
    check_steps(command.steps)
    check_devices(command.devices)
    return formats


def _wanted(text: str, given: dict[str, Any], model: Any) -> tuple[str, ...]:
    """What --generate names, or everything that is not given."""
    names = model.wantable
    wanted = tuple(part.strip() for part in text.split(",")) if text else tuple(n for n in names if n not in given)
    unknown = [name for name in wanted if name not in (*names, FREE)]
    if unknown and names:
        near = meant(unknown[0], names)
        raise UserError(f"--generate {unknown[0]!r} is unknown{near} This model generates {', '.join(names)}.")
    if len(set(wanted)) != len(wanted):
        raise UserError(f"--generate names each modality at most once; found {text!r}.")
    return wanted


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
    changed = {
        name: given[name] for name in ("steps", "spacing", "shift", "clip", "temperature", "top_p") if name in given
    }
    return replace(plan, sampler=sampler, guidance=guidance, **changed)


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))

"""`unified-jax sample --run DIR ...`: sample from a run directory."""

import sys
from dataclasses import dataclass, fields
from pathlib import Path

import tyro

from unified_jax.cli.entry import run_command, start_process, use_compilation_cache, use_fake_devices
from unified_jax.config import to_plain
from unified_jax.errors import UserError, meant
from unified_jax.hosts import Hosts, together, writes
from unified_jax.modalities.label import named
from unified_jax.precision import check_seed, same_numbers
from unified_jax.runs.flags import check_devices, check_room, check_steps, parse
from unified_jax.runs.folders import check_folder
from unified_jax.runs.given import read_given, split_arguments
from unified_jax.runs.image_edits import EditFlags
from unified_jax.runs.outputs import FORMATS, check_formats, write_samples
from unified_jax.runs.sampling_flags import with_flags
from unified_jax.samplers.plan import Spacing


@dataclass(frozen=True)
class SampleCommand:
    """Sample. Conditions: --given.NAME VALUE[,VALUE...], --given.caption TEXT, or @FILE with one value per line.

    --negative.NAME says what guidance points away from.
    """

    run: str
    """Run directory."""
    out: str = ""
    """Output directory; default RUN/samples."""
    count: int = 16
    """Number of samples."""
    batch: int = 64
    """Samples per compiled call; does not change the samples."""
    first: int = 0
    """Index of the first sample: `--first 17 --count 1` is sample 17 alone."""
    seed: int = 0
    """Seed of the noise: the same seed gives the same samples."""
    seeds: tuple[int, ...] = ()
    """Several seeds, each into OUT_seed_N, in the place of --seed."""
    generate: str = ""
    """Modalities to generate, in this order, separated by commas; default: all that are not given. With "free" the
    model chooses the modalities and the end (Transfusion)."""
    formats: str = ""
    """Outputs, separated by commas: sheet (image grid), png (images), mp4 (videos), files (one per sample and modality:
    PNG, GIF, WAV, PLY, TXT, CSV), npz, adm (arr_0, as ADM's evaluator reads). Default: sheet; for several modalities
    sheet,files."""
    size: tuple[int, int] | None = None
    """Height and width, one of the image's buckets; default: its own."""
    ema: str = "0"
    """EMA of the parameters by index, or none for the trained parameters."""
    best: bool = False
    """Use the checkpoint with the lowest validation loss instead of the newest."""
    step: int | None = None
    """Use the checkpoint of this step, if it is kept."""
    fsdp: int = 0
    """Devices over which the parameters are sharded; 0: as in training, if that mesh fits the devices."""
    stage: tuple[str, ...] = ()
    """NAME=PATH: where a stage of the model is, if it is not in the run's folder (a run or a file)."""
    sampler: str = ""
    """NAME[:OPTION=VALUE,...], such as heun, ddim:eta=0.5 or dpm_solver:order=3,sde=true. The
    default of this and the next twelve is the run's previews."""
    steps: int | None = None
    """Sampling steps."""
    guidance: float | None = None
    """Classifier-free guidance scale s = 1 + w; 1 is no guidance."""
    axes: tuple[str, ...] = ()
    """Several guidance directions NAMES=SCALE, each adding its conditions to those before it: shape,colour=3 size=2."""
    guidance_interval: tuple[float, float] | None = None
    """Guide only between these times (0 data, 1 noise)."""
    guidance_power: float | None = None
    """Power of the power-cosine schedule of the scale; 0 is constant."""
    guidance_rescale: float | None = None
    """Share of the conditional standard deviation that is restored (0 to 1)."""
    spacing: Spacing | None = None
    """Step spacing."""
    shift: float | None = None
    """Resolution shift of the time grid."""
    clip: bool | None = None
    """Clip the predicted x0 to [-1, 1] at every step."""
    complete: bool | None = None
    """Draw labels that are not given uniformly from their classes, instead of asking without them."""
    temperature: float | None = None
    """Temperature of text sampling; 0 is greedy."""
    top_p: float | None = None
    """Nucleus sampling of text: the smallest set of tokens with this total probability."""
    through: tuple[str, ...] | None = None
    """Fields that an any-to-any model makes first where they are neither given nor wanted, and then reads."""
    show_steps: bool = False
    """Show progress within a batch. The program is compiled anew, and samples may differ in the last bit."""
    editing: tyro.conf.OmitArgPrefixes[EditFlags] = EditFlags()
    """Edit images instead of drawing new ones."""
    trust: bool = False
    """Import the custom code that the run keeps."""
    devices: int = 0
    """Use this many fake CPU devices; 0: the real devices."""
    hosts: Hosts = Hosts()
    """Sample with several processes (docs/launch.md)."""


@same_numbers()
def main(arguments: list[str]) -> None:
    """Runs the command."""
    given_text, rest = split_arguments(arguments)
    command = parse(SampleCommand, "unified-jax sample", rest)
    formats = _check(command)
    use_fake_devices(command.devices)
    use_compilation_cache()
    start_process(command.hosts)
    from tqdm import tqdm

    from unified_jax.api.run import load, wanted_of
    from unified_jax.models.base import check_plan
    from unified_jax.models.sizes import of_size
    from unified_jax.runs.directory import load_experiment, provenance, read_names
    from unified_jax.runs.stages import parse_places
    from unified_jax.samplers.watched import watched

    out = Path(command.out or Path(command.run) / "samples")
    model = load_experiment(Path(command.run), command.trust).model
    model = model if command.size is None else of_size(model, command.size)
    check_room("--count", command.count, model.modalities)
    modalities = named(model.modalities, read_names(Path(command.run)))
    given = read_given(given_text, model, command.count, command.first, modalities)
    asked = tuple(part.strip() for part in command.generate.split(",")) if command.generate else ()
    _, wanted = model.request(tuple(given), wanted_of(asked, given, model, "--generate"))
    formats = formats or (("sheet", "files") if len(model.wantable) > 1 else ("sheet",))
    check_formats(formats, model.modalities, wanted)
    outs = {seed: out.with_name(f"{out.name}_seed_{seed}") for seed in command.seeds} or {command.seed: out}
    together(lambda: [check_folder(folder) for folder in outs.values()], by="first")
    run = load(
        command.run, ema=command.ema, best=command.best, step=command.step, trust=command.trust,
        stages=parse_places(command.stage), fsdp=command.fsdp,
    )  # fmt: skip
    run = run if command.size is None else run.sized(*command.size)
    plan = with_flags(run.plan(), vars(command))
    check_plan(model, plan)
    which, total = (command.first, command.count), command.count * len(outs)
    edit, rows = command.editing.read(model, plan, range(command.first, sum(which)))
    request = {f.name: getattr(command, f.name) for f in fields(command) if f.name not in ("hosts", "seeds", "editing")}
    request |= provenance(run.experiment) | {"given": given_text, "plan": to_plain(plan), "step": run.step}
    request |= {"editing": vars(command.editing)} if edit else {}
    with tqdm(total=total, unit="sample", dynamic_ncols=True, disable=not writes()) as bar:
        if command.show_steps:
            plan = watched(plan, lambda done: bar.set_postfix_str(f"batch {done:.0%}"))
        for seed, folder in outs.items():
            made = run.sample_rows(given | rows, wanted, which, seed, plan, command.batch, bar.update, edit)
            if writes():
                chosen = {} if made.chosen is None else {"made": made.chosen}
                shown = given | {name: value for name, value in made.given.items() if name not in rows}
                write_samples(folder, modalities, shown, made, formats, request | {"seed": seed} | chosen)
    if writes():
        print(f"{total} samples in {', '.join(map(str, outs.values()))}")


def _check(command: SampleCommand) -> tuple[str, ...]:
    """The formats. Raises UserError for options that no run supports."""
    formats = tuple(part.strip() for part in command.formats.split(",")) if command.formats else ()
    for name in formats:
        if name not in FORMATS:
            near = meant(name, FORMATS)
            raise UserError(f"--formats {name} is unknown{near} Expected some of {', '.join(FORMATS)}.")
    if command.count < 1 or command.batch < 1:
        raise UserError(f"--count and --batch must be at least 1, found {command.count} and {command.batch}.")
    if command.first < 0:
        raise UserError(f"--first must be at least 0, found {command.first}.")
    if len(set(command.seeds)) < len(command.seeds):
        raise UserError(f"--seeds names a seed twice: {' '.join(map(str, command.seeds))}.")
    for seed in (command.seed, *command.seeds):
        check_seed(seed)
    check_steps(command.steps)
    check_devices(command.devices)
    return formats


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))

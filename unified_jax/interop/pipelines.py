"""A pipeline in a folder as diffusers saves it: the parts that model_index.json names, and what its scheduler says.

    text_encoder/  tokenizer/  unet/  vae/  scheduler/      Stable Diffusion 1.x and 2.x
    with text_encoder_2/, tokenizer_2/                      SDXL
    ... transformer/ instead of unet/                       PixArt, SD3 (with three text encoders), Flux

A scheduler is a process, and a plan to sample it. Those of diffusers that begin their steps at 1 ("leading", with an
offset) and end at the level of the first step instead of the data are read as they are: a plan's `offset` and `last`.
`interop.flow_scheduler` reads those of flows.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from unified_jax.errors import UserError
from unified_jax.interop.folder import Settings, read_json
from unified_jax.processes.gaussian import DiscreteGaussian, Variance
from unified_jax.processes.grids import Last, Spacing
from unified_jax.processes.schedules import Schedule
from unified_jax.processes.targets import Target
from unified_jax.samplers.choice import Ddim, Ddpm, DpmSolver, Euler, EulerAncestral, Pndm, UniPc
from unified_jax.samplers.guidance import Guidance
from unified_jax.samplers.plan import SamplingPlan

INDEX = "model_index.json"
SCHEDULER = "scheduler_config.json"
UNUSED = ("safety_checker", "feature_extractor", "image_encoder")
"""Parts that draw nothing; their folders are not read."""

SCHEDULES: dict[str, Schedule] = {
    "linear": "linear",
    "scaled_linear": "scaled_linear",
    "squaredcos_cap_v2": "squared_cosine",
}
TARGETS: dict[str, Target] = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
VARIANCES: dict[str, Variance] = {
    "fixed_small": "fixed_small",
    "fixed_small_log": "fixed_small",
    "fixed_large": "fixed_large",
}
SPACINGS: dict[str, Spacing] = {"leading": "leading", "trailing": "trailing", "linspace": "default"}
PLACED: dict[str, tuple[Any, ...]] = {
    "euler_at_final": (False,), "use_lu_lambdas": (False,), "lower_order_final": (True,), "predict_x0": (True,),
    "final_sigmas_type": ("zero",), "lambda_min_clipped": (float("-inf"), None), "disable_corrector": ([],),
    "interpolation_type": ("linear",), "timestep_type": ("discrete",), "sigma_min": (None,), "sigma_max": (None,),
}  # fmt: skip
"""Options of solvers over noise levels that have one value here, the first by default."""
OTHER_FORMS = ("bh1", "bh2", "logrho")
"""Other solvers' `solver_type`, in whose place the reference takes its own default."""
LEVELS = ("karras", "exponential", "beta")
"""Spacings by level, `use_KIND_sigmas`."""


def is_pipeline(source: str | Path) -> bool:
    """Whether a path is the folder of a pipeline."""
    return (Path(source) / INDEX).is_file()


def parts_of(folder: Path, known: Mapping[str, tuple[str, ...]]) -> dict[str, Path]:
    """{part: its folder} of a pipeline. `known` has the classes of each part that is read.

    Raises UserError for parts of other classes, parts that are missing, and parts that nobody reads.
    """
    index = read_json(folder / INDEX)
    named = {
        name: value[1]
        for name, value in index.items()
        if not name.startswith("_") and isinstance(value, list) and len(value) == 2 and value[1] is not None
    }
    what = f"{str(folder / INDEX)!r} ({index.get('_class_name')})"
    if strange := sorted(set(named) - set(known) - set(UNUSED)):
        raise UserError(f"{what} has the part {strange[0]!r}, which is not read here; expected {', '.join(known)}.")
    for name, classes in known.items():
        if name not in named:
            raise UserError(f"{what} names no {name}; a pipeline that is read here has {', '.join(known)}.")
        if named[name] not in classes:
            raise UserError(f"{what}: its {name} is a {named[name]}; expected {' or '.join(classes)}.")
        if not (folder / name).is_dir():
            raise UserError(f"The folder {str(folder)!r} lacks {name}/, which its {INDEX} names.")
    return {name: folder / name for name in known}


def class_of(folder: Path, file: str = INDEX) -> str:
    """The class that the index of a pipeline, or another file, names; empty where it names none."""
    return str(read_json(folder / file).get("_class_name") or "")


def left_out(folder: Path, names: tuple[str, ...]) -> tuple[str, ...]:
    """These parts, if a pipeline was saved without the first of them, else ()."""
    return names if read_json(folder / INDEX).get(names[0]) == [None, None] else ()


def zeroed(folder: Path) -> bool:
    """Whether the absent prompt of an SDXL is zeros, not the encoding of the empty prompt."""
    return bool(read_json(folder / INDEX).get("force_zeros_for_empty_prompt", True))


def scheduler(
    folder: Path, guidance: float, steps: int = 50, fixed: Mapping[str, Any] = MappingProxyType({})
) -> tuple[DiscreteGaussian, SamplingPlan]:
    """(the process, the plan of so many steps) of a scheduler's folder. `fixed` are options that its pipeline sets.

    Raises UserError for options that are not served, and for another class than the pipeline's index names.
    """
    process, plan = _read(folder, guidance, fixed)
    _check_class(folder)
    return process, replace(plan, steps=steps)


def _check_class(folder: Path) -> None:
    named, found = read_json(folder.parent / INDEX, optional=True).get(folder.name), class_of(folder, SCHEDULER)
    if isinstance(named, list) and named[-1] != found:
        raise UserError(
            f"{str(folder.parent / INDEX)!r} names the scheduler {named[-1]}, and {SCHEDULER} is of a {found}; let "
            "both name the one that is wanted."
        )


def _read(folder: Path, guidance: float, fixed: Mapping[str, Any]) -> tuple[DiscreteGaussian, SamplingPlan]:
    path = folder / SCHEDULER
    config = read_json(path) | dict(fixed)
    said = Settings(config, repr(str(path)))
    name = config.get("_class_name")
    process = _process(said, config)
    match name:
        case "PNDMScheduler":
            if not config.get("skip_prk_steps", False):
                raise UserError(f"{path}: a PNDMScheduler with Runge-Kutta steps is not served; set skip_prk_steps.")
            return process, _chain_plan(Pndm(), said, "leading", guidance, said.get("set_alpha_to_one", False))
        case "DDIMScheduler":
            return process, _chain_plan(Ddim(), said, "leading", guidance, said.get("set_alpha_to_one", True))
        case "DDPMScheduler":
            return process, _chain_plan(Ddpm(), said, "leading", guidance, True)
        case "EulerDiscreteScheduler":
            return process, _by_level(Euler(), said, guidance)
        case "EulerAncestralDiscreteScheduler":
            return process, _by_level(EulerAncestral(), said, guidance)
        case "DPMSolverMultistepScheduler":
            return process, _multistep(_dpm_solver(said), said, guidance, process.schedule == "squared_cosine")
        case "UniPCMultistepScheduler":
            return process, _multistep(_uni_pc(said), said, guidance)
        case _:
            raise UserError(
                f"{path}: a {name} is not read here; expected PNDM, DDIM, DDPM, Euler, EulerAncestral, "
                "DPMSolverMultistep or UniPCMultistep."
            )


def _process(said: Settings, config: Mapping[str, Any]) -> DiscreteGaussian:
    schedule, target = said.get("beta_schedule", "linear"), said.get("prediction_type", "epsilon")
    variance = config.get("variance_type") or "fixed_small"
    for option, value, known in (
        ("beta_schedule", schedule, SCHEDULES),
        ("prediction_type", target, TARGETS),
        ("variance_type", variance, VARIANCES),
    ):
        if value not in known:
            raise UserError(f"{said.what}: {option} is {value!r}; expected one of {', '.join(known)}.")
    if said.get("thresholding", False) or said.get("use_flow_sigmas", False):
        raise UserError(f"{said.what}: thresholding and use_flow_sigmas are not served; expected false.")
    betas = config.get("trained_betas") or ()
    try:
        return DiscreteGaussian(
            schedule=SCHEDULES[schedule], steps=said.get("num_train_timesteps", 1000), table=tuple(betas),
            beta_start=said.get("beta_start", 1e-4), beta_end=said.get("beta_end", 0.02), rescale_betas=False,
            zero_snr=said.get("rescale_betas_zero_snr", False), target=TARGETS[target], variance=VARIANCES[variance],
        )  # fmt: skip
    except ValueError as error:
        raise UserError(f"{said.what} describes no process: {error}") from error


def _chain_plan(sampler: Any, said: Settings, spacing: str, guidance: float, to_data: bool) -> SamplingPlan:
    """Of a solver over a process's own steps: theirs ends at the level of the first step unless `to_data`."""
    last: Last = "data" if to_data else "first"
    clip = sampler != Pndm() and said.get("clip_sample", True)
    if clip:
        said.require("clip_sample_range", 1.0)
    return _plan(sampler, said, spacing, guidance, last, clip)


def _placed(sampler: Any, said: Settings, guidance: float, last: Last = "data") -> SamplingPlan:
    """Of a solver over noise levels; `last` is of spacings that count steps from the data."""
    for option, allowed in PLACED.items():
        said.require(option, *allowed)
    plan = _plan(sampler, said, "linspace", guidance)
    return replace(plan, last=last) if plan.spacing in ("default", "leading") else plan


def _by_level(sampler: Any, said: Settings, guidance: float) -> SamplingPlan:
    """Of Euler's methods, which begin at the first level's noise alone unless steps are counted from the data."""
    plan = _placed(sampler, said, guidance)
    return plan if said.config.get("timestep_spacing") == "leading" else replace(plan, begin="level")


def _multistep(sampler: Any, said: Settings, guidance: float, cut: bool = False) -> SamplingPlan:
    """Of a solver of several steps, which tells the network whole steps: of Karras' levels the nearest, unless `cut`.

    Raises UserError for levels between whole steps whose fractions the reference cuts off.
    """
    plan = _placed(sampler, said, guidance, "instead")
    if plan.spacing in ("exponential", "beta") or (plan.spacing == "karras" and cut):
        raise UserError(
            f"{said.what}: use_{plan.spacing}_sigmas is not served here: the reference cuts the fractions of its steps "
            "off; choose another scheduler."
        )
    return replace(plan, whole=plan.spacing == "karras")


def _plan(
    sampler: Any, said: Settings, spacing: str, guidance: float, last: Last = "data", clip: bool = False
) -> SamplingPlan:
    found = said.get("timestep_spacing", spacing)
    if found not in SPACINGS:
        raise UserError(f"{said.what}: timestep_spacing is {found!r}; expected one of {', '.join(SPACINGS)}.")
    chosen: list[Any] = [kind for kind in LEVELS if said.get(f"use_{kind}_sigmas", False)]
    offset = said.get("steps_offset", 0) if found == "leading" and not chosen else 0
    return SamplingPlan(
        sampler, 50, Guidance(guidance), chosen[0] if chosen else SPACINGS[found], offset=offset, last=last, clip=clip
    )


def _dpm_solver(said: Settings) -> DpmSolver:
    kind = said.get("algorithm_type", "dpmsolver++")
    if kind not in ("dpmsolver++", "sde-dpmsolver++"):
        raise UserError(f"{said.what}: algorithm_type is {kind!r}; expected dpmsolver++ or sde-dpmsolver++.")
    said.require("solver_type", "midpoint", "heun", *OTHER_FORMS)
    form: Any = "heun" if said.config.get("solver_type") == "heun" else "midpoint"
    said.require("solver_order", 2, 1, *(() if kind.startswith("sde") else (3,)))
    order = said.get("solver_order", 2)
    return DpmSolver(order, form, sde=kind.startswith("sde"), as_published=order == 3)


def _uni_pc(said: Settings) -> UniPc:
    said.require("solver_type", "bh2", "bh1", "midpoint", "heun", "logrho")
    said.require("solver_order", 2, 1, 3)
    return UniPc(said.get("solver_order", 2), "bh1" if said.config.get("solver_type") == "bh1" else "bh2")

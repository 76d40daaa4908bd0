r"""The scheduler of a flow as diffusers saves it, FlowMatchEulerDiscreteScheduler: a process, and a plan to sample it.

    even to the data    1, (k - 1) / k, ..., 1 / k, 0                   Flux, whose pipeline says the times itself
    down to the first   k times from 1 to 1 / T, and then 0             Stable Diffusion 3

both shifted, t' = s t / (1 + (s - 1) t). With a static shift the last time of the second is shifted once more before:
the scheduler takes it from a table that is shifted already. A dynamic shift follows from the tokens of an image,

    s = exp(mu),   mu = base + (max - base) (n - n_base) / (n_max - n_base)          "linear": s = mu
"""

import math
from pathlib import Path

from unified_jax.errors import UserError
from unified_jax.interop.folder import Settings, read_json
from unified_jax.interop.pipelines import SCHEDULER
from unified_jax.processes.interpolant import Interpolant
from unified_jax.processes.times import shift_times
from unified_jax.samplers.choice import Euler
from unified_jax.samplers.guidance import Guidance
from unified_jax.samplers.plan import SamplingPlan

FLOW = "FlowMatchEulerDiscreteScheduler"
REFUSED = ("invert_sigmas", "stochastic_sampling", "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")


def flow_scheduler(
    folder: Path, guidance: float, steps: int, tokens: int, even: bool = False
) -> tuple[Interpolant, SamplingPlan]:
    """(the process, the plan) of a scheduler's folder.

    tokens   patches of the sampled image, on which a dynamic shift depends
    even     whether the times are even to the data

    Raises UserError for another scheduler, or options that are not served.
    """
    path = folder / SCHEDULER
    config = read_json(path)
    s = Settings(config, repr(str(path)))
    if config.get("_class_name") != FLOW:
        raise UserError(f"{path}: a {config.get('_class_name')} is not read for this pipeline; expected {FLOW}.")
    for option in REFUSED:
        s.require(option, False, None)
    s.require("shift_terminal", None)
    total = s.get("num_train_timesteps", 1000)
    dynamic = s.get("use_dynamic_shifting", False)
    shift = _dynamic(s, tokens) if dynamic else s.get("shift", 1.0)
    if not 0 < shift < math.inf:
        raise UserError(f"{path} gives the shift {shift:g} for an image of {tokens} tokens; expected a positive one.")
    lowest = 1.0 / total if dynamic else shift_times(1.0 / total, shift)
    plan = SamplingPlan(Euler(), steps, Guidance(guidance), shift=shift, lowest=0.0 if even else lowest)
    return Interpolant(time_scale=float(total)), plan


def _dynamic(s: Settings, tokens: int) -> float:
    s.require("time_shift_type", "exponential", "linear")
    first, last = s.get("base_image_seq_len", 256), s.get("max_image_seq_len", 4096)
    if first == last:
        raise UserError(f"{s.what}: base_image_seq_len and max_image_seq_len are both {first}; expected two lengths.")
    low, high = s.get("base_shift", 0.5), s.get("max_shift", 1.15)
    mu = low + (high - low) * (tokens - first) / (last - first)
    return mu if s.config.get("time_shift_type") == "linear" else math.exp(mu)

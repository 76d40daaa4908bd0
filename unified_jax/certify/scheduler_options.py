"""Family `scheduler`: the options of diffusers' schedulers that are served, and which go together.

Options are refused where the reference has no value (variances whose logarithm it takes the root of, a last level of 0
for solvers of eps), or refuses them itself.
"""

from typing import Any

from unified_jax.certify import Unserved
from unified_jax.certify.options import (
    Check,
    anything,
    count,
    each,
    either,
    flag,
    mapping,
    named,
    number,
    optional,
    positive,
    require,
    whole,
)  # fmt: skip

Options = dict[str, Check]

TOP: Options = {"scheduler": anything, "seed": anything, "shape": anything, "ctor": mapping, "set": mapping}
TOP |= {"step": mapping, "steps": optional(count), "add_t": each(whole), "learn_var": flag}

SPACING = either("linspace", "leading", "trailing")
SCHEDULE = either("linear", "scaled_linear", "squaredcos_cap_v2")
CHAIN: Options = {"num_train_timesteps": count, "beta_start": number, "beta_end": number, "beta_schedule": SCHEDULE}
CHAIN |= {"trained_betas": optional(each(number)), "rescale_betas_zero_snr": flag, "steps_offset": whole}
CHAIN |= {"prediction_type": either("epsilon", "sample", "v_prediction"), "timestep_spacing": SPACING}
CHAIN |= {"_class_name": anything, "_diffusers_version": anything}
LIMITS: Options = {"thresholding": flag, "dynamic_thresholding_ratio": number, "sample_max_value": number}
CLIPPED: Options = CHAIN | {"clip_sample": flag, "clip_sample_range": number}
NAMED: Options = {f"use_{kind}_sigmas": flag for kind in ("karras", "exponential", "beta")}
FINAL: Options = {"final_sigmas_type": either("zero", "sigma_min")}
ENDS: Options = {"sigma_min": optional(positive), "sigma_max": optional(positive)}
MULTISTEP: Options = CHAIN | LIMITS | NAMED | FINAL | {"solver_order": either(1, 2, 3), "lower_order_final": flag}
MULTISTEP |= {"prediction_type": either("epsilon", "sample", "v_prediction", "flow_prediction"), "flow_shift": positive}
MULTISTEP |= {"use_flow_sigmas": flag, "use_dynamic_shifting": flag, "time_shift_type": either("exponential")}

VARIANCE = either("fixed_small", "fixed_small_log", "fixed_large", "learned_range")
CHURN: Options = {"s_churn": number, "s_noise": number, "s_tmin": number}
CHURN |= {"s_tmax": lambda value: number(value) or value == float("inf")}

CTORS: dict[str, Options] = {
    "DDPMScheduler": CLIPPED
    | LIMITS
    | {"variance_type": VARIANCE, "beta_schedule": either("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid")},
    "DDIMScheduler": CLIPPED | LIMITS | {"set_alpha_to_one": flag},
    "DDIMInverseScheduler": CLIPPED | {"set_alpha_to_one": flag, "timestep_spacing": either("leading", "trailing")},
    "PNDMScheduler": {name: known for name, known in CHAIN.items() if name != "rescale_betas_zero_snr"}
    | {"prediction_type": either("epsilon", "v_prediction"), "skip_prk_steps": flag, "set_alpha_to_one": flag},
    "EulerDiscreteScheduler": CHAIN
    | NAMED
    | FINAL
    | ENDS
    | {
        "interpolation_type": either("linear", "log_linear"),
        "timestep_type": either("discrete", "continuous"),
    },
    "EulerAncestralDiscreteScheduler": CHAIN | {"prediction_type": either("epsilon", "v_prediction")},
    "DPMSolverMultistepScheduler": MULTISTEP
    | {
        "algorithm_type": either("dpmsolver", "dpmsolver++", "sde-dpmsolver", "sde-dpmsolver++"),
        "solver_type": either("midpoint", "heun", "logrho", "bh1", "bh2"),
        "euler_at_final": flag,
        "use_lu_lambdas": flag,
        "lambda_min_clipped": lambda value: number(value) or value == float("-inf"),
        "variance_type": either(None, "learned", "learned_range"),
    },
    "UniPCMultistepScheduler": MULTISTEP
    | ENDS
    | {
        "predict_x0": flag,
        "solver_type": either("bh1", "bh2", "midpoint", "heun", "logrho"),
        "disable_corrector": each(whole),
        "solver_p": either(None),
        "time_shift_type": either("exponential", "linear"),
        "shift_terminal": optional(number),
    },
    "FlowMatchEulerDiscreteScheduler": NAMED
    | {f"{end}_{what}": anything for end in ("base", "max") for what in ("shift", "image_seq_len")}  # pipelines' own
    | {
        "num_train_timesteps": count,
        "shift": positive,
        "use_dynamic_shifting": flag,
        "time_shift_type": either("exponential", "linear"),
        "shift_terminal": optional(number),
        "invert_sigmas": flag,
        "stochastic_sampling": flag,
        "_class_name": anything,
        "_diffusers_version": anything,
    },
}
STEPS: dict[str, Options] = {
    "DDIMScheduler": {"eta": number, "use_clipped_model_output": flag},
    "EulerDiscreteScheduler": CHURN,
    "FlowMatchEulerDiscreteScheduler": CHURN,  # which the scheduler itself ignores
}
SETS: dict[str, Options] = {
    "EulerDiscreteScheduler": {"sigmas": each(number)},
    "DPMSolverMultistepScheduler": {"mu": number},
    "UniPCMultistepScheduler": {"mu": number},
    "FlowMatchEulerDiscreteScheduler": {"mu": number, "sigmas": each(positive)},
}


def check(config: dict[str, Any]) -> None:
    """Raises Unserved for the first option, or the first two together, that are not served."""
    name = config.get("scheduler")
    if not isinstance(name, str) or name not in CTORS:
        raise Unserved(named("scheduler", name))
    require(config, TOP)
    ctor = require(config.get("ctor", {}), CTORS[name])
    setting = require(config.get("set", {}), SETS.get(name, {}))
    require(config.get("step", {}), STEPS.get(name, {}))
    if config.get("steps") is None and "sigmas" not in setting:
        raise Unserved(named("steps", config.get("steps")))
    for wrong, together in _together(name, ctor, config):
        if wrong:
            raise Unserved(f"option {together} is not served")


def _together(name: str, ctor: dict[str, Any], config: dict[str, Any]) -> list[tuple[Any, str]]:
    """Options that go together, or do not: (whether they are there, their names)."""
    kind, flow, final = (
        ctor.get("prediction_type", "epsilon"),
        ctor.get("use_flow_sigmas", False),
        ctor.get("final_sigmas_type", "zero"),
    )
    betas, learn = ctor.get("trained_betas"), config.get("learn_var", False)
    total, unipc = ctor.get("num_train_timesteps", 1000), name.startswith("UniPC")
    spread = [key for key in (*NAMED, "use_lu_lambdas") if ctor.get(key)]
    spoilt = [key for key in spread if key == "use_lu_lambdas" or not unipc or key != "use_karras_sigmas"]
    algorithm = ctor.get("algorithm_type", "dpmsolver++")
    setting, dynamic = config.get("set", {}), ctor.get("use_dynamic_shifting", False)
    variance = ctor.get("variance_type")
    learns = variance == "learned_range" if name == "DDPMScheduler" else variance in ("learned", "learned_range")
    zero, high = ctor.get("rescale_betas_zero_snr", False), ctor.get("solver_order", 2) > 1
    lower = ctor.get("lower_order_final", True)
    return [
        (betas is not None and len(betas) != total, f"trained_betas with num_train_timesteps = {total}"),
        (name == "PNDMScheduler" and not ctor.get("skip_prk_steps", False), "skip_prk_steps = false"),
        (len([key for key in spread if key in NAMED]) > 1, " with ".join(spread)),
        (zero and not flow and kind == "epsilon", f"rescale_betas_zero_snr with prediction_type = {kind}"),
        (flow and kind in ("epsilon", "v_prediction"), f"use_flow_sigmas with prediction_type = {kind}"),
        (flow and spoilt, f"use_flow_sigmas with {''.join(spoilt[:1])}"),
        (kind == "flow_prediction" and not flow, "prediction_type = flow_prediction without use_flow_sigmas"),
        (unipc and not flow and ctor.get("shift_terminal"), "shift_terminal without use_flow_sigmas"),
        (unipc and flow and not ctor.get("predict_x0", True), "use_flow_sigmas with predict_x0 = false"),
        (unipc and final == "zero" and not ctor.get("predict_x0", True), "predict_x0 = false with a last level of 0"),
        (unipc and final == "zero" and high and not lower, "lower_order_final = false with a last level of 0"),
        (unipc and final == "zero" and ctor.get("solver_type") == "bh1", "solver_type = bh1 with a last level of 0"),
        (not algorithm.endswith("++") and final == "zero", f"algorithm_type = {algorithm} with a last level of 0"),
        (not algorithm.endswith("++") and flow, f"algorithm_type = {algorithm} with use_flow_sigmas"),
        (algorithm == "sde-dpmsolver" and ctor.get("solver_order") == 3, "algorithm_type = sde-dpmsolver of order 3"),
        (name.startswith("DPM") and "mu" in setting and not dynamic, "mu without use_dynamic_shifting"),
        (dynamic and "mu" not in setting and not name.startswith("DPM"), "use_dynamic_shifting without mu"),
        (learn and not learns, f"learn_var with variance_type = {variance}"),
        (learn and name.startswith("DPM") and kind != "epsilon", f"learn_var with prediction_type = {kind}"),
        (learns and not learn and name == "DDPMScheduler", f"variance_type = {variance} without learn_var"),
    ]

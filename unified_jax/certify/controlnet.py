"""diffusers' ControlNetModel, alone (`diffusers_model`) and with its U-Net (family `controlnet_unet`)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from unified_jax.certify import Unserved
from unified_jax.certify.diffusers_unets import CONDITIONAL, conditions
from unified_jax.certify.options import Check, anything, count, each, either, flag, mapping, number, require
from unified_jax.interop import controlnet as lines, unets
from unified_jax.layers.form import ConditionInput, Form, NoisyInput
from unified_jax.modalities.conditions import ConditionForm
from unified_jax.networks.unet.conditional import conditional
from unified_jax.networks.unet.controlnet import controlnet
from unified_jax.networks.unet.levels import Residuals
from unified_jax.precision import seed_key
from unified_jax.sharding import unbox

LEFT = ("up_block_types", "out_channels", "conv_out_kernel", "sample_size", "center_input_sample")
"""Options of a U-Net that its ControlNet does not have."""
OPTIONS: dict[str, Check] = {name: check for name, check in CONDITIONAL.items() if name not in LEFT} | {
    "conditioning_channels": count, "conditioning_embedding_out_channels": each(count),
    "controlnet_conditioning_channel_order": either("rgb"), "global_pool_conditions": either(False),
    "mid_block_type": either("UNetMidBlock2DCrossAttn", "UNetMidBlock2D"),
}  # fmt: skip
ARGS: dict[str, Check] = {"conditioning_scale": number, "guess_mode": flag}
TOP: dict[str, Check] = {"unet": mapping, "controlnet": mapping, "scale": number, "seed": anything, "inputs": anything}


class Inputs(NamedTuple):
    """The call's inputs."""

    noisy: NoisyInput
    given: tuple[ConditionInput, ...]
    hint: ConditionInput


def inputs_of(tensors: dict[str, np.ndarray], ctor: dict[str, Any], outputs: int) -> Inputs:
    """The inputs of a file. Raises Unserved without a hint."""
    left = dict(tensors)
    if (hint := left.pop("in/controlnet_cond", None)) is None:
        raise Unserved("a ControlNet without in/controlnet_cond is not served")
    x = jnp.moveaxis(jnp.asarray(tensors["in/sample"]), 1, -1)
    t = jnp.broadcast_to(jnp.asarray(tensors["in/timestep"], jnp.float32), x.shape[:1])
    value = jnp.moveaxis(jnp.asarray(hint, jnp.float32), 1, -1)
    shown = ConditionInput(ConditionForm("hint", "map", value.shape[-1], null="none"), value)
    return Inputs(NoisyInput(Form("image", x.shape[1:], (1, 1), outputs), x, t), conditions(left, ctor), shown)


def residuals_of(
    tensors: dict[str, np.ndarray], ctor: dict[str, Any], prefix: str, scale: float, guess: bool
) -> Residuals:
    """What the ControlNet of the arrays `prefix` gives. Raises Unserved for an option that is not served."""
    ctor = require(ctor, OPTIONS)
    network, layout = controlnet(ctor, guess)
    found = inputs_of(tensors, ctor, 4)
    given = (*found.given, found.hint)
    shapes = jax.eval_shape(lambda key: unbox(network.init(key, (found.noisy,), given)["params"]), seed_key(0))
    weights = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    params = lines.read("The file's ControlNet", weights, shapes, layout)
    again = lines.write(params, layout)
    if any(not np.array_equal(again[name], weights[name]) for name in weights):
        raise ValueError("the ControlNet's weights are not written as they were read")
    made: Any = jax.jit(lambda p: network.apply({"params": p}, (found.noisy,), given, scale=scale))(params)
    return made


def run_model(tensors: dict[str, np.ndarray], ctor: dict[str, Any], args: dict[str, Any]) -> dict[str, Any]:
    """ControlNetModel."""
    args = require({name: value for name, value in args.items() if value is not None}, ARGS)
    made = residuals_of(
        tensors, ctor, "param/", float(args.get("conditioning_scale", 1.0)), args.get("guess_mode", False)
    )
    out = {f"down_block_res_samples.{i}": jnp.moveaxis(one, -1, 1) for i, one in enumerate(made.kept)}
    return out | {"mid_block_res_sample": jnp.moveaxis(made.middle, -1, 1)}


def run_unet(tensors: dict[str, np.ndarray], config: dict[str, Any]) -> dict[str, Any]:
    """A U-Net without, with, and with guessing residuals."""
    top = require(config, TOP)
    ctor, control = require(top["unet"], CONDITIONAL), require(top["controlnet"], OPTIONS)
    scale = float(top.get("scale", 1.0))
    network, layout = conditional(ctor)
    found = inputs_of(tensors, ctor, ctor.get("out_channels", 4))
    shapes = jax.eval_shape(lambda key: unbox(network.init(key, (found.noisy,), found.given)["params"]), seed_key(0))
    prefix = "param/unet."
    weights = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    params = unets.read("The file's U-Net", weights, shapes, layout)

    @jax.jit
    def forward(residuals: Residuals) -> Any:
        made: Any = network.apply({"params": params}, (found.noisy,), found.given, residuals=residuals)
        return jnp.moveaxis(made[0]["image"], -1, 1)

    plain, guessing = (residuals_of(tensors, control, "param/controlnet.", scale, guess) for guess in (False, True))
    none = jax.tree.map(jnp.zeros_like, plain)
    return {"plain": forward(none), "sample": forward(plain), "sample_guess": forward(guessing)}


RUNNERS = {"controlnet_unet": run_unet}
"""Family -> how it is computed here, float32."""

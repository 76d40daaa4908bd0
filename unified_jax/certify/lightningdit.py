"""Family `lightningdit`: the published LightningDiT, its weights read by name."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unified_jax.certify import Unserved
from unified_jax.certify.options import (
    Check,
    anything,
    count,
    each,
    flag,
    mapping,
    named,
    number,
    optional,
    positive,
    require,
)
from unified_jax.interop import lightningdit as interop
from unified_jax.layers.form import ConditionInput, Form, NoisyInput
from unified_jax.modalities.conditions import ConditionForm
from unified_jax.networks.dit import DiT
from unified_jax.precision import seed_key
from unified_jax.samplers.guidance import extrapolate
from unified_jax.sharding import unbox

TOP: dict[str, Check] = {"seed": anything, "batch": anything, "t": anything, "cfg_scale": number, "ctor": mapping}
TOP |= {"intervals": each(optional(number))}
SIZES = ("input_size", "patch_size", "in_channels", "hidden_size", "depth", "num_heads", "num_classes")
FLAGS = ("learn_sigma", "use_qknorm", "use_swiglu", "use_rope", "use_rmsnorm", "wo_shift")
CTOR: dict[str, Check] = dict.fromkeys(SIZES, count)
CTOR |= dict.fromkeys(FLAGS, flag)
CTOR |= {"mlp_ratio": positive, "class_dropout_prob": number, "use_checkpoint": anything}
DEFAULTS: dict[str, Any] = dict.fromkeys(FLAGS, False) | {
    "input_size": 32, "patch_size": 2, "in_channels": 32, "hidden_size": 1152, "depth": 28, "num_heads": 16,
}  # fmt: skip
"""Of `models.lightningdit.LightningDiT`."""


def run(tensors: dict[str, np.ndarray], config: dict[str, Any]) -> dict[str, Any]:
    """`y`, and `cfg.START`: guided on the first three channels at times from START on (None: at all times)."""
    said = require(config, TOP)
    c = DEFAULTS | require(said.get("ctor", {}), CTOR)
    if c["use_qknorm"] and not c["use_rmsnorm"]:  # no released model norms queries by their mean
        raise Unserved("option use_qknorm = true with use_rmsnorm = false is not served")
    forward = _forward(tensors, c)
    out = {"y": forward(tensors["in/x"], tensors["in/t"], tensors["in/y"])}
    wanted = {f"out/cfg.{start}": start for start in said.get("intervals", [None])}
    if not any(name in tensors for name in wanted):
        return out
    half, scale = len(tensors["in/x"]) // 2, said.get("cfg_scale", 4.0)
    t, x = tensors.get("in/cfg_t", tensors["in/t"]), np.concatenate([tensors["in/x"][:half]] * 2)
    raw = jnp.moveaxis(forward(x, t, tensors.get("in/cfg_y", tensors["in/y"])), 1, -1)
    conditional, unconditional = raw[:half], raw[half:]
    for name, start in wanted.items():
        off = start is not None and t[0] < start
        guided = conditional if off else extrapolate(conditional, unconditional, scale, channels=3)
        other = jnp.concatenate([guided[..., :3], unconditional[..., 3:]], axis=-1)
        out[name[4:]] = jnp.moveaxis(jnp.concatenate([guided, other]), -1, 1)
    return out


def _forward(tensors: dict[str, np.ndarray], c: dict[str, Any]) -> Any:
    """(x, t, y) -> the output, channels first. Raises Unserved where options and arrays differ."""
    weights = {name[6:]: value for name, value in tensors.items() if name.startswith("param/")}
    layout = interop.measure(weights, "The file's LightningDiT", c["num_heads"])
    says = {
        "use_swiglu": layout.mlp == "swiglu", "use_rmsnorm": layout.norm == "rms", "use_qknorm": layout.qk_norm,
        "use_rope": layout.rotary, "wo_shift": not layout.shift, "learn_sigma": layout.sizes.outputs == 2,
        "hidden_size": layout.sizes.width, "depth": layout.sizes.depth, "patch_size": layout.sizes.patch,
    }  # fmt: skip
    for name, value in says.items():
        if c[name] != value:
            raise Unserved(f"{named(name, c[name])}: the file's arrays say {value}")
    network = DiT(**layout.fields())
    size, channels = c["input_size"], c["in_channels"]
    form = Form("image", (size, size, channels), (c["patch_size"],) * 2, channels * layout.sizes.outputs)
    classes = ConditionForm("label", "label", layout.sizes.rows)

    def inputs(x: Any, t: Any, y: Any) -> Any:
        label = ConditionInput(classes, jnp.asarray(y).astype(jnp.int32))
        return (NoisyInput(form, jnp.moveaxis(jnp.asarray(x), 1, -1), jnp.asarray(t, jnp.float32)),), (label,)

    first = inputs(tensors["in/x"], tensors["in/t"], tensors["in/y"])
    shapes = unbox(jax.eval_shape(lambda: network.init(seed_key(0), *first)))["params"]
    params = interop.read("The file's LightningDiT", weights, layout, shapes)
    for name, value in interop.write(params, layout).items():
        if name not in interop.constants(layout) and value.tobytes() != np.ascontiguousarray(weights[name]).tobytes():
            raise ValueError(f"{name} does not survive a round trip")
    held = jax.tree.map(jnp.asarray, params)
    call: Any = jax.jit(lambda p, noisy, given: network.apply({"params": p}, noisy, given)[0]["image"])
    return lambda x, t, y: jnp.moveaxis(call(held, *inputs(x, t, y))[..., :channels], -1, 1)


RUNNERS = {"lightningdit": run}
"""Family -> how it is computed here, float32."""

"""Family `dit`: the published DiT, its weights read by name."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unified_jax.certify.options import Check, anything, count, flag, mapping, number, positive, require
from unified_jax.interop import dit as interop
from unified_jax.layers.form import ConditionInput, Form, NoisyInput
from unified_jax.modalities.conditions import ConditionForm
from unified_jax.modalities.image import Image
from unified_jax.networks.dit import DiT
from unified_jax.samplers.guidance import extrapolate

TOP: dict[str, Check] = {"seed": anything, "batch": anything, "t": anything, "cfg_scale": number, "ctor": mapping}
SIZES = ("input_size", "patch_size", "in_channels", "hidden_size", "depth", "num_heads", "num_classes")
CTOR: dict[str, Check] = dict.fromkeys(SIZES, count)
CTOR |= {"mlp_ratio": positive, "class_dropout_prob": number, "learn_sigma": flag}
DEFAULTS: dict[str, Any] = {"input_size": 32, "patch_size": 2, "in_channels": 4, "hidden_size": 1152, "depth": 28}
DEFAULTS |= {"num_heads": 16, "mlp_ratio": 4.0, "learn_sigma": True}
"""Of `models.DiT` (and `models.SiT`)."""


def run(tensors: dict[str, np.ndarray], config: dict[str, Any]) -> dict[str, Any]:
    """`y`, and `cfg` where the file has it (guided on the first three channels, as the reference does)."""
    c = DEFAULTS | require(require(config, TOP).get("ctor", {}), CTOR)
    weights = {name[6:]: value for name, value in tensors.items() if name.startswith("param/")}
    params = jax.tree.map(jnp.asarray, interop.read(weights, c["num_heads"])[0])
    size, patch, channels = c["input_size"], c["patch_size"], c["in_channels"]
    image = Image(size, size, channels, patch)
    network = DiT(depth=c["depth"], width=c["hidden_size"], heads=c["num_heads"], mlp_ratio=c["mlp_ratio"])
    out_channels = channels * (2 if c["learn_sigma"] else 1)
    form = Form("image", image.shape, image.cut, out_channels)
    classes = ConditionForm("label", "label", params["label_0"]["table"].shape[0])

    @jax.jit
    def forward(params: Any, x: Any, t: Any, y: Any) -> Any:
        noisy = NoisyInput(form, jnp.moveaxis(x, 1, -1), t)
        label = ConditionInput(classes, y.astype(jnp.int32))
        found: Any = network.apply({"params": params}, (noisy,), (label,))
        return found[0]["image"]

    out = {"y": jnp.moveaxis(forward(params, tensors["in/x"], tensors["in/t"], tensors["in/y"]), -1, 1)}
    if "out/cfg" in tensors:
        half = len(tensors["in/x"]) // 2
        x = np.concatenate([tensors["in/x"][:half]] * 2)
        y = tensors.get("in/cfg_y", tensors["in/y"])
        raw = forward(params, x, tensors.get("in/cfg_t", tensors["in/t"]), y)
        conditional, unconditional = raw[:half], raw[half:]
        scale = config.get("cfg_scale", 4.0)
        guided = extrapolate(conditional, unconditional, scale, channels=3)
        other = jnp.concatenate([guided[..., :3], unconditional[..., 3:]], axis=-1)
        out["cfg"] = jnp.moveaxis(jnp.concatenate([guided, other]), -1, 1)
    return out


def run_sit(tensors: dict[str, np.ndarray], config: dict[str, Any]) -> dict[str, Any]:
    """SiT: the same network, whose learned-sigma channels are computed and dropped before guidance."""
    found = run(tensors, config)
    keep = (DEFAULTS | config.get("ctor", {}))["in_channels"]
    out = {"y": found["y"][:, :keep]}
    return out | ({"cfg": found["cfg"][:, :keep]} if "cfg" in found else {})

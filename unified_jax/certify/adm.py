"""Family `adm_unet`: guided-diffusion's U-Net and its classifier, with the gradient that guides."""

from dataclasses import fields
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unified_jax.certify.options import (
    Check,
    anything,
    count,
    each,
    either,
    flag,
    mapping,
    number,
    optional,
    positive,
    require,
)
from unified_jax.interop.unets import Layout, read
from unified_jax.layers.form import ConditionInput, Form, NoisyInput
from unified_jax.modalities.conditions import ConditionForm
from unified_jax.networks.unet.adm import Adm, Classifier, Pool, adm_unet
from unified_jax.precision import seed_key
from unified_jax.sharding import unbox

TOP: dict[str, Check] = {"cls": either("UNetModel", "SuperResModel", "EncoderUNetModel"), "ctor": mapping}
TOP |= {"norm_groups": count, "seed": anything, "hooks": anything}


def heads(value: Any) -> bool:
    """A number of heads or of their features, or -1."""
    return count(value) or value == -1


CTOR: dict[str, Check] = {
    "image_size": anything, "in_channels": count, "model_channels": count, "out_channels": count,
    "num_res_blocks": count, "attention_resolutions": each(count), "dropout": number, "channel_mult": each(positive),
    "conv_resample": flag, "dims": either(2), "num_classes": optional(count), "use_checkpoint": flag,
    "use_fp16": either(False), "num_heads": count, "num_head_channels": heads, "num_heads_upsample": heads,
    "use_scale_shift_norm": flag, "resblock_updown": flag, "use_new_attention_order": flag,
    "pool": either("adaptive", "attention", "spatial", "spatial_v2"),
}  # fmt: skip


def run(tensors: dict[str, np.ndarray], config: dict[str, Any]) -> dict[str, Any]:
    """`y` of a U-Net (in `SuperResModel` beside a small image); `logits` and `guidance_gradient` of a classifier."""
    top = require(config, TOP)
    c = require(top.get("ctor", {}), CTOR)
    named = {f.name for f in fields(Adm)}
    sizes: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in c.items() if name in named}
    adm, groups, shift = Adm(**sizes), top.get("norm_groups", 32), c.get("use_scale_shift_norm", False)
    layout = Layout("compvis", order="kinds" if c.get("use_new_attention_order", False) else "heads")
    x = jnp.moveaxis(jnp.asarray(tensors["in/x"]), 1, -1)
    t = jnp.asarray(tensors["in/timesteps"], jnp.float32)
    if top["cls"] == "EncoderUNetModel":
        pool: Pool = c.get("pool", "adaptive")
        classifier = Classifier(c["out_channels"], adm, pool, shift, groups)
        return _classified(classifier, layout, tensors, x, t)
    noisy = NoisyInput(Form("image", x.shape[1:], (1, 1), c["out_channels"]), x, t)
    given = []
    if c.get("num_classes"):
        rows = ConditionForm("class", "label", c["num_classes"])
        given.append(ConditionInput(rows, jnp.asarray(tensors["in/y"], jnp.int32)))
    if top["cls"] == "SuperResModel":
        low = jnp.moveaxis(jnp.asarray(tensors["in/low_res"]), 1, -1)
        given.append(ConditionInput(ConditionForm("low_res", "map", low.shape[-1], null="none"), low))
    given = tuple(given)
    network = adm_unet(adm, shift, groups)
    shapes = jax.eval_shape(lambda key: unbox(network.init(key, (noisy,), given)["params"]), seed_key(0))
    params = read("The file's U-Net", _weights(tensors), shapes, layout)
    forward = jax.jit(lambda p, noisy, given: network.apply({"params": p}, (noisy,), given))
    found: Any = forward(params, noisy, given)
    return {"y": jnp.moveaxis(found[0]["image"], -1, 1)}


def _classified(network: Classifier, layout: Layout, tensors: dict[str, np.ndarray], x: Any, t: Any) -> dict[str, Any]:
    shapes = jax.eval_shape(lambda key: unbox(network.init(key, x, t)["params"]), seed_key(0))
    params = read("The file's classifier", _weights(tensors), shapes, layout)
    y = jnp.asarray(tensors["in/y"], jnp.int32)

    @jax.jit
    def run(params: Any, x: Any) -> Any:
        def chosen(x: Any) -> tuple[Any, Any]:
            logits: Any = network.apply({"params": params}, x, t)
            return jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], axis=1).sum(), logits

        return jax.grad(chosen, has_aux=True)(x)

    gradient, logits = run(params, x)
    return {"logits": logits, "guidance_gradient": jnp.moveaxis(gradient, -1, 1)}


def _weights(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name[6:]: value for name, value in tensors.items() if name.startswith("param/")}


RUNNERS = {"adm_unet": run}
"""Family -> how it is computed here, float32."""

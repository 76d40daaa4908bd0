"""diffusers' AutoencoderDC: the latent of `in/x`, the image of `in/z`, a reconstruction."""

from typing import Any

import jax
import numpy as np

from unified_jax.certify.levels_autoencoder import first, last, shapes_of, stored
from unified_jax.certify.options import Check, count, each, either, flag, number, require, whole
from unified_jax.interop.autoencoders import dc as interop
from unified_jax.models.autoencoding import network_of


def _one_or_each(kinds: Any) -> Check:
    one = either(*kinds)
    return lambda value: one(value) or each(one)(value)


CTOR: dict[str, Check] = dict.fromkeys(("in_channels", "latent_channels", "attention_head_dim"), count)
for _side in ("encoder", "decoder"):
    CTOR |= {f"{_side}_block_types": _one_or_each(interop.KINDS), f"{_side}_block_out_channels": each(count)}
    CTOR |= {f"{_side}_layers_per_block": each(whole), f"{_side}_qkv_multiscales": each(each(count))}
CTOR |= {"upsample_block_type": either(*interop.UP), "downsample_block_type": either(*interop.DOWN)}
CTOR |= {"decoder_norm_types": _one_or_each(interop.NORMS), "decoder_act_fns": _one_or_each(interop.ACTIVATIONS)}
CTOR |= {"encoder_out_shortcut": flag, "decoder_in_shortcut": flag, "scaling_factor": number}
CTOR |= {"decoder_conv_act_fn": either(*interop.ACTIVATIONS)}


def run(tensors: dict[str, np.ndarray], ctor: dict[str, Any]) -> dict[str, Any]:
    """AutoencoderDC."""
    network = network_of("The file", "AutoencoderDC", interop.OPTIONS | require(ctor, CTOR))
    x, z = last(tensors["in/x"]), last(tensors["in/z"])
    params = {"params": interop.read("The file", stored(tensors), shapes_of(network, x))}

    @jax.jit
    def compute(params: Any) -> dict[str, Any]:
        latent: Any = network.apply(params, x, method=lambda n, x: n.encode(x).mean)
        again = network.apply(params, latent, method="decode")
        made = network.apply(params, z, method="decode")
        return {"latent": first(latent), "decode_z": first(made), "reconstruction": first(again)}

    return compute(params)

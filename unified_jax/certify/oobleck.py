"""diffusers' AutoencoderOobleck: moments of `in/x`, the sound of `in/z`, a reconstruction."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unified_jax.certify.levels_autoencoder import first, last, shapes_of, stored
from unified_jax.certify.options import Check, anything, count, each, require
from unified_jax.interop.autoencoders import oobleck as interop
from unified_jax.models.autoencoding import network_of

COUNTS = ("encoder_hidden_size", "decoder_channels", "decoder_input_channels", "audio_channels")
CTOR: dict[str, Check] = dict.fromkeys(COUNTS, count)
CTOR |= {"downsampling_ratios": each(count), "channel_multiples": each(count), "sampling_rate": anything}


def run(tensors: dict[str, np.ndarray], ctor: dict[str, Any]) -> dict[str, Any]:
    """AutoencoderOobleck. Its divergence has no factor 1/2; it is summed over channels, averaged over the rest."""
    network = network_of("The file", "AutoencoderOobleck", interop.OPTIONS | require(ctor, CTOR))
    x, z = last(tensors["in/x"]), last(tensors["in/z"])
    params = {"params": interop.read("The file", stored(tensors), shapes_of(network, x))}

    @jax.jit
    def compute(params: Any) -> dict[str, Any]:
        features: Any = network.apply(params, x, method=lambda n, x: n.encoder(x))
        found: Any = network.apply(params, x, method="encode")
        return {
            "moments": first(features), "mean": first(found.mean), "logvar": first(found.logvar),
            "std": first(found.std), "kl": jnp.mean(jnp.sum(2 * found.kl(), axis=-1)), "mode": first(found.mean),
            "decode_z": first(network.apply(params, z, method="decode")),
            "reconstruction_mode": first(network.apply(params, x)),
        }  # fmt: skip

    return compute(params)

"""diffusers' AutoencoderKL and VQModel: moments or codes of `in/x`, the image of `in/z`, a reconstruction."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unified_jax.certify.options import Check, anything, count, each, either, flag, number, optional, require
from unified_jax.interop.autoencoders import levels as interop, settings
from unified_jax.models.autoencoding import network_of
from unified_jax.sharding import unbox

SHARED: dict[str, Check] = dict.fromkeys(
    ("in_channels", "out_channels", "layers_per_block", "latent_channels", "norm_num_groups"), count
)
SHARED |= {"down_block_types": each(either(*settings.DOWN)), "up_block_types": each(either(*settings.UP))}
SHARED |= {"block_out_channels": each(count), "act_fn": either("silu", "swish"), "mid_block_add_attention": flag}
SHARED |= {"scaling_factor": number, "sample_size": anything, "force_upcast": flag}
KL: dict[str, Check] = SHARED | {"use_quant_conv": flag, "use_post_quant_conv": flag, "shift_factor": optional(number)}
KL |= dict.fromkeys(("latents_mean", "latents_std"), optional(each(number)))
VQ: dict[str, Check] = SHARED | {"num_vq_embeddings": count, "vq_embed_dim": optional(count)}
VQ |= {"norm_type": either("group", "spatial"), "lookup_from_codebook": flag}


def last(x: Any) -> Any:
    """Channels last."""
    return jnp.moveaxis(jnp.asarray(x), 1, -1)


def first(x: Any) -> Any:
    """Channels first."""
    return jnp.moveaxis(x, -1, 1)


def stored(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The reference's weights."""
    return {name[6:]: value for name, value in tensors.items() if name.startswith("param/")}


def shapes_of(network: Any, x: Any) -> Any:
    """Shapes of the network's parameters for inputs like x."""
    return unbox(jax.eval_shape(network.init, jax.random.key(0), x))["params"]


def run_kl(tensors: dict[str, np.ndarray], ctor: dict[str, Any]) -> dict[str, Any]:
    """AutoencoderKL."""
    c = settings.KL | require(ctor, KL)
    network = network_of("The file", "AutoencoderKL", c)
    x, z = last(tensors["in/x"]), last(tensors["in/z"])
    params = {"params": interop.read("The file", stored(tensors), shapes_of(network, x))}

    @jax.jit
    def compute(params: Any) -> dict[str, Any]:
        features: Any = network.apply(params, x, method=lambda n, x: n.between(n.encoder(x)))
        found: Any = network.apply(params, x, method="encode")
        return {
            "moments": first(features), "mean": first(found.mean), "logvar": first(found.logvar),
            "std": first(found.std), "kl": jnp.sum(found.kl(), axis=(1, 2, 3)), "mode": first(found.mean),
            "decode_z": first(network.apply(params, z, method="decode")),
            "reconstruction_mode": first(network.apply(params, x)),
        }  # fmt: skip

    return compute(params)


def run_vq(tensors: dict[str, np.ndarray], ctor: dict[str, Any]) -> dict[str, Any]:
    """VQModel. Its loss has beta on the table's term, as released."""
    c = settings.VQ | require(ctor, VQ)
    network = network_of("The file", "VQModel", c)
    x, z = last(tensors["in/x"]), last(tensors["in/z"])
    params = {"params": interop.read("The file", stored(tensors), shapes_of(network, x))}

    @jax.jit
    def compute(params: Any) -> dict[str, Any]:
        latents: Any = network.apply(params, x, method=lambda n, x: n.encode(x).mean)
        found: Any = network.apply(params, latents, method="quantise")
        table: Any = network.apply(params, latents, found.ids, method="table_loss")
        return {
            "latents": first(latents), "quantized": first(found.codes), "indices": found.ids.reshape(-1),
            "commit_loss": found.commitment + 0.25 * table,
            "decode_z_quantized": first(network.apply(params, z, method="decode")),
            "decode_z_not_quantized": first(network.apply(params, z, method="decode_codes")),
        }  # fmt: skip

    return compute(params)

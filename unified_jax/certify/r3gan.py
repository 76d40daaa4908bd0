"""Family `r3gan`: both networks, the losses of each player, the penalties, and the gradients by all weights."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unified_jax.certify.options import Check, anything, count, each, number, optional, require, whole
from unified_jax.interop import r3gan as interop
from unified_jax.models.gan_losses import Relativistic, judged
from unified_jax.networks.r3gan import R3ganDiscriminator, R3ganGenerator
from unified_jax.sharding import unbox

TOP: dict[str, Check] = {"seed": anything, "batch": anything, "gamma": number, "ctor": anything}


def odd(value: Any) -> bool:
    """An odd size: even ones change the sizes of maps there."""
    return count(value) and value % 2 == 1


def odd_taps(value: Any) -> bool:
    """A filter of an odd number of taps."""
    return each(number)(value) and len(value) % 2 == 1


CTOR: dict[str, Check] = {
    "z": count, "gw": each(count), "gc": each(count), "gb": each(count), "ExpansionFactor": count,
    "cond": optional(count), "cemb": whole, "KernelSize": odd, "ResamplingFilter": odd_taps,
}  # fmt: skip


def networks(ctor: dict[str, Any]) -> tuple[R3ganGenerator, R3ganDiscriminator]:
    """The two networks, the discriminator's stages in the opposite order."""
    widths, groups, blocks = (tuple(ctor[name]) for name in ("gw", "gc", "gb"))
    shared: dict[str, Any] = {
        "expansion": ctor["ExpansionFactor"], "size": ctor.get("KernelSize", 3),
        "taps": tuple(float(tap) for tap in ctor.get("ResamplingFilter", (1, 2, 1))),
        "classes": ctor.get("cond") or 0, "embedding": ctor["cemb"] if ctor.get("cond") else 0,
    }  # fmt: skip
    return (
        R3ganGenerator(widths, groups, blocks, latent=ctor["z"], **shared),
        R3ganDiscriminator(widths[::-1], groups[::-1], blocks[::-1], **shared),
    )


def run(tensors: dict[str, np.ndarray], config: dict[str, Any]) -> dict[str, Any]:
    """Every output of the file."""
    config = require(config, TOP)
    generator, discriminator = networks(require(config["ctor"], CTOR))
    z, real = jnp.asarray(tensors["in/z"]), jnp.asarray(np.moveaxis(tensors["in/real"], 1, -1))
    c = jnp.asarray(tensors["in/c"]) if "in/c" in tensors else None
    parts = []
    for letter, network, x in (("G", generator, z), ("D", discriminator, real)):
        expected = unbox(jax.eval_shape(network.init, jax.random.key(0), x, c))["params"]
        named = {n[len("param/G.") :]: v for n, v in tensors.items() if n.startswith(f"param/{letter}.")}
        parts.append(jax.tree.map(jnp.asarray, interop.read("The file", named, expected, network.taps)))
    g, d = parts

    def critic(d: Any, x: Any) -> Any:
        return discriminator.apply({"params": d}, x, c)

    def maker(g: Any) -> Any:
        fake = generator.apply({"params": g}, z, c)
        made, seen = critic(d, fake), critic(d, real)
        loss = Relativistic().generator(seen, made)
        return jnp.mean(loss), (loss, made - seen, fake)

    def judge(d: Any, fake: Any) -> Any:
        (seen, r1), (made, r2) = judged(lambda x: critic(d, x), real), judged(lambda x: critic(d, x), fake)
        loss = Relativistic().discriminator(seen, made)
        return jnp.mean(loss + config["gamma"] / 2 * (r1 + r2)), (loss, seen, made, r1, r2)

    (_, (loss, difference, fake)), slope_g = jax.jit(jax.value_and_grad(maker, has_aux=True))(g)
    (total, (their, seen, made, r1, r2)), slope_d = jax.jit(jax.value_and_grad(judge, has_aux=True))(d, fake)
    out = {"fake": np.moveaxis(np.asarray(fake), -1, 1), "real_logits": seen, "fake_logits": made, "D.loss": their}
    out |= {"D.relativistic_logits": seen - made, "D.r1": r1, "D.r2": r2, "D.total_mean": total}
    out |= {"G.loss": loss, "G.relativistic_logits": difference}
    for letter, network, slope in (("G", generator, slope_g), ("D", discriminator, slope_d)):
        theirs = interop.write(slope, network.taps)
        out |= {f"grad{letter}/{name}": value for name, value in theirs.items() if interop.FILTER not in name}
    return out


RUNNERS = {"r3gan": run}

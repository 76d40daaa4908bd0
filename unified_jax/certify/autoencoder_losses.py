"""Families `lpips`, `patchgan`, `vf_loss`: losses of autoencoders, with their gradients."""

import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unified_jax.certify.levels_autoencoder import first, last, stored
from unified_jax.certify.options import Check, anything, count, either, flag, mapping, number, require, whole
from unified_jax.interop import lpips as interop, table
from unified_jax.interop.names import flatten, unflatten
from unified_jax.interop.table import KERNEL, SAME, Line
from unified_jax.models.autoencoders import losses
from unified_jax.networks.autoencoders.blocks import repeated
from unified_jax.networks.autoencoders.moments import moments
from unified_jax.networks.lpips import Lpips
from unified_jax.networks.patchgan import PatchGan
from unified_jax.precision import precision
from unified_jax.sharding import unbox

LPIPS: dict[str, Check] = {"net": either("vgg", "alex"), "seed": whole, "version": either("0.1")}
PATCHGAN: dict[str, Check] = dict.fromkeys(("ndf", "n_layers", "in_channels"), count)
PATCHGAN |= {"use_actnorm": flag, "loss": either("hinge", "vanilla"), "disc_weight": number, "codebook_weight": number}
PATCHGAN |= {"disc_start": whole, "seed": anything, "hooks": anything, "disc_factor": number}
VF: dict[str, Check] = {"seed": anything, "z": anything, "ch": anything, "variants": mapping}
VARIANT: dict[str, Check] = dict.fromkeys(("distmat_margin", "cos_margin", "distmat_weight", "cos_weight"), number)
VARIANT |= {"vf_weight": number, "kl_weight": number, "adaptive_vf": flag, "pp_style": flag}

KL_WEIGHT = 1e-6
"""Of VA-VAE's configurations, where a variant names none."""


def point(x: Any, weight: Any) -> Any:
    """A 1 x 1 convolution, channels last."""
    return jnp.matmul(x, weight[:, :, 0, 0].T, precision=precision(x.dtype))


def run_lpips(tensors: dict[str, np.ndarray], config: dict[str, Any]) -> dict[str, Any]:
    """LPIPS in version 0.1, its classifier's weights made from a seed, as the file's text says."""
    c = require(config, LPIPS)
    network, (a, b) = Lpips(c["net"]), (last(tensors[f"in/{name}"]) for name in "ab")
    expected = unbox(jax.eval_shape(network.init, jax.random.key(0), a, b))["params"]
    weights = stored(tensors)
    for line, shape in ((line, flatten(expected)[line.ours].shape) for line in interop.lines(expected)):
        name = line.theirs[0]
        if name.startswith("features."):
            theirs = line.form.theirs(shape)
            draw = np.random.RandomState((zlib.crc32(name.encode()) + c["seed"]) % 2**32).standard_normal(theirs)
            scale = np.float32(np.sqrt(2 / np.prod(theirs[1:])) if len(theirs) > 1 else 0.1)
            weights[name] = draw.astype(np.float32) * scale
    for name in (name[len("in/check.") :] for name in tensors if name.startswith("in/check.")):
        value = weights[name].astype(np.float64)
        ours = [*value.ravel()[:5], value.sum(), abs(value).sum()]
        if not np.allclose(ours, tensors[f"in/check.{name}"], rtol=1e-3, atol=1e-2):
            raise ValueError(f"the weights {name} are not those of the file")
    params = {"params": interop.read("The file", weights, expected)}
    forward = jax.jit(network.apply)
    each: Any = forward(params, a, b)
    scaled: Any = forward(params, *(2 * ((image + 1) / 2) - 1 for image in (a, b)))  # from [0, 1]
    out = {f"layer{i}": each[:, i] for i in range(each.shape[1])}
    return out | {"distance": each.sum(-1), "normalize": scaled.sum(-1)}


def patchgan_lines(expected: Any) -> table.Table:
    """taming's names of a discriminator's arrays and running statistics."""
    found = []
    names = {"kernel": "weight", "gain": "weight", "mean": "running_mean", "variance": "running_var"}
    for name in flatten(expected):
        module, part = name.split("/")
        kind, n = module.split("_")
        number = 0 if module == "conv_0" else 3 * int(n) - (1 if kind == "conv" else 0)
        form = KERNEL if part == "kernel" else interop.Weights() if part in ("loc", "scale") else SAME
        found.append(Line(name, (f"main.{number}.{names.get(part, part)}",), form))
    return tuple(found)


def run_patchgan(tensors: dict[str, np.ndarray], config: dict[str, Any]) -> dict[str, Any]:
    """NLayerDiscriminator in the two steps of VQLPIPSWithDiscriminator, without its perceptual part."""
    c = require(config, PATCHGAN)
    network = PatchGan(c["ndf"], c["n_layers"], "act" if c["use_actnorm"] else "batch")
    x, h, w = last(tensors["in/real"]), last(tensors["in/h"]), jnp.asarray(tensors["in/w_last"])
    expected = unbox(jax.eval_shape(network.init, jax.random.key(0), x))
    both = {name: value for kind in expected.values() for name, value in flatten(kind).items()}
    lines = patchgan_lines(unflatten(both))
    kept = {n: v for n, v in stored(tensors).items() if not n.endswith(("num_batches_tracked", "initialized"))}
    held = flatten(table.read("The file", kept, lines, unflatten(both)))
    params, running = (unflatten({n: jnp.asarray(held[n]) for n in flatten(expected.get(kind, {}))})
                       for kind in ("params", "running"))  # fmt: skip
    factor, weight = c.get("disc_factor", 1.0), c.get("disc_weight", 1.0)

    def discriminate(params: Any, running: Any, images: Any) -> Any:
        found, new = network.apply({"params": params, "running": running}, images, True, mutable=["running"])
        return found, new.get("running", {})

    def parts(w: Any, h: Any, running: Any) -> Any:
        y = point(h, w)
        fake, running = discriminate(params, running, y)
        return jnp.mean(losses.errors(x, y)), losses.generator(fake), running

    @jax.jit
    def step(running: Any) -> dict[str, Any]:
        main, other = (jax.grad(lambda w, i=i: parts(w, h, running)[i])(w) for i in (0, 1))
        d_weight = weight * losses.adaptive(main, other)

        def total(w: Any, h: Any, gate: float) -> Any:
            nll, g, new = parts(w, h, running)
            loss = nll + d_weight * gate * g + c.get("codebook_weight", 1.0) * jnp.mean(tensors["in/codebook_loss"])
            return loss, (nll, g, new)

        (loss, (nll, g, new)), slopes = jax.value_and_grad(total, (0, 1), has_aux=True)(w, h, factor)
        return {
            "loss": loss, "early.loss": total(w, h, 0.0)[0], "d_weight": d_weight, "g_loss": g, "nll_loss": nll,
            "grad_w_last": slopes[0], "grad_h": first(slopes[1]), "reconstruction": first(point(h, w)), "running": new,
        }  # fmt: skip

    @jax.jit
    def judge(params: Any, running: Any) -> Any:
        real, running = discriminate(params, running, x)
        fake, running = discriminate(params, running, point(h, w))
        loss = factor * (losses.hinge if c["loss"] == "hinge" else losses.vanilla)(real, fake)
        return loss, (jnp.mean(real), jnp.mean(fake), running)

    logits: Any = jax.jit(network.apply)({"params": params, "running": running}, x)
    out = step(step(running)["running"]) | {"eval.logits": first(logits)}
    (loss, (real, fake, running)), slopes = jax.value_and_grad(judge, has_aux=True)(params, out.pop("running"))
    theirs = table.write(jax.device_get(slopes), patchgan_lines(slopes))
    out |= {"d_loss": loss, "logits_real_mean": real, "logits_fake_mean": fake}
    out |= {f"gradD.{name}": value for name, value in theirs.items()}
    stats = table.write(jax.device_get(running), patchgan_lines(running)) if running else {}
    return out | {f"stats.{name}": value for name, value in stats.items()}


def run_vf(tensors: dict[str, np.ndarray], config: dict[str, Any]) -> dict[str, Any]:
    """The generator's step of VA-VAE without LPIPS and discriminator, in each of the file's variants."""
    out: dict[str, Any] = {}
    variants = {name: require(asked, VARIANT) for name, asked in require(config, VF)["variants"].items()}
    given = {name: jnp.asarray(tensors[f"in/{name}"]) for name in ("h", "x", "w_dec", "aux")}
    for name, v in variants.items():
        found = jax.jit(lambda w, v=v: _variant(w, given, v))(jnp.asarray(tensors["in/w_enc"]))
        out |= {f"{name}.{key}": value for key, value in found.items()}
    return out


def _variant(w: Any, t: dict[str, Any], v: dict[str, Any]) -> dict[str, Any]:
    x, aux = last(t["x"]), last(t["aux"])
    mean = v.get("pp_style", False)

    def parts(w: Any) -> Any:
        z = point(last(t["h"]), w)
        errors = losses.errors(x, point(repeated(z, 2), t["w_dec"]))
        nll = jnp.mean(errors) if mean else losses.summed(errors)
        kl = moments(jnp.concatenate([z, 0.3 * z - 0.5], axis=-1)).kl()
        flat, f = z.reshape(len(z), -1, z.shape[-1]), aux.reshape(len(aux), -1, aux.shape[-1])
        apart = losses.vf_distances(flat, f, float(v.get("distmat_margin", 0)))
        along = losses.vf_cosines(flat, f, float(v.get("cos_margin", 0)))
        vf = v.get("distmat_weight", 1.0) * apart + v.get("cos_weight", 1.0) * along
        return nll, vf, jnp.mean(kl) if mean else jnp.sum(kl) / len(kl), jnp.mean(errors)

    weight = jnp.asarray(v.get("vf_weight", 1e2))
    if v.get("adaptive_vf", False):
        weight = weight * losses.adaptive(*(jax.grad(lambda w, i=i: parts(w)[i])(w) for i in (0, 1)), most=1e8)

    def total(w: Any) -> Any:
        nll, vf, kl, error = parts(w)
        return nll + v.get("kl_weight", KL_WEIGHT) * kl + weight * vf, (nll, vf, kl, error)

    (loss, (nll, vf, kl, error)), slope = jax.value_and_grad(total, has_aux=True)(w)
    return {
        "total": loss, "nll_loss": nll, "vf_loss": vf, "kl_loss": kl, "rec_loss": error, "vf_weight": weight,
        "grad_w_enc": slope,
    }  # fmt: skip

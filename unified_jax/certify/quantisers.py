"""Families `vq_ema`, `fsq`, `lfq`: vector-quantize-pytorch's quantisers, their losses and gradients."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unified_jax.certify.options import (
    Check,
    anything,
    count,
    either,
    flag,
    mapping,
    number,
    optional,
    positive,
    require,
)
from unified_jax.networks.autoencoders.quantise import EmaCodebook, EmaState, apart
from unified_jax.networks.autoencoders.scalar import Fsq, Lfq
from unified_jax.precision import precision

TOP: dict[str, Check] = {"ctor": mapping, "steps": count, "seed": anything, "inv_temperature": positive}
HEAD = 64
"""Codes of a table that a file holds."""
VQ: dict[str, Check] = dict.fromkeys(("dim", "codebook_size"), count)
VQ |= {"codebook_dim": optional(count), "decay": number, "eps": positive, "commitment_weight": number}
VQ |= {"rotation_trick": optional(flag), "use_cosine_sim": flag, "threshold_ema_dead_code": either(0, 0.0)}
VQ |= dict.fromkeys(("kmeans_init", "learnable_codebook", "straight_through", "freeze_codebook"), either(False))
VQ |= {"ema_update": either(True), "heads": count, "separate_codebook_per_head": either(False)}
VQ |= {"accept_image_fmap": flag, "channel_last": flag, "kmeans_iters": anything}
FSQ: dict[str, Check] = {"levels": lambda v: isinstance(v, list) and all(map(count, v)), "dim": optional(count)}
FSQ |= {"num_codebooks": count, "preserve_symmetry": flag, "bound_hard_clamp": flag, "projection_has_bias": flag}
FSQ |= {"return_indices": either(True), "keep_num_codebooks_dim": optional(flag), "channel_first": flag}
FSQ |= {"noise_dropout": either(0, 0.0), "orthogonal_rotation": either(False), "force_quantization_f32": flag}
LFQ: dict[str, Check] = {"dim": optional(count), "codebook_size": optional(count), "num_codebooks": count}
LFQ |= dict.fromkeys(("entropy_loss_weight", "commitment_loss_weight", "diversity_gamma"), number)
LFQ |= {"codebook_scale": positive, "spherical": flag, "soft_clamp_input_value": optional(positive)}
LFQ |= {"projection_has_bias": flag, "keep_num_codebooks_dim": optional(flag), "has_projections": optional(flag)}
LFQ |= {"frac_per_sample_entropy": either(1, 1.0), "force_quantization_f32": flag, "channel_first": optional(flag)}
LFQ |= dict.fromkeys(("cosine_sim_project_in", "experimental_softplus_entropy_loss"), either(False))
LFQ |= {"orthogonal_rotation": either(False)}


def projection(tensors: dict[str, np.ndarray], name: str) -> Callable[[Any], Any]:
    """The file's linear layer of this name; the identity where it has none."""
    if f"param/{name}.weight" not in tensors:
        return lambda x: x
    weight, bias = tensors[f"param/{name}.weight"], tensors.get(f"param/{name}.bias")
    return lambda x: jnp.matmul(x, weight.T, precision=precision(x.dtype)) + (0 if bias is None else bias)


def split(x: Any, books: int, keep: bool) -> Any:
    """Features as several vectors, one for each table."""
    return x.reshape(*x.shape[:-1], books, -1) if keep else x


def joined(x: Any, keep: bool) -> Any:
    """The inverse of `split`."""
    return x.reshape(*x.shape[:-2], -1) if keep else x


def turned(x: Any, channels_first: bool) -> Any:
    """Channels last."""
    return jnp.moveaxis(jnp.asarray(x), 1, -1) if channels_first else jnp.asarray(x)


def turned_back(x: Any, channels_first: bool) -> Any:
    """The inverse of `turned`."""
    return jnp.moveaxis(x, -1, 1) if channels_first else x


def run_vq_ema(tensors: dict[str, np.ndarray], config: dict[str, Any]) -> dict[str, Any]:
    """VectorQuantize in training: the table of a step is that after the last."""
    c = require(require(config, TOP).get("ctor"), VQ)
    width, heads = c.get("codebook_dim") or c["dim"], c.get("heads", 1)
    rotates = c.get("rotation_trick")
    rotates = c["dim"] > 1 if rotates is None else rotates
    book = EmaCodebook(
        c["codebook_size"], width, c.get("decay", 0.8), c.get("eps", 1e-5), c.get("use_cosine_sim", False),
        "rotation" if rotates else "straight",
    )  # fmt: skip
    names = ("embed", "cluster_size", "embed_avg")
    state = EmaState(*(jnp.asarray(tensors[f"param/_codebook.{name}"][0]) for name in names))
    into, back = projection(tensors, "project_in"), projection(tensors, "project_out")
    weight, out, moved = (
        c.get("commitment_weight", 1.0),
        {},
        c.get("accept_image_fmap") or not c.get("channel_last", True),
    )

    def compute(x: Any, state: EmaState) -> Any:
        z = split(into(turned(x, moved)), heads, heads > 1)
        found = book.quantise(state, z)
        codes, loss = turned_back(back(joined(found.codes, heads > 1)), moved), weight * found.commitment
        settled = book.settle_aux(state, book.sums(z, found.ids))
        return jnp.sum(codes * tensors["in/cotangent"]) + loss, (codes, found.ids, loss, settled)

    slopes = jax.jit(jax.grad(compute, has_aux=True))
    for step in range(config["steps"]):
        slope, (codes, ids, loss, state) = slopes(jnp.asarray(tensors[f"in/x.{step}"]), state)
        out |= {f"{step}.quantized": codes, f"{step}.indices": ids, f"{step}.commit_loss": loss}
        out |= {f"{step}.grad_x": slope}
        out |= {f"{step}._codebook.{name}": value[None] for name, value in zip(names, state, strict=True)}
    return out


def run_fsq(tensors: dict[str, np.ndarray], config: dict[str, Any]) -> dict[str, Any]:
    """FSQ on vectors `[b, n, dim]`, or on maps, channels first."""
    c = require(require(config, TOP).get("ctor"), FSQ)
    scalar = Fsq(tuple(c["levels"]), c.get("preserve_symmetry", False), c.get("bound_hard_clamp", False))
    books = c.get("num_codebooks", 1)
    keep = books > 1 if c.get("keep_num_codebooks_dim") is None else c["keep_num_codebooks_dim"]
    into, back = projection(tensors, "project_in"), projection(tensors, "project_out")
    moved = c.get("channel_first", False) or tensors["in/x"].ndim >= 4

    def compute(x: Any) -> Any:
        codes, ids = scalar.quantise(split(into(turned(x, moved)), books, keep))
        codes = turned_back(back(joined(codes, keep)), moved)
        return jnp.sum(codes * tensors["in/cotangent"]), (codes, ids)

    slope, (codes, ids) = jax.jit(jax.grad(compute, has_aux=True))(jnp.asarray(tensors["in/x"]))
    head = jnp.arange(min(HEAD, scalar.size))[None]
    rows = scalar.codes(head[..., None] * jnp.ones(books, jnp.int32) if keep else head)
    return {
        "quantized": codes, "indices": ids, "grad_x": slope, "codebook_size": np.asarray(scalar.size),
        "codebook_head": turned_back(back(joined(rows, keep)), c.get("channel_first", False)),
    }  # fmt: skip


def run_lfq(tensors: dict[str, np.ndarray], config: dict[str, Any]) -> dict[str, Any]:
    """LFQ on vectors `[b, n, dim]`, or on maps, channels first."""
    c = require(require(config, TOP).get("ctor"), LFQ)
    books = c.get("num_codebooks", 1)
    width = int(math.log2(c.get("codebook_size") or 2 ** c["dim"]))
    bits = Lfq(width, c.get("codebook_scale", 1.0), c.get("spherical", False))
    keep = books > 1 if c.get("keep_num_codebooks_dim") is None else c["keep_num_codebooks_dim"]
    into, back = projection(tensors, "project_in"), projection(tensors, "project_out")
    clamp = c.get("soft_clamp_input_value")
    temperature = 1 / config.get("inv_temperature", 100.0)
    weights = c.get("entropy_loss_weight", 0.1), c.get("commitment_loss_weight", 0.0)

    moved = c.get("channel_first")
    moved, first = tensors["in/x"].ndim >= 4 if moved is None else moved, bool(moved)

    def compute(x: Any) -> Any:
        z = into(turned(x, moved))
        z = split(z if clamp is None else clamp * jnp.tanh(z / clamp), books, keep)
        codes, ids = bits.quantise(z)
        each, mean = bits.entropies(z, temperature, books)
        near = apart(bits.prepared(z), bits.codes(ids)) if weights[1] > 0 else jnp.zeros(())
        loss = weights[0] * (each - c.get("diversity_gamma", 1.0) * mean) + weights[1] * near
        out = {
            "quantized": turned_back(back(joined(codes, keep)), moved),
            "indices": ids,
            "aux_loss": loss,
            "commitment": near,
        }
        out |= {"per_sample_entropy": each, "batch_entropy": mean}
        return jnp.sum(out["quantized"] * tensors["in/cotangent"]) + loss, out

    slope, out = jax.jit(jax.grad(compute, has_aux=True))(jnp.asarray(tensors["in/x"]))
    count = tensors["out/codebook_head"].shape[1] if "out/codebook_head" in tensors else min(HEAD, bits.size)
    head = jnp.arange(count)[None]
    rows = bits.codes(head[..., None] * jnp.ones(books, jnp.int32) if keep else head)
    plain = turned_back(back(joined(bits.codes(out["indices"]), keep)), moved)
    return out | {
        "grad_x": slope, "codebook_head": turned_back(back(joined(rows, keep)), first), "eval.quantized": plain,
        "eval.indices": out["indices"],
    }  # fmt: skip

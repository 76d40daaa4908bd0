"""Families `transfusion_mask` and `transfusion`: what the Transfusion model is made of."""

import itertools
import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from unified_jax.certify import NotOurs, NotServed
from unified_jax.certify.options import Check, anything, count, mapping, require, unserved
from unified_jax.kernels.reference import dense_mask
from unified_jax.models.transfusion import next_token_loss

MASK: dict[str, Check] = {"n": count, "types": count, "mod": anything}
TOP: dict[str, Check] = {"seed": anything, "times": anything, "layout": anything, "ctor": mapping}
CTOR: dict[str, Check] = {"num_text_tokens": count, "dim_latent": lambda v: count(v) or isinstance(v, list)}
CTOR |= {"modality_default_shape": anything, "transformer": mapping}
"""The sizes that the text's loss depends on; the rest is the reference's network."""


def run_transfusion_mask(tensors: dict[str, np.ndarray], config: dict[str, Any]) -> dict[str, Any]:
    """Masks from runs, and positions in which a span counts as one; the rest is the reference's bookkeeping."""
    require(config, MASK)
    given, n = tensors["in/modalities"], int(config["n"])
    types = int(config["types"])
    runs, positions = zip(*(_lay_out(rows, n) for rows in given), strict=True)
    mask = dense_mask(jnp.asarray(np.stack(runs)), n)
    offset = np.where(given[..., 2] > 0, given[..., 1], 10**9)
    order = np.argsort(offset, axis=1, kind="stable")
    ordered = np.take_along_axis(given, order[..., None], 1)
    token = np.arange(n)
    inside = (token >= given[..., 1:2]) & (token < given[..., 1:2] + given[..., 2:3])
    of_type = given[:, None, :, 0] == np.arange(types)[:, None]
    return {
        "attn_mask": mask,
        "attn_mask_flex": mask,
        "rotary_positions": np.stack(positions),
        "is_modality": inside[:, None] & of_type[..., None],
        "ordered": ordered,
        "ordered_idx": order,
    }


DIFFERENT = (
    "the reference's trunk has layer scales, FiLM on text, gated values, skips between layers and attention over layers"
)
"""lucidrains/transfusion-pytorch is not the paper's network, and ours is neither."""


def run_transfusion(tensors: dict[str, np.ndarray], config: dict[str, Any]) -> dict[str, Any]:
    """The text's loss from the reference's logits: labels shifted, none where a span follows or has just ended."""
    ctor = require(config, TOP)["ctor"]
    modalities = ctor["dim_latent"] if isinstance(ctor["dim_latent"], list) else [ctor["dim_latent"]]
    words = int(ctor["num_text_tokens"])
    begin, meta = words + 3, words + 3 + 2 * len(modalities)
    rows = []
    for b, items in enumerate(config["layout"]):
        ids = [words]
        for i, item in enumerate(items):
            given = tensors[f"in/b{b}.{i}"]
            if item[0] == "text":
                ids += given.astype(int).tolist()
                continue
            shape = ",".join(str(size) for size in given.shape[:-1])  # the reference writes it out before the span
            letters = [meta + 1 + ord(letter) for letter in shape]
            ids += [meta, *letters, begin + int(item[1])]
            ids += [-1] * math.prod(given.shape[:-1]) + [begin + len(modalities) + int(item[1])]
        rows.append([*ids, words + 1])
    logits = tensors["mid/text_logits_of_loss_pass"]
    table, weight = np.zeros((len(rows), logits.shape[1] + 1), np.int32), np.zeros((len(rows), logits.shape[1] + 1))
    for b, ids in enumerate(rows):
        table[b, : len(ids)] = ids
        weight[b, : len(ids) - 1] = [now >= 0 and after >= 0 for now, after in itertools.pairwise(ids)]
    padded = jnp.pad(jnp.asarray(logits), ((0, 0), (0, 1), (0, 0)))
    total, weighted = next_token_loss(padded, jnp.asarray(table), jnp.asarray(weight, padded.dtype))
    ids = "ours has no null and no shape tokens: BOS, EOS, then begin and end of each modality"
    others = ("ids.sos", "ids.eos", "ids.null", "ids.som", "ids.eom", "ids.meta")
    found: dict[str, Any] = {name: NotOurs(ids) for name in others}
    networks = ("text_logits_noloss", "text_only_loss", "loss.total", *(k[4:] for k in tensors if "loss.flow" in k))
    found |= {name: NotOurs(DIFFERENT) for name in networks}
    reason = unserved(ctor, CTOR)
    return found | {"loss.text": NotServed(reason) if reason else jnp.sum(total) / jnp.sum(weighted)}


def _lay_out(spans: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """(runs [n, 2], positions [n]) of a row with these spans (type, offset, length)."""
    stop, step = np.arange(n) + 1, np.ones(n, int)
    for _, offset, length in spans:
        stop[offset : offset + length] = offset + length
        step[offset : offset + max(length - 1, 0)] = 0
    return np.stack([np.zeros(n, int), stop], axis=-1), np.cumsum(step) - step

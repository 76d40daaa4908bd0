"""Family `fid_inception`: pytorch-fid's features. The weights are made from a seed, as the file's text says."""

import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unified_jax.certify.options import Check, anything, require, whole
from unified_jax.evaluation.inception import read_inception, their_shapes
from unified_jax.evaluation.preprocessing import SIDE, resize_bilinear
from unified_jax.networks.inception import Inception

TOP: dict[str, Check] = {"seed": anything, "wseed": whole, "sizes": anything}
SHOWN = 32
"""Channels that a file keeps of a map, evenly spaced, at 9 x 9 places."""


def stored_weights(seed: int) -> dict[str, np.ndarray]:
    """The reference's weights: normal numbers of a generator that is seeded by the array's name."""
    found = {}
    for name, shape in their_shapes("fid").items():
        draw = np.random.RandomState((zlib.crc32(name.encode()) + seed) % 2**32).standard_normal(shape)
        r = draw.astype(np.float32)
        if name.endswith(("conv.weight", "fc.weight")):
            found[name] = r * np.float32(np.sqrt(2 / np.prod(shape[1:])))
        elif name.endswith("bn.weight"):
            found[name] = 1 + np.float32(0.1) * r
        elif name.endswith("running_var"):
            found[name] = 1 + np.float32(0.2) * abs(r)
        else:
            found[name] = np.float32(0.1) * r
    return found


def run(tensors: dict[str, np.ndarray], config: dict[str, Any]) -> dict[str, Any]:
    """Every output of each image: the resized picture, means and samples of the maps, the pooled features."""
    weights = stored_weights(require(config, TOP)["wseed"])
    for name, told in ((n[len("in/check.") :], v) for n, v in tensors.items() if n.startswith("in/check.")):
        value = weights[name].astype(np.float64)
        ours = [*value.ravel()[:5], value.sum(), abs(value).sum()]
        if not np.allclose(ours, told, rtol=1e-3, atol=1e-2):
            raise ValueError(f"the weights {name} are not those of the file")
    _, params = read_inception("The file", weights)
    forward = jax.jit(lambda p, x: Inception().apply({"params": p}, x))
    out: dict[str, Any] = {}
    for name in sorted(n for n in tensors if n.startswith("in/img")):
        picture = np.moveaxis(np.asarray(tensors[name], np.float32), 1, -1)
        resized = resize_bilinear(picture, SIDE, half_pixel=True)
        found: Any = forward(jax.tree.map(jnp.asarray, params), jnp.asarray(2 * resized - 1))
        label = name[len("in/") :]
        out[f"{label}.resized_sample"] = np.moveaxis(resized, -1, 1)[:, :, ::23, ::19]
        for block in ("block0", "block1", "block2"):
            maps = np.moveaxis(np.asarray(found[block]), -1, 1)
            step, apart = maps.shape[1] // SHOWN, -(-maps.shape[2] // 9)
            out[f"{label}.{block}.mean"] = maps.mean((2, 3))
            out[f"{label}.{block}.sample"] = maps[:, ::step, ::apart, ::apart]
        out[f"{label}.block3.mean"] = out[f"{label}.pool2048"] = np.asarray(found["pool"])
    return out

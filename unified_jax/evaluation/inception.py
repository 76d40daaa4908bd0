"""Published Inception v3 weights -> our tree.

    theirs                                   ours
    Mixed_5b.branch1x1.conv.weight           Mixed_5b/branch1x1/kernel      [out, in, h, w] to [h, w, in, out]
    ....bn.{weight,bias,running_mean,running_var}    gain, bias, mean, variance
    fc.weight, fc.bias                       kernel, bias

pytorch-fid's `pt_inception-2015-12-05` and torch-fidelity's file hold the graph of 2015 (1008 classes), torchvision's
another network of the same names (1000 classes), which gives other numbers.
"""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unified_jax.errors import UserError
from unified_jax.interop import files
from unified_jax.interop.names import Shape, account, flatten, shapes, unflatten
from unified_jax.networks.inception import CLASSES, Inception, Variant
from unified_jax.typing import Params

NORM = {"gain": "bn.weight", "bias": "bn.bias", "mean": "bn.running_mean", "variance": "bn.running_var"}
UNUSED = ("AuxLogits.", ".num_batches_tracked")
"""Arrays that features do not need: a head of the training, and counters."""


def read_inception(what: str, tensors: Mapping[str, np.ndarray]) -> tuple[Variant, Params]:
    """(which network, its parameters). Raises UserError that begins with `what` and lists what does not fit."""
    kept = {name: np.asarray(value) for name, value in tensors.items() if not _unused(name)}
    classes = len(kept["fc.bias"]) if "fc.bias" in kept else 0
    variant: Variant | None = next((name for name, count in CLASSES.items() if count == classes), None)
    if variant is None:
        raise UserError(
            f"{what} is no Inception v3: expected fc.bias of 1008 (the graph of 2015) or 1000 (torchvision) classes, "
            f"found {classes or 'none'}."
        )
    account(what, shapes(kept), their_shapes(variant))
    names = flatten(_expected(variant))
    return variant, unflatten({name: _ours(kept[_theirs(name)]) for name in names})


def load_inception(path: Path) -> tuple[Variant, Params]:
    """The weights of a file (.safetensors, .pth, .pt, .npz). Raises UserError for one that does not hold them."""
    return read_inception(f"The file {str(path)!r}", files.read(path))


def their_shapes(variant: Variant) -> dict[str, Shape]:
    """The arrays of a file, by name."""
    return {_theirs(name): _their_shape(value.shape) for name, value in flatten(_expected(variant)).items()}


@functools.cache
def _expected(variant: Variant) -> Params:
    """Shapes of our parameters."""

    def init() -> Any:
        return Inception(variant).init(jax.random.key(0), jnp.zeros((1, 299, 299, 3)))

    return jax.eval_shape(init)["params"]


def _unused(name: str) -> bool:
    return name.startswith(UNUSED[0]) or name.endswith(UNUSED[1])


def _theirs(name: str) -> str:
    """kernel, bias at the top are the last layer's."""
    module, _, part = name.rpartition("/")
    if not module:
        return {"kernel": "fc.weight", "bias": "fc.bias"}[part]
    return f"{module.replace('/', '.')}.{'conv.weight' if part == 'kernel' else NORM[part]}"


def _their_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[3], shape[2], shape[0], shape[1]) if len(shape) == 4 else shape[::-1]


def _ours(value: np.ndarray) -> np.ndarray:
    found = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T
    return np.ascontiguousarray(found, np.float32)

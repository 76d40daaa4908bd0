"""Family `diffusers_model`: models of diffusers, each class by its own module, which lists it in CLASSES."""

from typing import Any

import numpy as np

from unified_jax.certify import Unserved, diffusers_unets, transformers
from unified_jax.certify.options import Check, anything, mapping, named, require

TOP: dict[str, Check] = dict.fromkeys(("cls", "inputs", "seed", "hooks"), anything) | {"ctor": mapping}
CLASSES = diffusers_unets.CLASSES | transformers.CLASSES
"""Class of diffusers -> run(tensors, its constructor's arguments)."""


def run(tensors: dict[str, np.ndarray], config: dict[str, Any]) -> dict[str, Any]:
    """The outputs of the file's class."""
    kind = require(config, TOP).get("cls")
    if kind not in CLASSES:
        raise Unserved(named("cls", kind))
    return CLASSES[kind](tensors, config.get("ctor", {}))


RUNNERS = {"diffusers_model": run}
"""Family -> how it is computed here, float32."""

"""Family `diffusers_model`: models of diffusers, each class by its own module, which lists it in CLASSES."""

from typing import Any

import numpy as np

from unified_jax.certify import Unserved, diffusers_unets, mmdit, transformers
from unified_jax.certify.options import Check, anything, mapping, named, require


def nothing(value: Any) -> bool:
    """An object of arguments that are None."""
    return mapping(value) and all(one is None for one in value.values())


TOP: dict[str, Check] = dict.fromkeys(("cls", "inputs", "seed", "hooks"), anything) | {"ctor": mapping, "args": nothing}
"""`args` are further arguments of the call; those that are None change nothing."""
CLASSES = diffusers_unets.CLASSES | mmdit.CLASSES | transformers.CLASSES
"""Class of diffusers -> run(tensors, its constructor's arguments)."""


def run(tensors: dict[str, np.ndarray], config: dict[str, Any]) -> dict[str, Any]:
    """The outputs of the file's class."""
    kind = require(config, TOP).get("cls")
    if kind not in CLASSES:
        raise Unserved(named("cls", kind))
    return CLASSES[kind](tensors, config.get("ctor", {}))


RUNNERS = {"diffusers_model": run}
"""Family -> how it is computed here, float32."""

"""Family `diffusers_model`: models of diffusers, each class by its own module, which lists it in CLASSES."""

from typing import Any

import numpy as np

from unified_jax.certify import Unserved, controlnet, diffusers_unets, mmdit, transformers
from unified_jax.certify.options import Check, anything, flag, mapping, named, require

GUIDED = "do_classifier_free_guidance"
"""Argument of unCLIP's projection, which its shapes say too: twice as many texts as images."""


def nothing(value: Any) -> bool:
    """An object of arguments that are None, or the one that is served."""
    return mapping(value) and all(
        one is None or (name == GUIDED and flag(one)) or name in controlnet.ARGS for name, one in value.items()
    )


TOP: dict[str, Check] = dict.fromkeys(("cls", "inputs", "seed", "hooks"), anything) | {"ctor": mapping, "args": nothing}
"""`args` are further arguments of the call; those that are None change nothing."""
CLASSES = diffusers_unets.CLASSES | mmdit.CLASSES | transformers.CLASSES
"""Class of diffusers -> run(tensors, its constructor's arguments)."""


def run(tensors: dict[str, np.ndarray], config: dict[str, Any]) -> dict[str, Any]:
    """The outputs of the file's class."""
    top = require(config, TOP)
    kind = top.get("cls")
    short = kind.rpartition(".")[2] if isinstance(kind, str) else ""
    args = top.get("args", {})
    if short == "ControlNetModel":
        return controlnet.run_model(tensors, config.get("ctor", {}), args)
    if others := [name for name in controlnet.ARGS if args.get(name) is not None]:
        raise Unserved(named(others[0], args[others[0]]))
    if short not in CLASSES:
        raise Unserved(named("cls", kind))
    if GUIDED in top.get("args", {}) and short != "UnCLIPTextProjModel":
        raise Unserved(named(GUIDED, top["args"][GUIDED]))
    return CLASSES[short](tensors, config.get("ctor", {}))


RUNNERS = {"diffusers_model": run}
"""Family -> how it is computed here, float32."""

"""Family `lora_formats`: a LoRA in the layouts of peft, diffusers and kohya on a model of diffusers.

Every layout that the file has must give the same updates, and be written again with the same names and numbers; the
outputs are those of the merged weights.
"""

from typing import Any

import numpy as np

from unified_jax.certify import Unserved, diffusers_models
from unified_jax.certify.options import Check, anything, count, either, flag, mapping, named, number, require
from unified_jax.interop import lora
from unified_jax.interop.lora import Update

TOP: dict[str, Check] = dict.fromkeys(("cls", "inputs", "seed", "check"), anything) | {"ctor": mapping, "lora": mapping}
LORA: dict[str, Check] = {
    "r": count, "lora_alpha": number, "target_modules": anything, "use_rslora": flag, "lora_dropout": number,
    "init_lora_weights": anything, "bias": either("none"), "use_dora": either(False), "exclude_modules": anything,
}  # fmt: skip
"""Which modules it has and how its factors were drawn is seen in the arrays."""
LAYOUTS = ("peft", "peft_file", "diffusers", "kohya")


def run(tensors: dict[str, np.ndarray], config: dict[str, Any]) -> dict[str, Any]:
    """The outputs without, with, and with half of the update, and merged weights."""
    top = require(config, TOP)
    said = require(top.get("lora", {}), LORA)
    if top.get("cls") not in diffusers_models.CLASSES:
        raise Unserved(named("cls", top.get("cls")))
    weights = {name[6:]: value for name, value in tensors.items() if name.startswith("param/")}
    updates, root = _updates(tensors, weights, said, top["cls"]), said.get("use_rslora", False)
    inputs = {
        name: value for name, value in tensors.items() if name.startswith("in/") and name.split("/")[1] not in LAYOUTS
    }

    def sample(scale: float) -> Any:
        made = lora.merged(weights, updates, scale, root)
        whole = inputs | {f"param/{name}": value for name, value in made.items()}
        return diffusers_models.CLASSES[top["cls"]](whole, top.get("ctor", {}))["sample"]

    whole = lora.merged(weights, updates, 1.0, root)
    out = {"base": sample(0.0), "half": sample(0.5), "lora": sample(1.0)}
    return out | {"merged": out["lora"]} | {f"merged.{name}": whole[name] for name in top.get("check", [])}


def _updates(
    tensors: dict[str, np.ndarray], weights: dict[str, np.ndarray], said: dict[str, Any], cls: str
) -> dict[str, Update]:
    """The updates of the file's layouts. Raises ValueError where two differ, or are not written as they were read."""
    shapes = {name: value.shape for name, value in weights.items()}
    part = "unet" if cls.startswith("UNet") else "transformer"
    found: dict[str, dict[str, Update]] = {}
    for layout in LAYOUTS:
        prefix = f"in/{layout}/"
        arrays = {name.removeprefix(prefix): v for name, v in tensors.items() if name.startswith(prefix)}
        if not arrays:
            continue
        found[layout] = lora.read(f"The file's {layout}", arrays, shapes, float(said.get("lora_alpha", 8)))
        if layout != "peft":  # which has the names in memory, not those of a file
            name: Any = "peft" if layout == "peft_file" else layout
            again = lora.write(found[layout], name, part)
            if set(again) != set(arrays) or any(not np.array_equal(again[n], arrays[n]) for n in arrays):
                raise ValueError(f"the layout {layout} is not written as it was read")
    first, *others = found.values()
    for other in others:
        if set(other) != set(first) or any(not np.array_equal(a.delta(), other[m].delta()) for m, a in first.items()):
            raise ValueError("the layouts of the file hold different updates")
    return first


RUNNERS = {"lora_formats": run}
"""Family -> how it is computed here, float32."""

"""Where the modules of a U-Net stand in published layouts: our module -> theirs."""

import re
from collections.abc import Iterable


def diffusers_places(modules: Iterable[str]) -> dict[str, str]:
    """In diffusers' models."""
    fixed = {"conv_in": "conv_in", "norm_out": "conv_norm_out", "conv_out": "conv_out"}
    return {module: fixed.get(module) or _diffusers(module) for module in modules}


def _diffusers(module: str) -> str:
    if change := re.fullmatch(r"(down|up)_(\d+)_change", module):
        way, level = change.groups()
        return f"{way}_blocks.{level}.{way}samplers.0"
    if block := re.fullmatch(r"(down|up)_(\d+)/(residual|attention)_(\d+)", module):
        way, level, kind, layer = block.groups()
        return f"{way}_blocks.{level}.{_kind(kind)}.{layer}"
    kind, _, layer = module.rpartition("/")[2].rpartition("_")
    return f"mid_block.{_kind(kind)}.{layer}"


def _kind(kind: str) -> str:
    return "resnets" if kind == "residual" else "attentions"


def compvis_places(modules: Iterable[str]) -> dict[str, str]:
    """In the lists of blocks of CompVis and guided-diffusion."""
    modules = set(modules)
    places = {"conv_in": "input_blocks.0.0", "norm_out": "out.0", "conv_out": "out.2"}
    places |= {"middle/residual_0": "middle_block.0", "middle/attention_0": "middle_block.1"}
    places["middle/residual_1"] = "middle_block.2" if "middle/attention_0" in modules else "middle_block.1"
    levels = 1 + max((int(m.split("_")[1].split("/")[0]) for m in modules if m.startswith("down_")), default=-1)
    at = 1
    for level in range(levels):
        for layer in range(_layers(modules, f"down_{level}")):
            places[f"down_{level}/residual_{layer}"] = f"input_blocks.{at}.0"
            places[f"down_{level}/attention_{layer}"] = f"input_blocks.{at}.1"
            at += 1
        places[f"down_{level}_change"] = f"input_blocks.{at}.0"
        at += 1
    at = 0
    for level in range(levels):
        for layer in range(_layers(modules, f"up_{level}")):
            places[f"up_{level}/residual_{layer}"] = f"output_blocks.{at}.0"
            places[f"up_{level}/attention_{layer}"] = f"output_blocks.{at}.1"
            at += 1
        beside = 2 if f"up_{level}/attention_0" in modules else 1
        places[f"up_{level}_change"] = f"output_blocks.{at - 1}.{beside}"
    return {ours: theirs for ours, theirs in places.items() if ours in modules}


def _layers(modules: set[str], level: str) -> int:
    return sum(module.startswith(f"{level}/residual_") for module in modules)

"""The folder of a tiny Stable Diffusion, as diffusers saves it, from its reference file."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

GOLDENS = Path(__file__).parents[1] / "goldens" / "arrays"


def unpack(name: str, folder: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """(the file's arrays, its request); the pipeline is written to `folder`."""
    tensors = load_file(GOLDENS / f"{name}.safetensors")
    with safe_open(GOLDENS / f"{name}.safetensors", "np") as opened:
        said = opened.metadata()
    for path, text in json.loads(said["files"]).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    parts: dict[str, dict[str, np.ndarray]] = {}
    for key, value in tensors.items():
        if key.startswith("file/"):
            _, part, array = key.split("/", 2)
            parts.setdefault(part, {})[array] = value
    for part, arrays in parts.items():
        kind = "model" if part == "text_encoder" else "diffusion_pytorch_model"
        save_file(arrays, folder / part / f"{kind}.safetensors")
    return tensors, json.loads(said["request"])

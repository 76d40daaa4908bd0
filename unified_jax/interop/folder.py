"""Folders as transformers writes them: config.json, the weights in one file or in parts, tokenizer files, settings of
the preprocessing. Nothing is fetched, and nothing but the arrays that are asked for is read into memory.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from unified_jax.errors import UserError
from unified_jax.interop import files, floats, parts, torch_files

CONFIG = "config.json"

ACTIVATIONS: Mapping[str, Any] = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
"""Names of activations -> ours (`networks.encoder_blocks.Activation`)."""


def read_json(path: Path, optional: bool = False) -> dict[str, Any]:
    """The object of a file; of a missing optional one {}. Raises UserError for a missing or damaged file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        if optional:
            return {}
        raise UserError(f"The folder {str(path.parent)!r} holds no {path.name}.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{str(path)!r} cannot be read: {error}.") from error
    if not isinstance(found, dict):
        raise UserError(f"{str(path)!r} holds a {type(found).__name__}; is it the file of another program?")
    return found


def is_family(source: str, kinds: tuple[str, ...]) -> bool:
    """Whether a source is a folder whose config.json is of one of these model types."""
    path = Path(source) / CONFIG
    try:
        return path.is_file() and read_json(path).get("model_type") in kinds
    except UserError:
        return False


def tensors(folder: Path, wanted: Callable[[str], bool]) -> dict[str, np.ndarray]:
    """The float32 arrays whose names are wanted. Raises UserError for missing, damaged or unusable files."""
    if not folder.is_dir():
        raise UserError(f"The folder {str(folder)!r} does not exist.")
    held = parts.find(folder)
    used = lambda name: wanted(name) or any(wanted(weight) for weight in floats.scaled_by(name))  # noqa: E731
    found: dict[str, np.ndarray] = {}
    for path in held.paths:
        plain = path.suffix == parts.SAFETENSORS
        some = files.read_safetensors(path, used) if plain else torch_files.read(path, True)[0]
        found |= {name: value for name, value in some.items() if used(name)}
    lost = sorted(name for name in held.listed or {} if wanted(name) and name not in found)
    if lost:
        raise UserError(f"The parts of {str(folder)!r} lack arrays that their index lists: {', '.join(lost)}.")
    return floats.widened(f"{str(folder)!r}", found)


class Settings:
    """The fields of a configuration, checked one by one."""

    def __init__(self, config: Mapping[str, Any], what: str) -> None:
        self.config, self.what = config, what

    def get(self, name: str, default: Any) -> Any:
        """The value, or the default of its class. Raises UserError for another type than the default's."""
        value = self.config.get(name, default)
        if isinstance(default, float) and type(value) is int:
            return float(value)
        if type(value) is not type(default):
            raise UserError(f"{self.what}: {name} is {value!r}; expected a {type(default).__name__}.")
        return value

    def require(self, name: str, *allowed: Any) -> None:
        """Raises UserError unless the value is one of these; the first is the default."""
        value = self.config.get(name, allowed[0])
        if value not in allowed:
            listed = ", ".join(map(repr, allowed))
            raise UserError(f"{self.what}: {name} is {value!r}; this network is one with {listed}.")

    def activation(self, name: str, default: str) -> Any:
        """Our name of an activation."""
        value = self.get(name, default)
        if value not in ACTIVATIONS:
            raise UserError(f"{self.what}: {name} is {value!r}; expected one of {', '.join(ACTIVATIONS)}.")
        return ACTIVATIONS[value]

    def side(self, name: str, default: int) -> int:
        """A side, or the one side of a square."""
        value = self.config.get(name, default)
        sides = set(value) if isinstance(value, list | tuple) else {value}
        if len(sides) != 1 or type(side := sides.pop()) is not int:
            raise UserError(f"{self.what}: {name} is {value!r}; expected the side of a square.")
        return side

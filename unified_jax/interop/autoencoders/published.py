"""Where an autoencoder's weights and settings come from: a folder of diffusers, or one file of weights.

A folder holds config.json, which names the class, and safetensors. A file has no settings: those of a convolutional
autoencoder are read from its shapes. A checkpoint of a whole latent diffusion model holds it beside other parts.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from unified_jax.errors import UserError
from unified_jax.interop import files, floats, folder, parts, torch_files
from unified_jax.interop.autoencoders import dc, levels, oobleck, settings
from unified_jax.interop.autoencoders.settings import Statistics

OPTIONS = {
    "AutoencoderKL": settings.KL, "VQModel": settings.VQ, "AutoencoderDC": dc.OPTIONS,
    "AutoencoderOobleck": oobleck.OPTIONS,
}  # fmt: skip
"""Class of diffusers -> its options with their defaults."""

OTHERS = ("encoder.stages.", "encoder.block.")
"""First parts of names in files of DC-AE's authors, and of Oobleck."""


class Described(NamedTuple):
    """What a folder's config.json says."""

    cls: str
    """Class of diffusers."""
    options: dict[str, Any]
    """All of its options."""
    statistics: Statistics


def described(path: Path) -> Described:
    """The settings of a folder. Raises UserError for another class, an unknown option, or a damaged file."""
    what = f"{str(path / folder.CONFIG)!r}"
    config = folder.read_json(path / folder.CONFIG)
    cls = config.get("_class_name")
    if cls not in OPTIONS:
        raise UserError(f"{what} is of class {cls!r}; expected one of {', '.join(OPTIONS)}.")
    options = settings.options(what, config, OPTIONS[cls])
    plain = "scaling_factor" not in options
    return Described(cls, options, Statistics() if plain else settings.statistics(what, options))


def finds(source: str) -> bool:
    """Whether a source is a folder of an autoencoder of diffusers, or a file with one in a published layout."""
    path = Path(source)
    try:
        if path.is_dir():
            return folder.read_json(path / folder.CONFIG).get("_class_name") in OPTIONS
        if not path.is_file() or path.suffix != parts.SAFETENSORS:
            return path.is_file() and path.suffix in parts.TORCH
        held = levels.own(dict.fromkeys(files.names(path)))
        return any(name.startswith(OTHERS) for name in held) or bool(levels.layout_of("", held))
    except UserError:
        return False


def tensors(path: Path) -> dict[str, np.ndarray]:
    """The float32 arrays of an autoencoder, by their names in a file of its own; other parts are not read.

    Raises UserError for missing, damaged or unusable files.
    """
    found: dict[str, np.ndarray] = {}
    for file in parts.find(path).paths:
        if file.suffix == parts.SAFETENSORS:
            found |= files.read_safetensors(file, set(levels.kept(files.names(file))).__contains__)
        else:
            held = torch_files.read(file, True)[0]
            found |= {name: held[name] for name in levels.kept(held)}
    counters = [name for name in found if name.endswith(dc.UNUSED)]
    return floats.widened(f"{str(path)!r}", {n: v for n, v in levels.own(found).items() if n not in counters})

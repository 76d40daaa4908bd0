"""State dicts from torch files, read with `weights_only=True`: no code in a file is ever run.

That refuses every pickled object except tensors and plain containers. (argparse.Namespace is allowed: it holds only
attributes, and the training scripts of DiT and SiT store their arguments in one, next to "model", "ema" and "opt".)
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from unified_jax.errors import UserError

AVERAGES = ("ema", "model_ema", "ema_model", "ema_state_dict", "params_ema")
TRAINED = ("model", "state_dict", "model_state_dict", "module", "net", "network", "params")
"""Entries of a checkpoint that hold weights."""

FLOAT8 = {
    "torch.float8_e4m3fn": ml_dtypes.float8_e4m3fn,
    "torch.float8_e5m2": ml_dtypes.float8_e5m2,
    "torch.float8_e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
    "torch.float8_e5m2fnuz": ml_dtypes.float8_e5m2fnuz,
}


def read(path: Path, average: bool) -> tuple[dict[str, np.ndarray], str]:
    """(the arrays in the precision of the file, which of its sets was read if it has several).

    Raises UserError without torch, or if the file is damaged, holds code, or is not a state dict.
    """
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(
            f"{str(path)!r} is a torch file and torch is not installed; install it (pip install torch), or save the "
            "weights as .safetensors where it is."
        ) from error
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises any exception of the archive, pickle or tensor code
        if "weights_only" in str(error).lower() or "Unsupported" in str(error):
            raise UserError(
                f"{str(path)!r} holds Python objects besides its weights. These may run code, so it is not read. "
                "If you trust its source, load it in torch yourself and save only its state dict, as .safetensors."
            ) from error
        raise unreadable(path, error) from error
    chosen, said = _state_dict(path, loaded, average)
    strange = [str(name) for name, value in chosen.items() if not isinstance(value, torch.Tensor)]
    if strange:
        raise UserError(f"{str(path)!r} holds entries that are not arrays: {', '.join(sorted(strange))}.")
    return {str(name): _numpy(path, str(name), value) for name, value in chosen.items()}, said


def unreadable(path: Path, error: Exception) -> UserError:
    """The error for a damaged file."""
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return UserError(f"The weights file {str(path)!r} cannot be read; it is damaged or of another kind: {reason[:200]}")


def _state_dict(path: Path, loaded: Any, average: bool) -> tuple[Mapping[str, Any], str]:
    """The requested part of a checkpoint; a file without parts is its own state dict."""
    if not isinstance(loaded, Mapping):
        raise UserError(f"{str(path)!r} holds a {type(loaded).__name__}, expected a state dict.")
    said = ""
    while True:
        averages, trained = (
            [part for part in parts if isinstance(loaded.get(part), Mapping) and loaded[part]]
            for parts in (AVERAGES, TRAINED)
        )
        if not averages and not trained:
            return loaded, said
        wanted = averages if average else trained
        if not wanted and not average:
            raise UserError(
                f"{str(path)!r} is a checkpoint of {', '.join(map(str, loaded))} and has no weights besides its EMA; "
                "without --ema none the EMA is read."
            )
        wanted = wanted or trained
        if len(wanted) > 1:
            raise UserError(
                f"{str(path)!r} holds several sets of weights: {', '.join(wanted)}; save one of them in its own file."
            )
        if averages and trained:
            said = f"took {wanted[0]!r} of {path.name}" + (f", not {trained[0]!r} (--ema none)" if average else "")
        elif average and not said:
            said = f"took {wanted[0]!r} of {path.name}" + ("" if averages else ", which holds no average")
        loaded = loaded[wanted[0]]


def _numpy(path: Path, name: str, tensor: Any) -> np.ndarray:
    import torch  # pyright: ignore[reportMissingImports]

    tensor = tensor.detach()
    try:
        if str(tensor.dtype) in FLOAT8:
            return tensor.contiguous().view(torch.uint8).numpy().view(FLOAT8[str(tensor.dtype)])
        return (tensor.to(torch.float32) if tensor.dtype == torch.bfloat16 else tensor).numpy()
    except (TypeError, RuntimeError, NotImplementedError) as error:  # sparse, quantised, without data
        reason = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
        raise UserError(f"{str(path)!r}: {name} cannot be read as a plain array ({reason}).") from error

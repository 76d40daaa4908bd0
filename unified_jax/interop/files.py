"""Named arrays on disk: `.safetensors` always, `.pt`, `.pth`, `.ckpt` and `.bin` where torch is installed.

Nothing in a file is ever run: safetensors holds no code, and torch reads with `weights_only=True`, which refuses every
pickled object but tensors and plain containers. (argparse.Namespace is let through: it holds attributes and nothing
else, and the training scripts of DiT and SiT store their arguments in one beside "model", "ema" and "opt".)

Half precision is widened to float32, which is exact; float64 is rounded to it.
"""

import argparse
import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from unified_jax.errors import UserError

TORCH = (".pt", ".pth", ".ckpt", ".bin")
"""Endings that torch reads."""


def read(path: Path, average: bool = True) -> dict[str, np.ndarray]:
    """The float32 arrays of a file by name.

    Of a training checkpoint {"model", "ema", ...} the average is taken, or the trained weights with `average=False`.
    Raises UserError for a file that is not there, is damaged, or holds something other than floating-point arrays.
    """
    if not path.is_file():
        raise UserError(f"The weights file {str(path)!r} does not exist.")
    if path.suffix == ".safetensors":
        found: dict[str, Any] = _safetensors(path)[0]
    elif path.suffix in TORCH:
        found = _torch(path, average)
    else:
        raise UserError(f"{str(path)!r}: expected a file that ends in .safetensors, {', '.join(TORCH)}.")
    if not found:
        raise UserError(f"The weights file {str(path)!r} holds no array.")
    return _float32(path, found)


def read_metadata(path: Path) -> dict[str, str]:
    """The text that a safetensors file carries beside its arrays. Raises UserError as `read` does."""
    if not path.is_file():
        raise UserError(f"The weights file {str(path)!r} does not exist.")
    return _safetensors(path)[1]


def write(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Writes a safetensors file in one piece or not at all.

    Raises UserError where it is there already, is not called .safetensors, or cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    if path.suffix != ".safetensors":
        raise UserError(f"{str(path)!r}: weights are written to a file that ends in .safetensors.")
    if path.exists():
        raise UserError(f"{str(path)!r} is there already; choose another name.")
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, temporary, dict(metadata))
        temporary.chmod(0o644)  # the library writes for the owner alone
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise UserError(f"{str(path)!r} cannot be written: {error}.") from error


def _safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    import ml_dtypes  # noqa: F401  (makes bfloat16 known to NumPy)
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}, dict(opened.metadata() or {})  # noqa: SIM118
    except (OSError, SafetensorError, TypeError, ValueError) as error:
        raise _unreadable(path, error) from error


def _torch(path: Path, average: bool) -> dict[str, Any]:
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
    except Exception as error:  # a damaged file ends in whatever the archive, pickle or tensor code raises
        if "weights_only" in str(error).lower() or "Unsupported" in str(error):
            raise UserError(
                f"{str(path)!r} holds Python objects beside its weights, and these may run code, so it is not read. "
                "If you trust its source, load it in torch yourself and save its state dict alone as .safetensors."
            ) from error
        raise _unreadable(path, error) from error
    chosen = _state_dict(path, loaded, average)
    strange = [str(name) for name, value in chosen.items() if not isinstance(value, torch.Tensor)]
    if strange:
        raise UserError(f"{str(path)!r} holds entries that are no arrays: {', '.join(sorted(strange))}.")
    return {str(name): _numpy(value) for name, value in chosen.items()}


def _state_dict(path: Path, loaded: Any, average: bool) -> Mapping[str, Any]:
    """The part of a checkpoint that was asked for; a file without parts is its own state dict."""
    if not isinstance(loaded, Mapping):
        raise UserError(f"{str(path)!r} holds a {type(loaded).__name__}, expected a state dict.")
    if not any(isinstance(loaded.get(part), Mapping) for part in ("ema", "model", "state_dict")):
        return loaded
    wanted = ("ema",) if average else ("model", "state_dict")
    for part in wanted:
        if isinstance(loaded.get(part), Mapping):
            return loaded[part]
    other = "--ema none takes the trained weights" if average else "without --ema none the average is taken"
    raise UserError(
        f"{str(path)!r} is a checkpoint of {', '.join(map(str, loaded))} and has no {wanted[0]!r}; {other}."
    )


def _numpy(tensor: Any) -> np.ndarray:
    import torch  # pyright: ignore[reportMissingImports]

    tensor = tensor.detach()
    return (tensor.to(torch.float32) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _float32(path: Path, found: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    known = ("float16", "bfloat16", "float32", "float64")
    strange = [f"{name} ({value.dtype})" for name, value in sorted(found.items()) if value.dtype.name not in known]
    if strange:
        raise UserError(f"{str(path)!r} holds arrays that are no weights, expected floats: {', '.join(strange)}.")
    return {name: np.asarray(value, np.float32) for name, value in found.items()}


def _unreadable(path: Path, error: Exception) -> UserError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return UserError(f"The weights file {str(path)!r} cannot be read; it is damaged or of another kind: {reason[:200]}")

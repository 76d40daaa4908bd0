"""Runs every reference file of a folder that this library covers, and compares.

Rows are (file, family, output, largest error, tolerance, verdict). The tolerance of an output is 4 x the file's own
float32-to-float64 error + 1e-5 x its largest value; where no such error is recorded, 2e-5 x the largest value. For
integers it is at most 1/4; for a small difference of larger numbers (`Cancelled`), at least their float64 rounding.
Values that are not finite must be equal.

The verdict is pass, fail or uncovered with what is not served; if the reference itself is wrong, which is shown by
computing its mistake too (`Disputed`), "reference error" with the reason, and where it is not the function that
this library has (`NotOurs`), "another function" with the difference. Exit code 1 if anything fails.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from unified_jax.certify import Cancelled, Disputed, NotOurs, NotServed, Unserved
from unified_jax.errors import UserError

Runner = Callable[[dict[str, np.ndarray], dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class Row:
    """One compared output."""

    file: str
    family: str
    output: str
    error: float | None
    tolerance: float
    verdict: str


NETWORKS = ("dit", "fid_inception", "sit")
"""Families with float32 networks, beside those of `networks()`; the others are computed in float64, so that only the
reference's rounding is left."""

ROUNDINGS = 64 * float(np.finfo(np.float64).eps)
"""Float64's rounding of a sum, over the size of its terms."""

LARGEST = 100_000
"""Whole numbers in a golden's configuration stay below this."""


def runners() -> dict[str, Runner]:
    """Family -> how it is computed here."""
    from unified_jax.certify import (
        balancing,
        dit,
        dpm_solver_pp,
        gaussian_diffusion,
        inception,
        llama,
        mel,
        scheduler,
        sequence,
        sit,
        sit_sampler,
        tables,
    )

    return {
        "beta_schedules": tables.run_beta_schedules,
        "frechet": tables.run_frechet,
        "fid_inception": inception.run,
        "gaussian_diffusion": gaussian_diffusion.run,
        "scheduler": scheduler.run,
        "dit": dit.run,
        "sit": dit.run_sit,
        "sit_path": sit.run_path,
        "sit_loss": sit.run_loss,
        "sit_sampler": sit_sampler.run_sampler,
        "lightning_transport": sit_sampler.run_lightning,
        "dpm_solver_pp": dpm_solver_pp.run,
        "sd3_training_density": tables.run_training_density,
        "ema": tables.run_ema,
        "kid_pr_is": tables.run_kid_pr_is,
        "min_snr": tables.run_min_snr,
        "pcgrad": balancing.run_pcgrad,
        "gradnorm_libmtl": balancing.run_gradnorm_libmtl,
        "gradnorm_toy": balancing.run_gradnorm_toy,
        "mel": mel.run_mel,
        "transfusion_mask": sequence.run_transfusion_mask,
        "transfusion": sequence.run_transfusion,
        "llama": llama.run_llama,
    } | networks()


def networks() -> dict[str, Runner]:
    """Family -> how its float32 network is computed here, from a module for each kind of network."""
    from unified_jax.certify import (
        autoencoders,
        controlnet,
        diffusers_models,
        encoders,
        lora,
        r3gan,
        transformers,
        unets,
    )

    found = autoencoders.RUNNERS | encoders.RUNNERS | transformers.RUNNERS | unets.RUNNERS
    return found | diffusers_models.RUNNERS | lora.RUNNERS | controlnet.RUNNERS | r3gan.RUNNERS


def read_golden(path: Path) -> tuple[dict[str, np.ndarray], str, dict[str, Any]]:
    """(tensors, family, configuration) of one file. Raises UserError for a file that is not a golden."""
    from safetensors import safe_open
    from safetensors.numpy import load_file

    try:
        tensors = load_file(path)
        with safe_open(path, "np") as opened:
            meta = json.loads(opened.metadata()["golden"])
        family, config = meta["family"], meta.get("cfg", {})
        if not isinstance(family, str) or not isinstance(config, dict):
            raise TypeError("family must be a string and cfg an object")
        _check_sizes(config)
        _check_sizes([int(number) for name in tensors for number in re.findall(r"[0-9]+", name)])
    except Exception as error:  # of whatever kind: the reader, JSON and NumPy each have their own
        raise UserError(f"{path} is not a golden file: {type(error).__name__}: {str(error)[:300]}") from error
    return tensors, family, config


def _check_sizes(config: Any) -> None:
    """A golden is small: a larger integer than any golden holds (except seeds) would only compute for days."""
    for value in config.values() if isinstance(config, dict) else config if isinstance(config, list) else ():
        if isinstance(value, int) and abs(value) > LARGEST:
            raise ValueError(f"cfg holds the number {str(value)[:20]}; at most {LARGEST} is expected")
        _check_sizes(value)


def certify_file(path: Path, manifest: dict[str, Any]) -> list[Row]:
    """The rows of one file. Raises UserError for a file that is not a golden."""
    import jax

    tensors, family, config = read_golden(path)
    run = runners().get(family)
    found: dict[str, Any] = {}
    trouble = "" if run else f"uncovered: family {family} is not served"
    try:
        double = family not in NETWORKS and family not in networks()
        with jax.enable_x64(double):
            inputs = {name: _doubled(value) if double else value for name, value in tensors.items()}
            found = run(inputs, config) if run else {}
            said = (Cancelled, Disputed, NotOurs, NotServed)
            found = {name: value if isinstance(value, said) else np.asarray(value) for name, value in found.items()}
    except Unserved as error:
        found, trouble = {}, f"uncovered: {error}"
    except Exception as error:  # a file that does not hold together may fail anywhere in what it asks for
        found, trouble = {}, f"fail: could not be run here: {type(error).__name__}: {str(error)[:300]}"
    recorded = _recorded(manifest, path.stem)
    rows = []
    for name, want in sorted(tensors.items()):
        if name.startswith("out/"):
            output = name[4:]
            row = _row(path.name, family, output, want, found.get(output), recorded.get(name))
            rows.append(replace(row, verdict=trouble) if trouble else row)
    return rows


def _recorded(manifest: Any, stem: str) -> dict[str, float]:
    """Output -> the reference's own rounding, where the manifest holds one that can be read."""
    entry = manifest.get(stem) if isinstance(manifest, dict) else None
    outputs = entry.get("outputs") if isinstance(entry, dict) else None
    found = {}
    for name, record in outputs.items() if isinstance(outputs, dict) else ():
        own = record.get("f32_minus_f64_maxabs") if isinstance(record, dict) else None
        if isinstance(own, int | float) and 0 <= own < float("inf"):
            found[name] = float(own)
    return found


def _doubled(value: np.ndarray) -> np.ndarray:
    return value.astype(np.float64) if np.issubdtype(value.dtype, np.floating) else value


def _row(file: str, family: str, output: str, want: np.ndarray, got: Any, own: float | None) -> Row:
    finite = np.abs(want[np.isfinite(want)])
    largest = float(finite.max()) if finite.size else 0.0
    tolerance = 2e-5 * largest if own is None else 4 * own + 1e-5 * largest
    if not np.issubdtype(want.dtype, np.inexact):
        tolerance = min(tolerance, 0.25)
    if isinstance(got, Cancelled):
        tolerance += ROUNDINGS * got.terms
    if got is None:
        return Row(file, family, output, None, tolerance, "uncovered: its family computes no output of this name here")
    if isinstance(got, NotServed):
        return Row(file, family, output, None, tolerance, f"uncovered: {got.reason}")
    if isinstance(got, NotOurs):
        return Row(file, family, output, None, tolerance, f"another function: {got.reason}")
    ours = np.asarray(got.ours) if isinstance(got, Disputed | Cancelled) else got
    error = _distance(ours, want)
    if error <= tolerance:
        return Row(file, family, output, error, tolerance, "pass")
    if np.isnan(want).any():
        return Row(file, family, output, error, tolerance, "fail: the stored values are not all numbers")
    if ours.shape != want.shape:
        return Row(file, family, output, error, tolerance, f"fail: ours is {ours.shape}, the stored {want.shape}")
    if isinstance(got, Disputed) and _distance(got.theirs, want) <= tolerance:
        return Row(file, family, output, error, tolerance, f"reference error: {got.reason}")
    return Row(file, family, output, error, tolerance, "fail")


def _distance(got: np.ndarray, want: np.ndarray) -> float:
    """The largest error; infinite for different shapes or a value that is finite in one only, NaN for NaN.

    NaN is never within a tolerance.
    """
    if got.shape != want.shape:
        return float("inf")
    got, want = (v.astype(np.complex128 if np.iscomplexobj(v) else np.float64) for v in (got, want))
    with np.errstate(invalid="ignore"):
        return float(np.abs(np.where(got == want, 0.0, got - want)).max()) if want.size else 0.0


def certify(folder: Path, only: str = "") -> list[Row]:
    """The rows of every file of a folder. Raises UserError for an empty folder."""
    paths = [path for path in sorted(folder.glob("*.safetensors")) if path.name.startswith(only)]
    if not paths:
        raise UserError(f"{str(folder)!r} holds no .safetensors file{f' that starts with {only!r}' if only else ''}.")
    listing = folder / "manifest.json"
    try:
        manifest = json.loads(listing.read_bytes()) if listing.is_file() else {}
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{listing} is not valid JSON ({error}).") from error
    return [row for path in paths for row in certify_file(path, manifest)]

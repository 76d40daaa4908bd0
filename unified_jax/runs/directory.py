"""A run directory: its files, and how a run is opened from it.

config.json  environment.json  metrics.jsonl  non_finite.jsonl  summary.json  checkpoints/  previews/  tensorboard/
code/ with code.json, for custom classes; stages/ with stages.json; data.json, the parts of the data set; names.json,
class names
"""

import importlib.metadata
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import jax

from unified_jax.config import config_hash, from_plain, to_plain
from unified_jax.errors import RunError, UserError
from unified_jax.runs.code import admitted
from unified_jax.runs.draws import described
from unified_jax.training.experiment import Experiment

NAMES = "names.json"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def create(run_dir: Path) -> None:
    """Makes the folder. Raises UserError where it cannot be written."""
    try:
        (run_dir / "previews").mkdir(parents=True, exist_ok=True)
        probe = run_dir / ".writable"
        probe.write_text("")
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"The run directory {str(run_dir)!r} cannot be written: {error.strerror or error}.") from error


def write_json(path: Path, value: Any) -> None:
    """Writes atomically. Raises RunError where the disk refuses."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.write_text(json.dumps(value, indent=1) + "\n")
        os.replace(temporary, path)
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error}.") from error


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object, or None if missing or truncated."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def save_experiment(run_dir: Path, experiment: Experiment) -> None:
    """Writes config.json."""
    write_json(run_dir / "config.json", to_plain(experiment))


def read_config(run_dir: Path) -> dict[str, Any]:
    """The content of config.json. Raises UserError if the folder is not a run, or the file not a JSON object."""
    path = run_dir / "config.json"
    if not run_dir.is_dir():
        raise UserError(f"The run directory {str(run_dir)!r} does not exist.")
    if not path.is_file():
        raise UserError(f"{str(run_dir)!r} is no run directory: it has no config.json.")
    try:
        plain = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, a number of 5000 digits, nested without end
        raise UserError(f"{path} is not valid JSON ({error}).") from error
    if not isinstance(plain, dict):
        raise UserError(f"{path} does not describe an experiment: expected an object, found {type(plain).__name__}.")
    return plain


def load_experiment(run_dir: Path, trust: bool = False) -> Experiment:
    """Rebuilds the experiment of a run, with `trust` also by the custom code that the run keeps.

    Raises UserError if the folder is not a run.
    """
    experiment = from_plain(read_config(run_dir), admitted(run_dir, trust))
    if not isinstance(experiment, Experiment):
        raise UserError(f"{run_dir / 'config.json'} does not describe an experiment.")
    return experiment


def read_names(run_dir: Path) -> dict[str, tuple[str, ...]]:
    """Field -> class names of a run's data set; {} without any."""
    found = read_json(run_dir / NAMES) or {}
    return {field: tuple(map(str, names)) for field, names in found.items() if isinstance(names, list)}


def read_summary(path: Path) -> dict[str, Any]:
    """summary.json; {} if missing or truncated."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def provenance(experiment: Experiment) -> dict[str, Any]:
    """Provenance of every result file: commit, configuration hash, seed, device, versions."""
    return {
        "commit": commit(),
        "config_hash": config_hash(experiment),
        "seed": experiment.seed,
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def environment(experiment: Experiment, mesh_shape: dict[str, int]) -> dict[str, Any]:
    """environment.json: provenance, mesh, process count, platform, compiler flags, and random numbers."""
    return (
        provenance(experiment)
        | described(os.environ)
        | {
            "mesh": mesh_shape,
            "processes": jax.process_count(),
            "platform": f"{platform.system()} {platform.machine()}",
            "python": platform.python_version(),
            "cores": os.cpu_count(),
            "xla_flags": os.environ.get("XLA_FLAGS", ""),
            "libtpu_init_args": os.environ.get("LIBTPU_INIT_ARGS", ""),
        }
    )


def commit() -> str | None:
    """The git commit of the source tree, with '+' if modified; None outside a checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        call = ["git", "-C", str(root)]
        head = subprocess.run([*call, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True)
        dirty = subprocess.run([*call, "status", "--porcelain", "-uno"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "")

"""The random numbers of a run: recorded in environment.json, and compared when the run is resumed.

`precision.same_numbers` fixes the flags that would change random numbers. Other changes (another version of JAX or
NumPy, an unknown flag) show in `fingerprint`: a digest of a few numbers of both generators of a run. It does not depend
on the device, and does not cover the rounding of sums, which a mesh may also change.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unified_jax.errors import UserError
from unified_jax.precision import KEYS, same_numbers, seed_key

READ = ("JAX_", "XLA_", "FLAX_", "NPY_", "LIBTPU_", "NVIDIA_TF32", "CUBLAS_", "PYTHONHASHSEED", "OMP_NUM_THREADS")
"""Prefixes of the variables that JAX, Flax, NumPy, Python and the devices' libraries read."""


def described(variables: Mapping[str, str]) -> dict[str, Any]:
    """The entry of environment.json about random numbers; `variables` is the environment."""
    return {
        "keys": KEYS,
        "x64": False,
        "threefry_partitionable": True,
        "draws": fingerprint(),
        "variables": {name: variables[name] for name in sorted(variables) if name.startswith(READ)},
    }


@same_numbers()
def fingerprint() -> str:
    """Twelve hex digits of this process's random numbers."""
    shuffled = np.random.Generator(np.random.Philox(20)).permutation(12)
    found = [np.asarray(_drawn(seed_key(20))).tolist(), shuffled.tolist()]
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()[:12]


@jax.jit
def _drawn(key: jax.Array) -> jax.Array:
    """Normal numbers of folded keys, as a step samples them, rounded enough to be equal on all devices."""
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(3))
    return jax.vmap(lambda k: jnp.round(64 * jax.random.normal(k, (3,))))(keys).astype(jnp.int32)


def check_same_draws(run_dir: Path) -> None:
    """Raises UserError if the run in `run_dir` used other random numbers than this process would."""
    try:
        saved = json.loads((run_dir / "environment.json").read_bytes())
        before = saved["draws"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return  # an earlier version wrote none
    if before == fingerprint():
        return
    ours = described(os.environ)
    changed = _changed(saved.get("variables"), ours["variables"]) or ["its versions of JAX and NumPy differ from these"]
    raise UserError(
        f"{str(run_dir)!r} used other random numbers than this process would ({'; '.join(changed)}): it would become "
        f"another run. Resume it with the versions and variables that {run_dir / 'environment.json'} names, or choose "
        "another --run-dir."
    )


def _changed(saved: Any, ours: dict[str, str]) -> list[str]:
    saved = saved if isinstance(saved, dict) else {}
    names = sorted(n for n in {*saved, *ours} if saved.get(n) != ours.get(n))
    return [f"{n} ({saved.get(n, 'not set')} -> {ours.get(n, 'not set')})" for n in names]

"""Targets of ahead-of-time plans: their names, their topologies for the compilers, and their data sheets.

    v5p:8x8x8    a TPU slice by generation and shape (v4, v5e, v5p, v6e), through libtpu
    h200:8       one to eight GPUs of a host (h100, h200), through JAX's CUDA plugin

The numbers are the vendors': memory in bytes, dense bfloat16 FLOP/s, bytes/s of the memory and of the links between
chips (of all links of a chip together, one direction).
"""

import contextlib
import importlib.util
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unified_jax.errors import UserError


@dataclass(frozen=True)
class Chip:
    """A data sheet."""

    name: str
    memory: float
    flops: float
    bandwidth: float
    links: float


CHIPS = {
    "v4": Chip("TPU v4", 32.0 * 2**30, 275e12, 1.228e12, 3.0e11),
    "v5e": Chip("TPU v5e", 16.0 * 2**30, 197e12, 0.819e12, 2.0e11),
    "v5p": Chip("TPU v5p", 95.0 * 2**30, 459e12, 2.765e12, 6.0e11),
    "v6e": Chip("TPU v6e", 32.0 * 2**30, 918e12, 1.64e12, 4.48e11),
    "h100": Chip("NVIDIA H100", 80e9, 989e12, 3.35e12, 4.5e11),
    "h200": Chip("NVIDIA H200", 141e9, 989e12, 4.8e12, 4.5e11),
}


@dataclass(frozen=True)
class Target:
    """A number of chips of one kind."""

    text: str
    chip: Chip
    devices: list[Any]


def parse_target(text: str) -> tuple[str, str]:
    """("v5p", "8x8x8"). Raises UserError for anything else."""
    kind, _, shape = text.partition(":")
    pattern = r"[1-9]\d*" if kind.startswith("h") else r"[1-9]\d*(x[1-9]\d*)+"
    if kind not in CHIPS or not re.fullmatch(pattern, shape):
        raise UserError(
            f"Unknown target {text!r}: expected KIND:SHAPE, such as v5p:8x8x8, v6e:16x16 or h200:8; kinds are "
            f"{', '.join(CHIPS)} (a TPU's shape has two axes, v4's and v5p's three; a GPU's is 1 to 8)."
        )
    return kind, shape


def open_target(text: str) -> Target:
    """The devices of a target, for compiling only.

    Raises UserError if the compiler is not installed or refuses the shape.
    """
    kind, shape = parse_target(text)
    gpu = kind.startswith("h")
    module, extra = ("jax_cuda13_plugin", "jax[cuda13]") if gpu else ("libtpu", "jax[tpu]")
    if importlib.util.find_spec(module) is None:
        raise UserError(f"Target {text!r} needs {extra}: pip install '{extra}' (no {'GPU' if gpu else 'TPU'} needed).")
    os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}  # no TPU is opened
    from jax.experimental import topologies

    try:
        with _silent():
            return Target(text, CHIPS[kind], _devices(topologies, kind, shape))
    except UserError:
        raise
    except Exception as error:  # the compilers raise any exception
        why = str(error).split("\n")[0][:200]
        raise UserError(f"Target {text!r} was refused by the compiler: {why}") from error


def _devices(topologies: Any, kind: str, shape: str) -> list[Any]:
    if not kind.startswith("h"):
        return list(topologies.get_topology_desc(f"{kind}:{shape}", platform="tpu").devices)
    if not 1 <= int(shape) <= 8:
        raise UserError(f"Target '{kind}:{shape}': a host has 1 to 8 GPUs.")
    name, facts = f"1x1x{shape}", (Path(__file__).parent / "chips" / f"{kind}.txtpb").read_text()
    return list(topologies.get_topology_desc(name, platform="cuda", target_config=facts, topology=name).devices)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Hides the compilers' messages on stderr about missing hardware."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)

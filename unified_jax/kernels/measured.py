"""The fastest measured implementations, for `attention="auto"`; elsewhere it uses XLA.

Each row names its result file, which `benchmarks/modulated_attention.py` writes.
"""

from typing import Literal, NamedTuple


class Fastest(NamedTuple):
    """The fastest implementation for a range of shapes on one kind of device."""

    device_kind: str
    """Part of the device's name, such as "H200" or "TPU v5p"."""
    dtype: str
    head_dim: int
    least_tokens: int
    most_tokens: int
    runs: bool
    """Whether tokens attend to key ranges, or to all keys."""
    choice: Literal["xla", "cudnn", "pallas"]
    """Implementation of attention itself; norm and projections around it are XLA's unless `whole`."""
    whole: bool
    """Whether this implementation was faster for the projections too."""
    source: str
    """File of the measurement."""


_SOURCE = "benchmarks/results/modulated_attention.json"

TABLE: tuple[Fastest, ...] = (
    Fastest("H100", "bfloat16", 72, 256, 1024, False, "cudnn", False, _SOURCE),
    Fastest("H100", "bfloat16", 128, 4096, 4096, False, "cudnn", False, _SOURCE),
    Fastest("H100", "bfloat16", 128, 4096, 4096, True, "pallas", False, _SOURCE),
)


def fastest(
    device_kind: str, dtype: str, head_dim: int, tokens: int, runs: bool, projection: bool
) -> Literal["xla", "cudnn", "pallas"]:
    """The measured choice for attention itself or for a projection, else XLA."""
    for row in TABLE:
        near = row.device_kind in device_kind and (row.dtype, row.head_dim, row.runs) == (dtype, head_dim, runs)
        if near and row.least_tokens <= tokens <= row.most_tokens:
            return row.choice if row.whole or not projection else "xla"
    return "xla"

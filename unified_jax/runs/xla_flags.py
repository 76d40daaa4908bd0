"""The compiler flags that our commands set (`CUDA`) or recommend (`train.py --xla recommended`), with reasons.

The latter overlap collectives with computation: FSDP gathers a layer's parameters while the layer before it computes.
Nothing here changes a number, but a flag changes which kernels the compiler picks, and with them the last bits. The
CPU needs none (none helped: `benchmarks/profile.md`). What was set is recorded in environment.json.

Flags must be in the environment before a device is opened: XLA_FLAGS is read by every backend, LIBTPU_INIT_ARGS by
TPUs only. User settings take precedence.
"""

import importlib.util
import os

CUDA = {
    "--xla_gpu_enable_triton_gemm=false": "products by cuBLAS: else XLA compiles dozens of Triton kernels for each "
    "product, to time them, and one that multiplies in full float32 takes seconds",
}
"""In XLA_FLAGS of every command, where JAX's CUDA plugin is installed (`use_cublas`)."""

GPU = {
    "--xla_gpu_enable_latency_hiding_scheduler=true": "order operations so that transfers run beside products",
    "--xla_gpu_enable_pipelined_all_gather=true": "gather the next layer's parameters during this one",
    "--xla_gpu_enable_pipelined_reduce_scatter=true": "scatter the last layer's gradients during this one",
    "--xla_gpu_enable_pipelined_all_reduce=true": "the same for gradients of replicated parameters",
    "--xla_gpu_all_gather_combine_threshold_bytes=134217728": "few large transfers instead of many small ones",
    "--xla_gpu_reduce_scatter_combine_threshold_bytes=67108864": "the same",
    "--xla_gpu_all_reduce_combine_threshold_bytes=134217728": "the same",
}
"""In XLA_FLAGS."""

DETERMINISTIC_GPU = {
    "--xla_gpu_deterministic_ops=true": "no atomic additions, no choice by timing: equal runs are equal to the bit",
}
"""In XLA_FLAGS, for runs that claim to be bitwise equal (`--reduction strict`); slower."""

TPU = {
    "--xla_tpu_enable_async_collective_fusion=true": "collectives run inside fused loops of computation",
    "--xla_tpu_enable_async_collective_fusion_fuse_all_gather=true": "parameter gathers too",
    "--xla_tpu_enable_async_collective_fusion_multiple_steps=true": "over several steps of such a loop",
    "--xla_tpu_overlap_compute_collective_tc=true": "products and collectives share the core",
    "--xla_enable_async_all_gather=true": "gathers start early and are awaited late",
    "--xla_tpu_enable_data_parallel_all_reduce_opt=true": "gradient reductions wait for the end of the backward pass",
    "--xla_tpu_data_parallel_opt_different_sized_ops=true": "also where their sizes differ",
}
"""In LIBTPU_INIT_ARGS."""


def use_cublas() -> None:
    """Adds `CUDA` to this process' environment if there may be an NVIDIA GPU; before any device is opened."""
    if any(importlib.util.find_spec(f"jax_cuda{version}_plugin") for version in (12, 13)):
        _add("XLA_FLAGS", list(CUDA))


def recommend(strict: bool = False) -> None:
    """Adds the flags to this process' environment; before any device is opened."""
    _add("XLA_FLAGS", [*GPU, *(DETERMINISTIC_GPU if strict else ())])
    _add("LIBTPU_INIT_ARGS", list(TPU))


def _add(variable: str, flags: list[str]) -> None:
    there = os.environ.get(variable, "").split()
    named = {flag.split("=")[0] for flag in there}
    os.environ[variable] = " ".join(there + [flag for flag in flags if flag.split("=")[0] not in named])

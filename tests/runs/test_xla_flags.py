"""The flags that commands set: known to the compilers, and never in the way of the user's own."""

import importlib.util
import os

import pytest

from tests.helpers import command
from unified_jax.runs import xla_flags


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "--xla_gpu_enable_triton_gemm=false"),
        ("--xla_gpu_enable_triton_gemm=true", "--xla_gpu_enable_triton_gemm=true"),
        ("--xla_dump_to=here", "--xla_dump_to=here --xla_gpu_enable_triton_gemm=false"),
    ],
)
def test_cublas_is_asked_for_where_there_may_be_a_gpu(monkeypatch, before, after):
    monkeypatch.setenv("XLA_FLAGS", before)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    xla_flags.use_cublas()
    assert os.environ["XLA_FLAGS"] == before
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name if name == "jax_cuda13_plugin" else None)
    xla_flags.use_cublas()
    assert os.environ["XLA_FLAGS"] == after


def test_this_jax_knows_every_flag():
    """One that it does not know ends the process."""
    flags = " ".join([*xla_flags.CUDA, *xla_flags.GPU, *xla_flags.DETERMINISTIC_GPU])
    process = command("-c", "import jax; print(jax.numpy.ones(2).sum())", devices=1, flags=flags)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0 and out.strip() == "2.0", err

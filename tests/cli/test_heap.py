"""The allocator that keeps its heap: who gets it, and that steps then ask the system for no memory."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from unified_jax.cli import heap

GLIBC = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator of glibc")

PROGRAM = """
import resource, sys
from unified_jax.cli.heap import keep_heap
if sys.argv[1] == "kept":
    assert keep_heap()
import jax, jax.numpy as jnp
work = jax.jit(lambda x, v: jnp.concatenate([x[1:], x[:1]]) @ v)
x, v = jnp.ones((4096, 4096)), jnp.ones((4096,))
for _ in range(10):
    jax.block_until_ready(work(x, v))
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    jax.block_until_ready(work(x, v))
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode: str) -> int:
    """Page faults of 20 calls of a program whose workspace is 64 MB."""
    environment = {k: v for k, v in os.environ.items() if k not in heap.OWN} | {"JAX_PLATFORMS": "cpu"}
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, mode], env=environment, capture_output=True, text=True, check=True
    )
    return int(run.stdout)


@GLIBC
def test_a_kept_heap_asks_for_no_pages_anew() -> None:
    assert faults("kept") < faults("given back") / 4


@GLIBC
@pytest.mark.parametrize("variable", heap.OWN)
def test_the_users_own_settings_stay(variable: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(variable, "1")
    assert not heap.keep_heap(tmp_path, lambda option, value: pytest.fail("changed"))


@GLIBC
@pytest.mark.parametrize(("platforms", "file", "kept"), [
    (None, None, True), (None, "nvidiactl", False), (None, "accel0", False), ("cpu", "nvidiactl", True),
    ("tpu", None, False), ("cuda,cpu", None, False), ("", "nvidiactl", False), ("", None, True),
])  # fmt: skip
def test_only_where_the_cpu_computes(
    platforms: str | None, file: str | None, kept: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in (*heap.OWN, "JAX_PLATFORMS"):
        monkeypatch.delenv(name, raising=False)
    if platforms is not None:
        monkeypatch.setenv("JAX_PLATFORMS", platforms)
    if file:
        (tmp_path / file).touch()
    asked: list[tuple[int, int]] = []
    assert heap.keep_heap(tmp_path, lambda option, value: asked.append((option, value)) or 1) == kept
    assert bool(asked) == kept


def test_other_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not heap.keep_heap()

"""The real TPU compilers (XLA and Mosaic, through libtpu) compile our kernels on a machine without a TPU.

`make aot` runs this in an environment with libtpu; anywhere else it says "not verified".
"""

import importlib.util
import os
import re
import subprocess
import sys

import pytest

from tests.aot.problems import PROBLEMS, compile_half
from unified_jax.runs.xla_flags import TPU
from unified_jax.sharding import MeshShape

KERNELS = {
    False: ("modulated_qkv", "attend", "gated_out"),
    True: ("modulated_qkv", "attend", "attend_grad_queries", "attend_grad_keys"),
}


def devices_of(name):
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("not verified: libtpu is not installed here (make aot)")
    os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    from jax.experimental import topologies

    return topologies.get_topology_desc(name, platform="tpu").devices


@pytest.mark.parametrize(("target", "name"), [("v5p:2x2x1", "transfusion_7b"), ("v6e:2x2", "dit_xl_256")])
def test_mosaic_compiles_the_gradient(target, name):
    """Each generation once, v5e in the tests after this one; all sizes on all of them take minutes."""
    assert_compiled(target, name, gradient=True)


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("v5e:2x2", "grouped_96_ragged"),
        pytest.param("v4:2x2x1", "dit_xl_256", marks=pytest.mark.slow),
        pytest.param("v5p:2x2x1", "transfusion_7b", marks=pytest.mark.slow),
        pytest.param("v6e:2x2", "dit_xl_1024", marks=pytest.mark.slow),
    ],
)
def test_mosaic_compiles_forward_mode_and_reverse_over_it(target, name):
    devices = devices_of(target)[:1]
    one, both = (compile_half(PROBLEMS[name], devices, MeshShape(), gradient, True).as_text() for gradient in (0, 1))
    assert "attend_dual" in one and "attend_dual_grad" not in one
    assert {"attend_dual_grad_queries", "attend_dual_grad_keys"} <= set(re.findall(r"attend_dual_grad_[a-z]+", both))


@pytest.mark.slow
@pytest.mark.parametrize("gradient", [False, True], ids=["forward", "gradient"])
@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("target", ["v4:2x2x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2"])
def test_mosaic_compiles_every_kernel_for_every_generation(target, name, gradient):
    assert_compiled(target, name, gradient)


def assert_compiled(target, name, gradient):
    compiled = compile_half(PROBLEMS[name], devices_of(target)[:1], MeshShape(), gradient)
    text = compiled.as_text()
    missing = [kernel for kernel in KERNELS[gradient] if f"{kernel}" not in text or "tpu_custom_call" not in text]
    assert not missing


@pytest.mark.parametrize(
    "mesh",
    [
        pytest.param(MeshShape(data=4, tensor=2), marks=pytest.mark.slow),
        MeshShape(fsdp=2, tensor=2, sequence=2),
    ],
    ids=str,
)
def test_mosaic_compiles_each_device_s_part(mesh):
    problem = PROBLEMS["transfusion_7b"]._replace(batch=8)
    text = compile_half(problem, devices_of("v5e:2x4"), mesh, gradient=True).as_text()
    assert "attend_grad_keys" in text
    assert "all-reduce" in text or "reduce-scatter" in text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "code"), [(" ".join(TPU), 0), ("--xla_tpu_no_such_flag=true", 1)], ids=["ours", "none"]
)
def test_the_recommended_flags_are_known(root, flags, code):
    """And `remat="offload"` compiles. A flag that does not exist ends the process, so the check means something."""
    devices_of("v5e:2x2")
    remat = ("--model.network.trunk.remat", "offload")
    command = ("plan", "quickstart", "--target", "v5e:2x2", "--mesh.fsdp", "4", *remat)
    ended = subprocess.run(
        [sys.executable, "-m", "unified_jax.cli." + command[0], *command[1:]], cwd=root, capture_output=True, text=True,
        env=os.environ | {"LIBTPU_INIT_ARGS": flags, "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"},
    )  # fmt: skip
    assert (ended.returncode == 0) == (code == 0), ended.stderr

"""The real Hopper compilers (XLA, Mosaic GPU and ptxas, through JAX's CUDA plugin) compile our kernels without a GPU.

`make aot-gpu` runs this in an environment with the plugin; anywhere else it says "not verified".
"""

import importlib.util

import pytest

from tests.aot.problems import PROBLEMS, compile_half
from unified_jax.kernels.hopper import compat
from unified_jax.sharding import MeshShape
from unified_jax.training.targets import open_target

if importlib.util.find_spec("jax_cuda13_plugin") is None:
    why = "not verified: JAX's CUDA plugin is not installed here (make aot-gpu)"
else:
    why = f"not verified: {compat.missing()}" if compat.missing() else ""
pytestmark = pytest.mark.skipif(bool(why), reason=why)


@pytest.mark.parametrize("gradient", [False, True], ids=["forward", "gradient"])
@pytest.mark.parametrize("name", PROBLEMS)
def test_the_hopper_compilers_compile_the_kernels(name, gradient):
    text = compile_half(PROBLEMS[name], open_target("h200:8").devices[:1], MeshShape(), gradient).as_text()
    assert text.count("mosaic_gpu") >= (3 if gradient else 1)


def test_they_compile_each_device_s_part():
    problem = PROBLEMS["transfusion_7b"]._replace(batch=8)
    text = compile_half(problem, open_target("h200:8").devices, MeshShape(data=4, tensor=2), gradient=True).as_text()
    assert text.count("mosaic_gpu") >= 3
    assert "all-reduce" in text

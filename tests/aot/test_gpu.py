"""The real Hopper compilers (XLA, Mosaic GPU and ptxas, through JAX's CUDA plugin) compile our kernels without a GPU.

`make aot-gpu` runs this in an environment with the plugin; anywhere else it says "not verified".
"""

import functools
import importlib.util

import jax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from tests.aot.problems import PROBLEMS, compile_half
from unified_jax.kernels.hopper import compat
from unified_jax.modalities.image import Image
from unified_jax.models.diffusion import Diffusion
from unified_jax.networks.dit import DiT
from unified_jax.planning.hardware import open_target
from unified_jax.sharding import MeshShape, make_mesh
from unified_jax.training.balancing import FixedBalance
from unified_jax.training.ema import Ema
from unified_jax.training.optimizer import Optimization
from unified_jax.training.step import Optimizer, init_state, train_step

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


@pytest.mark.parametrize("name", ["dit_xl_256", "transfusion_7b", "grouped_96_ragged"])  # heads of 72, 128 and 96
def test_they_compile_forward_mode_and_reverse_over_it(name):
    devices = open_target("h200:8").devices[:1]
    text = [compile_half(PROBLEMS[name], devices, MeshShape(), gradient, True).as_text() for gradient in (False, True)]
    assert [one.count("mosaic_gpu") for one in text] >= [1, 4]


def test_they_compile_each_device_s_part():
    problem = PROBLEMS["transfusion_7b"]._replace(batch=8)
    text = compile_half(problem, open_target("h200:8").devices, MeshShape(data=4, tensor=2), gradient=True).as_text()
    assert text.count("mosaic_gpu") >= 3
    assert "all-reduce" in text


def test_products_in_full_float32_are_left_to_cublas():
    """As commands ask it: XLA's own choice is among Triton kernels that take minutes to compile (docs/kernels.md)."""
    model = Diffusion(DiT(depth=2, width=64, heads=2), modality=Image(16, 16, 3, 2))
    optimizer, balance = Optimizer(Optimization(), (Ema(),), 1000), FixedBalance()
    here = NamedSharding(make_mesh(MeshShape(), open_target("h200:1").devices), PartitionSpec())
    state = jax.eval_shape(functools.partial(init_state, model, optimizer, balance), jax.random.key(0))
    batch = {"image": jax.ShapeDtypeStruct((4, 16, 16, 3), "uint8"), "slot": jax.ShapeDtypeStruct((4,), "int32")}
    given = (state, {}, batch, jax.eval_shape(lambda: jax.random.key(0)))
    given = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), given)
    lowered = jax.jit(functools.partial(train_step, model, optimizer, balance)).lower(*given)
    text = {on: lowered.compile(compiler_options={"xla_gpu_enable_triton_gemm": on}).as_text() for on in (True, False)}
    assert "%gemm_fusion_dot" in text[True]
    assert "%gemm_fusion_dot" not in text[False] and "__cublas" in text[False]

"""Floating point operations of a jitted function, counted from its jaxpr, and the peak of known devices.

Only matrix products and convolutions count (2 per multiply-add), and the declared FLOPs of our kernels. A scan counts
its body times its length, unlike the compilers' own cost analyses; a conditional counts its longest branch. Unused
results do not count. Recomputation under rematerialisation does: this is executed work, not model FLOPs.
"""

import functools
import math
from typing import Any

import jax
from jax.interpreters import partial_eval

from unified_jax.kernels.derivatives import RUNS
from unified_jax.kernels.product import plain, product_p

COMPUTES = RUNS | {product_p: plain}
"""What each operation of our kernels runs."""
PEAK_FLOPS: dict[str, float] = {
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA B200": 2250e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
}
"""Dense bfloat16 FLOP/s by the start of the device's name, from the vendors' data sheets."""


def peak_flops(device: Any) -> float | None:
    """The device's peak, or None if unknown (any CPU)."""
    found = [peak for name, peak in PEAK_FLOPS.items() if device.device_kind.startswith(name)]
    return found[-1] if found else None


def count_flops(function: Any, *arguments: Any) -> float:
    """FLOPs of one call; the arguments may be ShapeDtypeStructs."""
    jaxpr = jax.make_jaxpr(function)(*arguments).jaxpr
    alive, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))  # the compiler drops unused results too
    return _count(alive)


def _count(jaxpr: Any) -> float:
    return sum((_equation(equation) for equation in jaxpr.eqns), 0.0)


def _equation(equation: Any) -> float:
    name = equation.primitive.name
    if name == "dot_general":
        (left, _), _ = equation.params["dimension_numbers"]
        contracted = math.prod(equation.invars[0].aval.shape[axis] for axis in left)
        return 2.0 * math.prod(equation.outvars[0].aval.shape) * contracted
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        out_features = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
        return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) / out_features
    if name == "pallas_call" and (estimate := equation.params.get("cost_estimate")) is not None:
        return float(estimate.flops)
    if equation.primitive in COMPUTES:  # an operation of our kernels counts as what it runs
        run = functools.partial(COMPUTES[equation.primitive], **equation.params)
        return _count(jax.make_jaxpr(run)(*(given.aval for given in equation.invars)).jaxpr)
    parts = [_count(sub) for value in equation.params.values() for sub in _jaxprs(value)]
    if name == "cond":
        return max(parts, default=0.0)
    if name == "shard_map":  # the body is the work of one device
        mesh = equation.params["mesh"]
        return sum(parts) * math.prod(mesh.shape[axis] for axis in equation.params["manual_axes"])
    return sum(parts) * equation.params["length"] if name == "scan" else sum(parts, 0.0)


def _jaxprs(value: Any) -> list[Any]:
    if hasattr(value, "eqns"):
        return [value]
    if hasattr(value, "jaxpr"):
        return [value.jaxpr]
    if isinstance(value, tuple | list):
        return [sub for item in value for sub in _jaxprs(item)]
    return []

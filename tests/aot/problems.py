"""The attention half of a block at published sizes, as shapes: what the real compilers are asked to compile."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from unified_jax.kernels import choice
from unified_jax.kernels.inputs import Modulation, OutWeights, QkvWeights, Rotary
from unified_jax.sharding import MeshShape, Rules, make_mesh


class Problem(NamedTuple):
    """Sizes."""

    batch: int
    tokens: int
    width: int
    heads: int
    rows: int = 1
    """Modulation rows an example; above 1 with an index."""
    ranges: bool = False
    """Runs and rotary positions, as Transfusion has them."""
    repeats: int = 1
    """Query heads a key head."""


PROBLEMS = {
    "dit_xl_256": Problem(64, 256, 1152, 16),
    "dit_xl_1024": Problem(64, 1024, 1152, 16),
    "transfusion_7b": Problem(1, 4096, 4096, 32, rows=9, ranges=True),
    "transfusion_0.76b": Problem(2, 4096, 1536, 24, rows=9, ranges=True),
    "grouped_96_ragged": Problem(2, 257, 768, 8, rows=3, ranges=True, repeats=4),
}


def compile_half(problem: Problem, devices, mesh: MeshShape, gradient: bool, tangent: bool = False):
    """The compiled program, of the output or of its tangent; raises what the compiler raises."""
    b, n, d, h = problem[:4]
    e, groups, half = d // h, h // problem.repeats, jnp.bfloat16
    mesh_of = make_mesh(mesh, list(devices))
    rules = Rules()

    def like(shape, dtype, names):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh_of, rules.activation_spec(names)))

    def weight(shape, dtype, names):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh_of, rules.parameter_spec(names)))

    row = like((b, problem.rows, d), jnp.float32, ("batch", None, None))
    per_token = ("batch", "length")
    index = like((b, n), jnp.int32, per_token) if problem.rows > 1 else None
    angle = like((b, n, e // 2), jnp.float32, (*per_token, None))
    kernel = weight((d, groups, problem.repeats + 2, e), half, ("embed", "heads", None, "head_dim"))
    given = {
        "x": like((b, n, d), half, (*per_token, None)),
        "rows": (row, row, row),
        "qkv": QkvWeights(kernel, weight(kernel.shape[1:], jnp.float32, ("heads", None, "head_dim"))),
        "out": OutWeights(weight((h, e, d), half, ("heads", "head_dim", "embed")), weight((d,), jnp.float32, (None,))),
    }
    fixed = {"index": index}
    if problem.ranges:
        fixed |= {"visible": like((b, n, 2), jnp.int32, (*per_token, None)), "rotary": Rotary(angle, angle)}

    def run(given, fixed):
        return choice.attention_half(
            given["x"], Modulation(*given["rows"], fixed["index"]), given["qkv"], given["out"],
            visible=fixed.get("visible"), rotary=fixed.get("rotary"), norm="rms" if problem.ranges else "layer",
            attention="pallas",
        )  # fmt: skip

    def along(given, fixed):
        return jax.jvp(lambda given: run(given, fixed), (given,), (given,))[1]

    asked = along if tangent else run

    def total(given, fixed):
        return jnp.sum(asked(given, fixed).astype(jnp.float32))

    with rules.active(mesh_of):
        return jax.jit(jax.grad(total) if gradient else asked).lower(given, fixed).compile()

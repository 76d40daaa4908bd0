"""Every product of float32 arrays asks for float32, so that GPUs and TPUs train and sample by a CPU's numbers."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from unified_jax.precision import EXACT
from unified_jax.runs.recipe import load_recipe
from unified_jax.sharding import MeshShape, make_mesh
from unified_jax.training.program import assemble

RECIPES = [
    "dit_cross_fashion_mnist",
    "dit_in_context_fashion_mnist",
    "edm_fashion_mnist",
    "transfusion_world",  # with Muon
    "transfusion_spoken_digit",
    "transfusion_world_large",  # in bfloat16
]


def equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(tuple(equation.params.values()), is_leaf=lambda x: hasattr(x, "jaxpr")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


def rough(function, *given):
    """Products of a float32 operand in less than its precision."""
    found = []
    with jax.default_matmul_precision("default"):
        jaxpr = jax.make_jaxpr(function)(*given).jaxpr
    for equation in equations(jaxpr):
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            kinds = [x.aval.dtype for x in equation.invars]
            if jnp.float32 in kinds and equation.params["precision"] not in (EXACT, (EXACT, EXACT)):
                found.append(equation)
    return found


def test_the_walk_sees_into_loops_and_branches():
    inner = lambda x: jax.lax.scan(lambda c, _: (jax.checkpoint(jax.jit(lambda c: c @ c))(c), None), x, None, 2)[0]  # noqa: E731
    assert len(rough(inner, jnp.ones((2, 2)))) == 1
    assert len(rough(lambda x: jax.lax.cond(x[0, 0] > 0, inner, lambda x: x, x), jnp.ones((2, 2)))) == 1
    assert not rough(lambda x: jnp.matmul(x, x, precision=EXACT), jnp.ones((2, 2)))


@pytest.mark.parametrize("name", RECIPES)
def test_no_recipe_s_step_multiplies_float32_in_less(name):
    recipe = dataclasses.replace(load_recipe(name), mesh=MeshShape())
    program = assemble(recipe, make_mesh(recipe.mesh, jax.devices()[:1]))
    key = jax.eval_shape(lambda: jax.random.key(0))
    with recipe.rules.active(program.mesh):
        assert not rough(program.step, program.abstract_state(), {}, program.abstract_batch(), key)


@pytest.mark.parametrize(("name", "wanted"), [("edm_fashion_mnist", "image"), ("transfusion_world", "points")])
def test_nor_do_samples(name, wanted):
    recipe = load_recipe(name)
    model, plan = recipe.model, recipe.preview.plan
    params, keys = jax.eval_shape(lambda: (model.init(jax.random.key(0)), jax.random.split(jax.random.key(0), 2)))
    assert not rough(lambda p, k: model.generate(p, {}, wanted=(wanted,), keys=k, plan=plan), params, keys)

r"""Attention by kernels as operations with derivatives: one set of rules for forward, reverse, and second ones.

With x = (q, k, v), y = (out, log-sum-exp) and y = A(x), the operations are

    attend     y                                      A
    dual       y and its tangent J(x) x', in one pass over the keys; A and J where reverse mode needs them apart
    tangent    J(x) x'                                linear in x'; its transpose is
    gradient   J(x)^T w                               linear in w; its transpose is `tangent`
    second     J(x) a and J(x) b + d/da J(x) x'       linear in (a, b), x' fixed; its transpose is
    crossed    J(x)^T w' and J(x)^T w + H             H = the gradient of <w', J(x) x'> in x
    turned     J(x)^T u + d/da J(x)^T w               linear in (a, u), w fixed: the tangent of `gradient`

`crossed` is at once the gradient of `dual` (reverse over forward) and the tangent of `gradient` (forward over
reverse): as H is symmetric in x' and the direction, one pair of kernels serves both. y and J x' are arguments of what
comes after them, so that nothing is computed twice. They are functions of x, and the derivative in x is the whole one.
Third derivatives are refused. `second`, forward over forward mode, is computed through XLA, all others by the kernels
of a `Target`.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import Primitive, Var
from jax.interpreters import ad, batching, mlir, partial_eval
from jaxtyping import Array

from unified_jax.errors import UserError
from unified_jax.kernels import xla

Arrays = tuple[Array, ...]


def attend(q: Array, k: Array, v: Array, visible: Array | None, target: Any) -> tuple[Array, Array]:
    """(output in v's dtype, log-sum-exp float32). See `reference.attend`."""
    given = (q, k, v) if visible is None else (q, k, v, visible)
    out, lse = attend_p.bind(*given, masked=visible is not None, target=target)
    return out, lse


def _cut(given: Any, masked: bool, *sizes: int) -> list[Any]:
    """[x, key ranges or None, then groups of the given sizes]."""
    x, visible, rest = given[:3], given[3] if masked else None, given[3 + masked :]
    groups = []
    for size in sizes:
        groups.append(tuple(rest[:size]))
        rest = rest[size:]
    return [tuple(x), visible, *groups]


# What each operation computes.


def _attend(*given: Array, masked: bool, target: Any) -> Arrays:
    x, visible = _cut(given, masked)
    return target.forward(*x, visible)


def _dual(*given: Array, masked: bool, target: Any) -> Arrays:
    x, visible, along = _cut(given, masked, 3)
    return target.dual(x, along, visible)


def _tangent(*given: Array, masked: bool, target: Any) -> Arrays:
    x, visible, _, along = _cut(given, masked, 2, 3)
    return target.dual(x, along, visible)[2:]


def _second(*given: Array, masked: bool, target: Any) -> Arrays:
    """Forward over forward mode, which nothing here needs fast: through XLA."""
    x, visible, _, along, a, b = _cut(given, masked, 4, 3, 3, 3)

    def tangent(x: Arrays, along: Arrays) -> Arrays:
        return jax.jvp(lambda q, k, v: xla.attend(q, k, v, visible), x, along)[1]

    plain = jax.jvp(lambda q, k, v: xla.attend(q, k, v, visible), x, a)[1]
    return (*plain, *jax.jvp(tangent, (x, along), (a, b))[1])


def _gradient(*given: Array, masked: bool, target: Any) -> Arrays:
    x, visible, (out, lse), (do, dlse) = _cut(given, masked, 2, 2)
    # The log-sum-exp of an empty key range is -inf: its cotangent has no effect.
    d = jnp.where(jnp.isneginf(lse), 0.0, jnp.sum(do.astype(jnp.float32) * out, axis=-1) - dlse)
    return target.backward(*x, visible, lse, d, do)


def _crossed(*given: Array, masked: bool, target: Any) -> Arrays:
    """(J^T w', J^T w + H) for the cotangents (w, w') of `dual`."""
    x, visible, (out, lse, dout, dlse), along, (w, wl), (w2, wl2) = _cut(given, masked, 4, 3, 2, 2)
    out, dout, w32, w2_32 = (t.astype(jnp.float32) for t in (out, dout, w, w2))
    empty = jnp.isneginf(lse)
    d = jnp.where(empty, 0.0, jnp.sum(w2_32 * out, axis=-1) - wl2)
    d2 = jnp.where(empty, 0.0, jnp.sum(w32 * out + w2_32 * dout, axis=-1) - wl)
    plain, second = target.crossed((*x, lse, d, w2), (*along, dlse, d2, w), visible)
    return (*plain, *second)


def _turned(*given: Array, masked: bool, target: Any) -> Arrays:
    x, visible, _, w, a, u = _cut(given, masked, 2, 2, 3, 2)
    ranges = () if visible is None else (visible,)
    return _crossed(*x, *ranges, *_dual(*x, *ranges, *a, masked=masked, target=target), *a, *u, *w,
                    masked=masked, target=target)[3:]  # fmt: skip


# Shapes.


def _like(x: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    """A shape that varies over the same mesh axes as x, inside `shard_map`."""
    axes = getattr(x, "manual_axis_type", None)
    return ShapedArray(shape, jnp.dtype(dtype), **({} if axes is None else {"manual_axis_type": axes}))


def _ys(x: Any) -> list[Any]:
    return [_like(x[0], x[0].shape, x[2].dtype), _like(x[0], x[0].shape[:3], jnp.float32)]


def _xs(x: Any) -> list[Any]:
    return [_like(t, t.shape, t.dtype) for t in x]


def _operation(name: str, run: Callable[..., Arrays], shapes: Callable[[Any], list[Any]]) -> Primitive:
    new = Primitive(name)
    new.multiple_results = True
    new.def_impl(jax.jit(run, static_argnames=("masked", "target")))
    new.def_abstract_eval(lambda *given, masked, target: shapes(given[:3]))
    mlir.register_lowering(new, mlir.lower_fun(run, multiple_results=True))
    batching.primitive_batchers[new] = functools.partial(_mapped, new)
    return new


def _mapped(operation: Primitive, given: Any, axes: Any, *, masked: bool, target: Any) -> tuple[list[Array], list[int]]:
    """`vmap`: every operand begins with the batch, which the mapped axis joins."""
    size = next(x.shape[axis] for x, axis in zip(given, axes, strict=True) if axis is not None)

    def joined(x: Any, axis: int | None) -> Any:
        x = jnp.broadcast_to(x, (size, *x.shape)) if axis is None else jnp.moveaxis(x, axis, 0)
        return x.reshape(-1, *x.shape[2:])

    found = operation.bind(*map(joined, given, axes), masked=masked, target=target)
    return [x.reshape(size, -1, *x.shape[1:]) for x in found], [0] * len(found)


attend_p = _operation("attend", _attend, _ys)
dual_p = _operation("attend_dual", _dual, lambda x: _ys(x) * 2)
tangent_p = _operation("attend_tangent", _tangent, _ys)
second_p = _operation("attend_second", _second, lambda x: _ys(x) * 2)
gradient_p = _operation("attend_gradient", _gradient, _xs)
crossed_p = _operation("attend_crossed", _crossed, lambda x: _xs(x) * 2)
turned_p = _operation("attend_turned", _turned, _xs)
RUNS = {attend_p: _attend, dual_p: _dual, tangent_p: _tangent, second_p: _second}
RUNS |= {gradient_p: _gradient, crossed_p: _crossed, turned_p: _turned}
"""What each operation runs, for those who count it (`training.flops`)."""


# Forward mode.


def _filled(tangents: Any) -> list[Any]:
    return [ad.instantiate_zeros(t) for t in tangents]


def _attend_jvp(given: Any, tangents: Any, **static: Any) -> tuple[Any, Any]:
    found = dual_p.bind(*given, *_filled(tangents[:3]), **static)
    return found[:2], found[2:]


def _dual_jvp(given: Any, tangents: Any, **static: Any) -> tuple[Any, Any]:
    found = dual_p.bind(*given, **static)
    a, b = _filled(tangents[:3]), _filled(tangents[-3:])
    return found, second_p.bind(*given[:-3], *found, *given[-3:], *a, *b, **static)


def _tangent_jvp(given: Any, tangents: Any, **static: Any) -> tuple[Any, Any]:
    found = tangent_p.bind(*given, **static)
    a, b = _filled(tangents[:3]), _filled(tangents[-3:])
    return found, second_p.bind(*given[:-3], *found, *given[-3:], *a, *b, **static)[2:]


def _gradient_jvp(given: Any, tangents: Any, **static: Any) -> tuple[Any, Any]:
    found = gradient_p.bind(*given, **static)
    return found, turned_p.bind(*given, *_filled(tangents[:3]), *_filled(tangents[-2:]), **static)


def _third(*given: Any, **static: Any) -> Any:
    raise UserError("attention='pallas' has no third derivatives: choose attention='xla'.")


for _operation_, _rule in {
    attend_p: _attend_jvp, dual_p: _dual_jvp, tangent_p: _tangent_jvp, gradient_p: _gradient_jvp,
    second_p: _third, crossed_p: _third, turned_p: _third,
}.items():  # fmt: skip
    ad.primitive_jvps[_operation_] = _rule


# Reverse mode: the transposes of the linear operations. Cotangents that are symbolic zeros cost nothing.


def _none(cotangents: Any) -> bool:
    return all(type(c) is ad.Zero for c in cotangents)


def _for_linear(found: Any, given: Any) -> list[Any]:
    """Cotangents of those arguments that are linear; none of constants among them."""
    return [c if ad.is_undefined_primal(x) else None for c, x in zip(found, given, strict=True)]


def _tangent_transpose(cotangents: Any, *given: Any, **static: Any) -> list[Any]:
    fixed, along = given[:-3], given[-3:]
    return [None] * len(fixed) + _for_linear(gradient_p.bind(*fixed, *_filled(cotangents), **static), along)


def _gradient_transpose(cotangents: Any, *given: Any, **static: Any) -> list[Any]:
    fixed, w = given[:-2], given[-2:]
    return [None] * len(fixed) + _for_linear(tangent_p.bind(*fixed, *_filled(cotangents), **static), w)


def _second_transpose(cotangents: Any, *given: Any, **static: Any) -> list[Any]:
    fixed, a, b = given[:-6], given[-6:-3], given[-3:]
    w, w2 = cotangents[:2], cotangents[2:]
    if _none(w2):
        x, y = fixed[:-7], fixed[-7:-5]
        back = _for_linear(gradient_p.bind(*x, *y, *_filled(w), **static), a)
        return [None] * len(fixed) + back + [ad.Zero(t.aval) if ad.is_undefined_primal(t) else None for t in b]
    found = crossed_p.bind(*fixed, *_filled(w), *_filled(w2), **static)
    return [None] * len(fixed) + _for_linear(found[3:], a) + _for_linear(found[:3], b)


def _turned_transpose(cotangents: Any, *given: Any, **static: Any) -> list[Any]:
    fixed, a, u = given[:-5], given[-5:-2], given[-2:]
    x, y, w = fixed[:-4], fixed[-4:-2], fixed[-2:]
    along = _filled(cotangents)
    moved = tangent_p.bind(*x, *y, *along, **static)
    back = crossed_p.bind(*x, *y, *moved, *along, *[jnp.zeros_like(t) for t in w], *w, **static)[3:]
    return [None] * len(fixed) + _for_linear(back, a) + _for_linear(moved, u)


ad.primitive_transposes |= {
    tangent_p: _tangent_transpose, gradient_p: _gradient_transpose,
    second_p: _second_transpose, turned_p: _turned_transpose,
}  # fmt: skip


# Where reverse mode begins, `dual` is cut: `attend` is computed at once, `tangent` is kept to be transposed.


def _dual_in_part(trace: Any, *given: Any, **static: Any) -> Any:
    if all(x.is_known() for x in given[:-3]) and not all(x.is_known() for x in given[-3:]):
        found = attend_p.bind(*[x.pval.get_known() for x in given[:-3]], **static)
        return [*found, *trace.default_process_primitive(tangent_p, [*given[:-3], *found, *given[-3:]], static)]
    return trace.default_process_primitive(dual_p, given, static)


def _dual_under_checkpoint(saveable: Any, unknown: Any, there: Any, equation: Any) -> Any:
    """`jax.checkpoint`: `attend` now, all of `dual` when the forward pass is repeated."""
    given, outs = equation.invars, equation.outvars
    missing = [x for x, present in zip(given, there, strict=True) if type(x) is Var and not present]
    if any(unknown[:-3]):
        return None, equation, [True] * 4, [True] * 4, missing
    if not any(unknown):
        return equation, equation, [False] * 4, [True] * 4, missing
    now = equation.replace(primitive=attend_p, invars=given[:-3], outvars=outs[:2])
    return now, equation, [False, False, True, True], [True] * 4, missing


partial_eval.custom_partial_eval_rules[dual_p] = _dual_in_part
partial_eval.partial_eval_jaxpr_custom_rules[dual_p] = _dual_under_checkpoint

r"""Products of bfloat16 arrays on a CPU: accumulated in float32, in their gradients too, in a form that runs fast.

    out = einsum(form, a, b)      a, b bfloat16; sums float32; out rounded once, to the dtype that is asked for
    da  = einsum(form', g, b)     g, the cotangent of out, rounded to bfloat16 first; sums float32; likewise db

JAX's own transposition of a product with a float32 result would multiply a float32 cotangent by a bfloat16 operand.
Here a product is an operation whose tangents and transposes are such products again, so forward mode, reverse mode and
either over the other all compute in that way.

On a CPU XLA calls a library (YNNPACK) for bfloat16 x bfloat16 -> float32, where the left operand has its contracted
axis last and neither looks transposed in memory; all else it multiplies in float32, or elsewhere. A layer's output and
the gradient of its input have that form. For the gradient of its weights both operands contract over their first axis.

- A transposition before the product is folded into it, which brings the slow form back; behind a barrier it is not
  (barriers go away after that). So the smaller operand, or the result, is turned by a copy of its own: `_arranged`.
- XLA decides on float32 before it lays arrays out, by the layout that an array came with: of a transposition that is
  the transposed one, and a barrier keeps it. A reshape has the plain one. So every operand is reshaped.

Measured, on two idle cores of an EPYC with AVX512-BF16: layers, gradients of their inputs and of their weights, in
these forms, at 340 to 430 GFLOP/s, float32 at 160 to 220 (gradients of weights the least). On a processor without the
instructions (AVX2) bfloat16 takes up to twice the time of float32: `dtype="auto"` avoids it.

Other devices and dtypes compute as ever: `matmul` and `einsum` decide where they are traced.
"""

import functools
import string
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.sharding import NamedSharding, PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Array

from unified_jax.kernels.device import device
from unified_jax.precision import precision


def applies(dtype: DTypeLike) -> bool:
    """Whether products of this dtype are computed as here: bfloat16 on a CPU."""
    return jnp.dtype(dtype) == jnp.bfloat16 and device()[0] == "cpu"


def matmul(x: Array, w: Array) -> Array:
    """x W over the last axis of x, in their dtype."""
    if not applies(x.dtype):
        return jnp.matmul(x, w, precision=precision(x.dtype))
    lead = string.ascii_letters[: x.ndim - 1]
    return product(f"{lead}y,yz->{lead}z", x, w, x.dtype)


def einsum(form: str, a: Array, b: Array) -> Array:
    """An einsum of two arrays, in their dtype; `form` names every axis."""
    if not applies(a.dtype):
        return jnp.einsum(form, a, b, precision=precision(a.dtype))
    return product(form, a, b, a.dtype)


def product(form: str, a: Array, b: Array, dtype: DTypeLike) -> Array:
    """The einsum of two bfloat16 arrays, accumulated in float32, as `dtype`, on any device.

    Every letter stands in at least two of the operands and the result, and nowhere twice.
    """
    of_a, of_b = (_varying(jax.typeof(x)) for x in (a, b))
    a, b = _cast(a, of_b - of_a), _cast(b, of_a - of_b)
    return product_p.bind(a, b, form=form, dtype=jnp.dtype(dtype))


def parts_of_form(form: str) -> tuple[str, str, str]:
    """Letters of the operands and of the result."""
    given, out = form.split("->")
    a, b = given.split(",")
    return a, b, out


def shared(form: str) -> str:
    """Letters of the batch: those of both operands and of the result."""
    a, b, out = parts_of_form(form)
    return "".join(letter for letter in out if letter in a and letter in b)


# Inside `shard_map`: operands that are alike on all devices meet others that differ between them.


def _varying(kind: Any) -> frozenset[Any]:
    """Mesh axes over which an array of this type differs."""
    found = getattr(kind, "manual_axis_type", None)
    return frozenset() if found is None else found.varying


def _cast(x: Array, axes: frozenset[Any]) -> Array:
    return jax.lax.pcast(x, tuple(axes), to="varying") if axes else x


# What it computes.


def plain(a: Array, b: Array, *, form: str, dtype: Any) -> Array:
    """As the compiler likes it."""
    return jnp.einsum(form, a, b, preferred_element_type=jnp.float32).astype(dtype)


def _arranged(a: Array, b: Array, *, form: str, dtype: Any) -> Array:
    """With the contracted axes last in the left operand.

    Either operand may be the left one; what has to be turned is counted in bytes, and the cheaper way is taken.
    """
    if not all(_roles(form)[1:]):  # a product with a vector: the compiler's own loops
        return plain(a, b, form=form, dtype=dtype)
    left, right, out = parts_of_form(form)
    swapped = f"{right},{left}->{out}"
    ways = [(_turned_bytes(a, b, form), form, a, b), (_turned_bytes(b, a, swapped), swapped, b, a)]
    _, form, a, b = min(ways, key=lambda way: way[0])
    return _multiplied(form, a, b).astype(dtype)


def _roles(form: str) -> tuple[str, str, str, str]:
    """Letters of the batch, of the contraction, of the left rows and of the right columns."""
    a, b, out = parts_of_form(form)
    contracted = "".join(x for x in a if x not in out)
    return shared(form), contracted, "".join(x for x in a if x not in b), "".join(x for x in b if x not in a)


def _turned_bytes(a: Array, b: Array, form: str) -> int:
    left, right, out = parts_of_form(form)
    batch, contracted, rows, columns = _roles(form)
    turned = 2 * a.size * (left != batch + rows + contracted)
    turned += 2 * b.size * (right not in (batch + contracted + columns, batch + columns + contracted))
    sizes = dict(zip(left, a.shape, strict=True)) | dict(zip(right, b.shape, strict=True))
    size = functools.reduce(lambda n, letter: n * sizes[letter], out, 1)
    return turned + 4 * size * (out != batch + rows + columns)


def _multiplied(form: str, a: Array, b: Array) -> Array:
    left, right, out = parts_of_form(form)
    batch, contracted, rows, columns = _roles(form)
    a, left = _copied(a, left, batch + rows + contracted)
    if right != batch + columns + contracted:
        b, right = _copied(b, right, batch + contracted + columns)
    # Where arrays were turned, here or before, the compiler takes their layout for another one until they are reshaped,
    # and multiplies in float32 then: so both get one more batch axis, of size one, which it drops.
    a, b = (jax.lax.reshape(x, (1, *x.shape)) for x in (a, b))
    at = lambda letters, of: tuple(1 + of.index(letter) for letter in letters)  # noqa: E731
    numbers = (
        (at(contracted, left), at(contracted, right)),
        ((0, *at(batch, left)), (0, *at(batch, right))),
    )
    found = jax.lax.dot_general(a, b, numbers, preferred_element_type=jnp.float32)
    found, made = jax.lax.reshape(found, found.shape[1:]), batch + rows + columns
    return found if made == out else _copied(jax.lax.optimization_barrier(found), made, out)[0]


def _copied(x: Array, letters: str, wanted: str) -> tuple[Array, str]:
    """x with its axes in another order, as an array of its own.

    Also in the same order: the compiler would fold a transposition before the product into it, and has no code for some
    of the products that it makes so.
    """
    x = x if letters == wanted else jnp.transpose(x, [letters.index(letter) for letter in wanted])
    return jax.lax.optimization_barrier(x), wanted


# The operation.

product_p = Primitive("product")
product_p.def_impl(jax.jit(product_p.bind, static_argnames=("form", "dtype")))
mlir.register_lowering(product_p, mlir.lower_fun(plain, multiple_results=False))
mlir.register_lowering(product_p, mlir.lower_fun(_arranged, multiple_results=False), platform="cpu")


def _shape(a: Any, b: Any, *, form: str, dtype: Any) -> Any:
    left, right, out = parts_of_form(form)
    named = [*zip(left, a.shape, strict=True), *zip(right, b.shape, strict=True)]
    sizes = dict(named)
    if any(sizes[letter] != size for letter, size in named):
        raise TypeError(f"product {form!r}: shapes {a.shape} and {b.shape} do not fit.")
    if {a.dtype, b.dtype} != {jnp.dtype(jnp.bfloat16)}:
        raise TypeError(f"product takes bfloat16 arrays, found {a.dtype} and {b.dtype}.")
    lonely = [x for x in sizes if (x in left) + (x in right) + (x in out) < 2]
    if lonely or any(len(set(one)) != len(one) for one in (left, right, out)):
        raise TypeError(f"product {form!r}: every letter must stand in two of the operands and the result, once each.")
    shape = tuple(sizes[letter] for letter in out)
    if not _varying(a):
        return ShapedArray(shape, dtype)
    cut = NamedSharding(a.sharding.mesh, PartitionSpec(*(None,) * len(shape)))
    return ShapedArray(shape, dtype, sharding=cut, manual_axis_type=a.manual_axis_type)


product_p.def_abstract_eval(_shape)


def _transposed_left(cotangent: Array, a: Any, b: Array, *, form: str, dtype: Any) -> Array:
    del dtype
    left, right, out = parts_of_form(form)
    return product(f"{out},{right}->{left}", cotangent.astype(jnp.bfloat16), b, a.aval.dtype)


def _transposed_right(cotangent: Array, a: Array, b: Any, *, form: str, dtype: Any) -> Array:
    del dtype
    left, right, out = parts_of_form(form)
    return product(f"{left},{out}->{right}", a, cotangent.astype(jnp.bfloat16), b.aval.dtype)


ad.defbilinear(product_p, _transposed_left, _transposed_right)


def _mapped(given: Iterable[Array], axes: Iterable[int | None], *, form: str, dtype: Any) -> tuple[Array, int]:
    """`vmap`: one more letter, in front."""
    new = next(letter for letter in string.ascii_letters if letter not in form)
    a, b = (x if axis is None else jnp.moveaxis(x, axis, 0) for x, axis in zip(given, axes, strict=True))
    left, right = ("" if axis is None else new for axis in axes)
    old = parts_of_form(form)
    return product(f"{left}{old[0]},{right}{old[1]}->{new}{old[2]}", a, b, dtype), 0


batching.primitive_batchers[product_p] = _mapped

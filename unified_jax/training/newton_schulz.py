r"""Newton-Schulz iterations (Jordan et al. 2024) with products of bfloat16 operands and float32 sums.

    X <- X / |X|;   i times:  A = X X^T,  X <- a X + (b A + c A^2) X,   (a, b, c) = (3.4445, -4.775, 2.0315)

The singular values of X go to about 1, whatever they were. Operands are rounded to bfloat16 and nothing else is:
Jordan et al. keep X itself in bfloat16.

`muon` is optax's with these iterations in the place of its own.
On a CPU optax's are float32's whatever precision is asked for, and these take about half of their time where the
processor multiplies bfloat16 (`kernels.product`; by hand, one core, matrices of 192 x 192 and 192 x 768).
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from unified_jax.kernels.product import product

Dot = Callable[[str, Array, Array], Array]
COEFFICIENTS = (3.4445, -4.775, 2.0315)


def rounded(form: str, a: Array, b: Array) -> Array:
    """An einsum of the operands rounded to bfloat16, summed in float32."""
    return product(form, a.astype(jnp.bfloat16), b.astype(jnp.bfloat16), jnp.float32)


def newton_schulz(x: Float[Array, "n r c"], iterations: int, dot: Dot = rounded) -> Float[Array, "n r c"]:
    """Matrices of Frobenius norm 1 with their singular values brought to about 1."""
    if tall := x.shape[1] > x.shape[2]:
        x = jnp.swapaxes(x, 1, 2)
    a, b, c = COEFFICIENTS

    def iteration(_: Any, x: Array) -> Array:
        gram = dot("nij,nkj->nik", x, x)
        # The Gram matrix is symmetric: its square has the same form, which is the fast one.
        return a * x + dot("nij,njk->nik", b * gram + c * dot("nij,nkj->nik", gram, gram), x)

    x = jax.lax.fori_loop(0, iterations, iteration, x)
    return jnp.swapaxes(x, 1, 2) if tall else x


def as_matrices(x: Array, axes: Any, change: Callable[[Array], Array]) -> Array:
    """`change` of an array as matrices [n, rows, columns], put back."""
    rows, columns = axes.reduction_axis, axes.output_axis
    lead = tuple(i for i in range(x.ndim) if i not in (*rows, *columns))
    order = (*lead, *rows, *columns)
    turned = jnp.transpose(x, order)
    sizes = [math.prod(x.shape[i] for i in group) for group in (lead, rows, columns)]
    return jnp.transpose(change(turned.reshape(sizes)).reshape(turned.shape), [order.index(i) for i in range(x.ndim)])


def orthogonalise(axes: Callable[[Any], Any], iterations: int, rms: float) -> optax.GradientTransformation:
    """Updates of Frobenius norm 1, orthogonalised, with this root mean square.

    `axes`, of a tree of updates: the rows and columns of each, as `optax.contrib.MuonDimensionNumbers`.
    """
    kind = optax.contrib.MuonDimensionNumbers

    def leaf(axes: Any, x: Array) -> Array:
        largest = max(math.prod(x.shape[i] for i in group) for group in (axes.reduction_axis, axes.output_axis))
        return rms * math.sqrt(largest) * as_matrices(x, axes, lambda m: newton_schulz(m, iterations))

    def update(updates: Any, params: Any) -> Any:
        del params
        return jax.tree.map(leaf, axes(updates), updates, is_leaf=lambda x: isinstance(x, kind))

    return optax.stateless(update)


def muon(
    rate: Any, axes: Callable[[Any], Any], *, iterations: int, beta: float, rms: float, b1: float, b2: float,
    weight_decay: float, mask: Any,
) -> optax.GradientTransformation:  # fmt: skip
    """`optax.contrib.muon` with these iterations, and the same structure of its state.

    `axes`, of a tree: as for `orthogonalise`, and None for what uses Adam.
    """
    leaf = lambda x: x is None or isinstance(x, optax.contrib.MuonDimensionNumbers)  # noqa: E731
    labels = lambda params: jax.tree.map(  # noqa: E731
        lambda one, _: "adam" if one is None else "muon", axes(params), params, is_leaf=leaf
    )
    matrices = optax.chain(
        # Without iterations of its own, optax's part leaves the momentum at Frobenius norm 1.
        optax.contrib.scale_by_muon(ns_steps=0, beta=beta, weight_dimension_numbers=axes),
        orthogonalise(axes, iterations, rms),
        optax.add_decayed_weights(weight_decay, mask),
        optax.scale_by_learning_rate(rate),
    )
    adam = optax.adamw(rate, b1, b2, weight_decay=weight_decay, nesterov=True)
    return optax.partition({"muon": matrices, "adam": adam}, labels)

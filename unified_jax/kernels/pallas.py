r"""The three parts by Pallas kernels, with their gradients, for a TPU or a Hopper GPU, or interpreted anywhere.

`attend` has a backward pass of kernels. The projections around it recompute through XLA in theirs. Their gradients
are plain matrix products, for which the compiler is as fast, and those of the modulation's rows are products with a
one-hot matrix (`xla.pick_rows`), not scatters.

Reverse mode only: a kernel has no forward-mode rule (jvp), and its gradient has no gradient.
"""

import functools
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unified_jax.errors import UserError
from unified_jax.kernels import xla
from unified_jax.kernels.hopper import (
    attend as hopper_attend,
    attend_grad as hopper_grad,
    out as hopper_out,
    qkv as hopper_qkv,
)
from unified_jax.kernels.inputs import Index, Modulation, NormKind, OutWeights, QkvWeights, Rotary, Rows, Visible
from unified_jax.kernels.tpu import attend as tpu_attend, attend_grad as tpu_grad, out as tpu_out, qkv as tpu_qkv

Kept = tuple[Array, Array, Array, Visible | None, Array, Array]


@dataclass(frozen=True)
class Target:
    """The target that the kernels are compiled for."""

    kind: Literal["tpu", "hopper"] = "tpu"
    interpret: Any = False
    """True, or parameters of a Pallas interpreter: the kernel runs as plain JAX, slowly, for tests."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def attend(
    q: Float[Array, "b n h e"],
    k: Float[Array, "b m g e"],
    v: Float[Array, "b m g e"],
    visible: Visible | None,
    target: Target,
) -> tuple[Float[Array, "b n h e"], Float[Array, "b n h"]]:
    """(output in v's dtype, log-sum-exp float32). See `reference.attend`."""
    part = tpu_attend.forward if target.kind == "tpu" else hopper_attend.forward
    return part(q, k, v, visible, interpret=target.interpret)


def _attend_forward(
    q: Array, k: Array, v: Array, visible: Visible | None, target: Target
) -> tuple[tuple[Array, Array], Kept]:
    found: Any = attend(q, k, v, visible, target)
    out, lse = found
    return (out, lse), (q, k, v, visible, out, lse)


def _attend_backward(target: Target, kept: Kept, cotangents: tuple[Array, Array]) -> tuple[Any, ...]:
    q, k, v, visible, out, lse = kept
    do, dlse = cotangents
    # The log-sum-exp of an empty key range is -inf: its cotangent has no effect.
    d = jnp.where(jnp.isneginf(lse), 0.0, jnp.sum(do.astype(jnp.float32) * out, axis=-1) - dlse)
    part: Any = tpu_grad.backward if target.kind == "tpu" else hopper_grad.backward

    @jax.custom_jvp
    def gradients(*given: Any) -> Any:
        return part(*given[:3], visible, *given[3:], target.interpret)

    @gradients.defjvp
    def _(primals: Any, tangents: Any) -> Any:
        raise UserError("attention='pallas' has no second derivatives: choose attention='xla'.")

    dq, dk, dv = gradients(q, k, v, lse, d, do)
    return dq, dk, dv, None


attend.defvjp(_attend_forward, _attend_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def modulated_qkv(
    x: Float[Array, "b n d"],
    modulation: Modulation | None,
    weights: QkvWeights,
    rotary: Rotary | None,
    norm: NormKind,
    eps: float,
    target: Target,
) -> tuple[Array, Array, Array]:
    """Queries, keys and values in the kernel's dtype. See `reference.modulated_qkv`."""
    part = tpu_qkv.modulated_qkv if target.kind == "tpu" else hopper_qkv.modulated_qkv
    return part(x, modulation, weights, norm=norm, eps=eps, rotary=rotary, interpret=target.interpret)


def _qkv_forward(
    x: Array, modulation: Modulation | None, weights: QkvWeights, rotary: Rotary | None, norm: NormKind, eps: float,
    target: Target,
) -> tuple[Any, Any]:  # fmt: skip
    return modulated_qkv(x, modulation, weights, rotary, norm, eps, target), (x, modulation, weights, rotary)


def _qkv_backward(norm: NormKind, eps: float, target: Target, kept: Any, cotangents: Any) -> tuple[Any, ...]:
    def again(x: Array, modulation: Modulation | None, weights: QkvWeights, rotary: Rotary | None) -> Any:
        return xla.modulated_qkv(x, modulation, weights, norm=norm, eps=eps, rotary=rotary)

    return jax.vjp(again, *kept)[1](cotangents)


modulated_qkv.defvjp(_qkv_forward, _qkv_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def gated_out(
    x: Float[Array, "b n d"],
    a: Float[Array, "b n h e"],
    weights: OutWeights,
    gate: Rows | None,
    index: Index | None,
    target: Target,
) -> Float[Array, "b n d"]:
    """x + gate (W a + b) in x's dtype. See `reference.gated_out`."""
    part = tpu_out.gated_out if target.kind == "tpu" else hopper_out.gated_out
    return part(x, a, weights, gate, index, target.interpret)


def _out_forward(
    x: Array, a: Array, weights: OutWeights, gate: Rows | None, index: Index | None, target: Target
) -> tuple[Array, Any]:
    return gated_out(x, a, weights, gate, index, target), (x, a, weights, gate, index)


def _out_backward(target: Target, kept: Any, cotangent: Array) -> tuple[Any, ...]:
    return jax.vjp(xla.gated_out, *kept)[1](cotangent)


gated_out.defvjp(_out_forward, _out_backward)

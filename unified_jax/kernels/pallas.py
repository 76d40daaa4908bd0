r"""The three parts by Pallas kernels, with their gradients, for a TPU or a Hopper GPU, or interpreted anywhere.

`attend` has kernels for its derivatives of first and second order (`derivatives`). The projections around it have
theirs through XLA, which keeps their arguments alone and computes the rest again. They are plain matrix products, for
which the compiler is as fast, and gradients of the modulation's rows are products with a one-hot matrix
(`xla.pick_rows`), not scatters.
"""

import functools
from dataclasses import dataclass
from typing import Any, Literal

import jax
from jaxtyping import Array, Float

from unified_jax.kernels import derivatives, xla
from unified_jax.kernels.hopper import (
    attend as hopper_attend,
    attend_dual as hopper_dual,
    attend_dual_grad as hopper_dual_grad,
    attend_grad as hopper_grad,
    out as hopper_out,
    qkv as hopper_qkv,
)
from unified_jax.kernels.inputs import Index, Modulation, NormKind, OutWeights, QkvWeights, Rotary, Rows, Visible
from unified_jax.kernels.tpu import (
    attend as tpu_attend,
    attend_dual as tpu_dual,
    attend_dual_grad as tpu_dual_grad,
    attend_grad as tpu_grad,
    out as tpu_out,
    qkv as tpu_qkv,
)

Three = tuple[Array, Array, Array]


@dataclass(frozen=True)
class Target:
    """The target that the kernels are compiled for."""

    kind: Literal["tpu", "hopper"] = "tpu"
    interpret: Any = False
    """True, or parameters of a Pallas interpreter: the kernel runs as plain JAX, slowly, for tests."""

    def forward(self, q: Array, k: Array, v: Array, visible: Visible | None) -> tuple[Array, Array]:
        """(out, log-sum-exp)."""
        part = tpu_attend.forward if self.kind == "tpu" else hopper_attend.forward
        return part(q, k, v, visible, interpret=self.interpret)

    def backward(
        self, q: Array, k: Array, v: Array, visible: Visible | None, lse: Array, d: Array, do: Array
    ) -> tuple[Array, Array, Array]:
        """(dq, dk, dv)."""
        part: Any = tpu_grad.backward if self.kind == "tpu" else hopper_grad.backward
        return part(q, k, v, visible, lse, d, do, self.interpret)

    def dual(self, at: Three, along: Three, visible: Visible | None) -> tuple[Array, Array, Array, Array]:
        """(out, log-sum-exp, their tangents)."""
        part = tpu_dual.forward if self.kind == "tpu" else hopper_dual.forward
        return part(at, along, visible, self.interpret)

    def crossed(
        self, at: tuple[Array, ...], along: tuple[Array, ...], visible: Visible | None
    ) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        """((dq, dk, dv), their tangents) of (q, k, v, lse, d, do)."""
        part = tpu_dual_grad.backward if self.kind == "tpu" else hopper_dual_grad.backward
        return part(at, along, visible, self.interpret)


def attend(
    q: Float[Array, "b n h e"],
    k: Float[Array, "b m g e"],
    v: Float[Array, "b m g e"],
    visible: Visible | None,
    target: Target,
) -> tuple[Float[Array, "b n h e"], Float[Array, "b n h"]]:
    """(output in v's dtype, log-sum-exp float32), with derivatives up to the second. See `reference.attend`."""
    return derivatives.attend(q, k, v, visible, target)


@functools.partial(jax.custom_jvp, nondiff_argnums=(4, 5, 6))
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


@modulated_qkv.defjvp
def _qkv_jvp(norm: NormKind, eps: float, target: Target, at: Any, along: Any) -> tuple[Any, Any]:
    def again(x: Array, modulation: Modulation | None, weights: QkvWeights, rotary: Rotary | None) -> Any:
        return xla.modulated_qkv(x, modulation, weights, norm=norm, eps=eps, rotary=rotary)

    return modulated_qkv(*at, norm, eps, target), jax.jvp(jax.checkpoint(again), at, along)[1]


@functools.partial(jax.custom_jvp, nondiff_argnums=(5,))
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


@gated_out.defjvp
def _out_jvp(target: Target, at: Any, along: Any) -> tuple[Array, Array]:
    return gated_out(*at, target), jax.jvp(jax.checkpoint(xla.gated_out), at, along)[1]

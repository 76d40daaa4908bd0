"""Which implementation of the attention half runs. A module's field chooses: `attention: Attention = "auto"`.

`auto` is `xla` wherever nothing faster has been measured; the Pallas kernels join this choice when they land.
"""

from typing import Literal, get_args

from jaxtyping import Array, Float

from unified_jax.kernels import reference, xla
from unified_jax.kernels.inputs import Index, Modulation, NormKind, OutWeights, QkvWeights, Rotary, Rows, Visible

Attention = Literal["auto", "reference", "xla"]


def check_attention(attention: str) -> None:
    """Raises ValueError for an implementation that does not exist, before anything is compiled."""
    if attention not in get_args(Attention):
        raise ValueError(f"attention must be one of {', '.join(get_args(Attention))}; found {attention!r}.")


def modulated_qkv(
    x: Float[Array, "b n d"],
    modulation: Modulation | None,
    weights: QkvWeights,
    *,
    norm: NormKind = "layer",
    eps: float = 1e-6,
    rotary: Rotary | None = None,
    attention: Attention = "auto",
) -> tuple[Array, Array, Array]:
    """Part one: queries, keys and values. See `reference.modulated_qkv`."""
    part = reference.modulated_qkv if attention == "reference" else xla.modulated_qkv
    return part(x, modulation, weights, norm=norm, eps=eps, rotary=rotary)


def attend(
    q: Float[Array, "b n h e"],
    k: Float[Array, "b m g e"],
    v: Float[Array, "b m g e"],
    visible: Visible | None = None,
    bias: Float[Array, "b h n m"] | None = None,
    *,
    attention: Attention = "auto",
) -> tuple[Float[Array, "b n h e"], Float[Array, "b n h"]]:
    """Part two: attention over runs, with its log-sum-exp. See `reference.attend`."""
    part = reference.attend if attention == "reference" else xla.attend
    return part(q, k, v, visible, bias)


def gated_out(
    x: Float[Array, "b n d"],
    a: Float[Array, "b n h e"],
    weights: OutWeights,
    gate: Rows | None = None,
    index: Index | None = None,
    *,
    attention: Attention = "auto",
) -> Float[Array, "b n d"]:
    """Part three: back to the residual stream through the gate. See `reference.gated_out`."""
    part = reference.gated_out if attention == "reference" else xla.gated_out
    return part(x, a, weights, gate, index)


def attention_half(
    x: Float[Array, "b n d"],
    modulation: Modulation | None,
    qkv: QkvWeights,
    out: OutWeights,
    *,
    visible: Visible | None = None,
    norm: NormKind = "layer",
    eps: float = 1e-6,
    rotary: Rotary | None = None,
    attention: Attention = "auto",
) -> Float[Array, "b n d"]:
    """The composition: `x + gate * out(attend(qkv(norm(x) * (1 + scale) + shift)))`."""
    q, k, v = modulated_qkv(x, modulation, qkv, norm=norm, eps=eps, rotary=rotary, attention=attention)
    a, _ = attend(q, k, v, visible, attention=attention)
    if modulation is None:
        return gated_out(x, a, out, attention=attention)
    return gated_out(x, a, out, modulation.gate, modulation.index, attention=attention)

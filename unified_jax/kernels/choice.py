"""Which implementation of the attention branch runs. A module's field chooses: `attention: Attention = "auto"`.

    auto        the fastest measured for this device, dtype, shape and kind of mask (`measured`), else xla
    reference   the specification
    xla         everywhere; the only one with third derivatives
    cudnn       attention itself by cuDNN, the rest as xla: NVIDIA GPU, bfloat16 or float16; reverse mode only
    pallas      our kernels, with second derivatives: TPU and Hopper GPU; interpreted on a CPU (slow, for tests)

The device is that of the mesh in use, else the default one. A forced choice that cannot work raises UserError during
tracing, before compilation. On a mesh of several devices the kernels run on each device's part
(batch, heads, and the queries' tokens; keys and values of a row are gathered).
"""

import functools
import warnings
from typing import Any, Literal, get_args

import jax.numpy as jnp
from jaxtyping import Array, Float

from unified_jax.errors import UserError
from unified_jax.kernels import cudnn, measured, reference, xla
from unified_jax.kernels.device import device
from unified_jax.kernels.inputs import Index, Modulation, NormKind, OutWeights, QkvWeights, Rotary, Rows, Visible
from unified_jax.sharding import parts_of, per_device

Attention = Literal["auto", "reference", "xla", "cudnn", "pallas"]

HOPPER = ("H100", "H200", "H800", "H20", "GH200")


def check_attention(attention: str) -> None:
    """Raises ValueError for an unknown implementation, before compilation."""
    if attention not in get_args(Attention):
        raise ValueError(f"attention must be one of {', '.join(get_args(Attention))}; found {attention!r}.")


def resolve(
    attention: Attention,
    dtype: Any,
    head_dim: int,
    tokens: int,
    runs: bool,
    *,
    bias: bool = False,
    projection: bool = False,
) -> Attention:
    """The chosen implementation, never auto, of attention itself or of a `projection` around it.

    Raises UserError if it is forced and cannot work.
    """
    name, odd = jnp.dtype(dtype).name, runs and tokens % 2 == 1
    if attention == "auto":
        attention = "xla" if bias else measured.fastest(device()[1], name, head_dim, tokens, runs, projection)
        if why_not(attention, name, head_dim, bias, odd) or (attention == "pallas" and kernels()[2]):
            return "xla"
    elif reason := why_not(attention, name, head_dim, bias, odd):
        raise UserError(f"attention={attention!r} cannot work here: {reason} Choose 'auto' or 'xla'.")
    if attention == "pallas" and (reason := kernels()[2]):
        _say_once(reason)
        return "xla"
    return attention


def why_not(attention: Attention, dtype: str, head_dim: int, bias: bool, odd: bool = False) -> str | None:
    """Why an implementation cannot work on the device, or None; `odd`: key ranges over an odd number of tokens."""
    platform, kind = device()
    if attention == "cudnn":
        if platform != "gpu":
            return f"cuDNN runs on NVIDIA GPUs, the device is {kind!r}."
        if dtype not in ("bfloat16", "float16"):
            return f"cuDNN takes bfloat16 and float16, the compute dtype is {dtype}."
        if head_dim % 8 or head_dim > (256 if any(h in kind for h in HOPPER) else 128):
            return f"cuDNN takes head dims that are multiples of 8 up to 128 (Hopper: 256), found {head_dim}."
        if odd:
            return "cuDNN trains with runs (a bias, to it) over even numbers of tokens only."
    if attention == "pallas":
        if bias:
            return "the kernels take runs, not an additive bias."
        if platform == "gpu" and not any(h in kind for h in HOPPER):
            return f"the GPU kernels are for Hopper, the device is {kind!r}."
        if platform == "gpu" and dtype != "bfloat16":
            return f"the Hopper kernels take bfloat16, the compute dtype is {dtype}."
        if dtype not in ("bfloat16", "float32"):
            return f"the kernels take bfloat16 and float32, the compute dtype is {dtype}."
        if head_dim > (128 if platform == "gpu" else 256):
            return f"the kernels take head dims up to 256 (Hopper: 128), found {head_dim}."
    return None


def kernels() -> tuple[Any, Any, str | None]:
    """(the module of our kernels, their target, why this version of JAX cannot run them or None).

    Imported here, as importing Pallas takes most of a second.
    """
    from unified_jax.kernels import pallas
    from unified_jax.kernels.hopper import compat

    match device()[0]:
        case "cpu":
            return pallas, pallas.Target("tpu", interpret=True), None
        case "gpu":
            return pallas, pallas.Target("hopper"), compat.missing()
        case _:
            return pallas, pallas.Target("tpu"), None


@functools.cache
def _say_once(reason: str) -> None:
    warnings.warn(f"attention='pallas' falls back to 'xla': {reason}", stacklevel=2)


def modulated_qkv(
    x: Float[Array, "b n d"],
    modulation: Modulation | None,
    weights: QkvWeights,
    *,
    norm: NormKind = "layer",
    eps: float = 1e-6,
    rotary: Rotary | None = None,
    attention: Attention = "auto",
    runs: bool = False,
) -> tuple[Array, Array, Array]:
    """Part one: queries, keys and values. See `reference.modulated_qkv`. `runs`: whether attention has key ranges."""
    kernel = weights.kernel
    chosen = resolve(attention, kernel.dtype, kernel.shape[-1], x.shape[1], runs, projection=True)
    if chosen != "pallas":
        part = reference.modulated_qkv if chosen == "reference" else xla.modulated_qkv
        return part(x, modulation, weights, norm=norm, eps=eps, rotary=rotary)
    pallas, target, _ = kernels()
    tokens, heads = ("batch", "length", None), ("batch", "length", "heads", None)
    row = ("batch", None, None)
    names: Any = ((None, "heads", None, None), ("heads", None, None), (None,), (None,), (None,), (None,))
    by_head = QkvWeights(*names)
    run = per_device(
        lambda x, m, w, r: pallas.modulated_qkv(x, m, w, r, norm, eps, target),
        (tokens, Modulation(row, row, row, ("batch", "length")), by_head, Rotary(tokens, tokens)),  # type: ignore
        (heads, heads, heads),
    )
    return run(x, None if modulation is None else modulation._replace(gate=None), weights, rotary)


def attend(
    q: Float[Array, "b n h e"],
    k: Float[Array, "b m g e"],
    v: Float[Array, "b m g e"],
    visible: Visible | None = None,
    bias: Float[Array, "b h n m"] | None = None,
    *,
    attention: Attention = "auto",
) -> tuple[Float[Array, "b n h e"], Float[Array, "b n h"]]:
    """Part two: attention over key ranges, with its log-sum-exp. See `reference.attend`."""
    match resolve(attention, q.dtype, q.shape[-1], q.shape[1], visible is not None, bias=bias is not None):
        case "reference":
            return reference.attend(q, k, v, visible, bias)
        case "cudnn":
            return cudnn.attend(q, k, v, visible, bias)
        case "pallas":
            return _attend_by_kernel(q, k, v, visible)
        case _:
            return xla.attend(q, k, v, visible, bias)


def _attend_by_kernel(q: Array, k: Array, v: Array, visible: Visible | None) -> tuple[Array, Array]:
    pallas, target, _ = kernels()
    own, whole = ("batch", "length", "heads", None), ("batch", None, "heads", None)
    run = per_device(
        lambda q, k, v, visible: pallas.attend(q, k, v, visible, target),
        (own, whole, whole, ("batch", "length", None)),
        (own, own[:3]),
    )
    return run(q, k, v, visible)


def gated_out(
    x: Float[Array, "b n d"],
    a: Float[Array, "b n h e"],
    weights: OutWeights,
    gate: Rows | None = None,
    index: Index | None = None,
    *,
    attention: Attention = "auto",
    runs: bool = False,
) -> Float[Array, "b n d"]:
    """Part three: back to the residual stream through the gate. See `reference.gated_out`.

    Where heads are sharded over devices the sum over them precedes the gate: that is left to XLA.
    """
    kernel = weights.kernel
    chosen = resolve(attention, kernel.dtype, kernel.shape[1], x.shape[1], runs, projection=True)
    if chosen != "pallas" or parts_of("heads") > 1:
        part = reference.gated_out if chosen == "reference" else xla.gated_out
        return part(x, a, weights, gate, index).astype(x.dtype)
    pallas, target, _ = kernels()
    tokens = ("batch", "length", None)
    run = per_device(
        lambda x, a, w, gate, index: pallas.gated_out(x, a, w, gate, index, target),
        (tokens, (*tokens, None), OutWeights((None, None, None), (None,)), ("batch", None, None), tokens[:2]),  # type: ignore
        tokens,
    )
    return run(x, a, weights, gate, index)


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
    runs = visible is not None
    q, k, v = modulated_qkv(x, modulation, qkv, norm=norm, eps=eps, rotary=rotary, attention=attention, runs=runs)
    a, _ = attend(q, k, v, visible, attention=attention)
    gate, index = (None, None) if modulation is None else (modulation.gate, modulation.index)
    return gated_out(x, a, out, gate, index, attention=attention, runs=runs)

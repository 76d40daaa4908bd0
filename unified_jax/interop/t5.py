r"""T5's and UMT5's encoders as transformers stores them (T5EncoderModel, or the encoder of a whole T5) <-> ours.

theirs                                              ours
shared | encoder.embed_tokens                       tokens                      one array by two names
encoder.block.i.layer.0.layer_norm                  blocks/attention/norm_gain
encoder.block.i.layer.0.SelfAttention.{q,k,v,o}     blocks/attention/{qkv,out}_kernel
...SelfAttention.relative_attention_bias            relative (of block 0: T5), blocks/relative (UMT5)
encoder.block.i.layer.1.layer_norm                  blocks/norm
...DenseReluDense.{wi_0,wi_1 | wi},wo               blocks/mlp/fc1, blocks/mlp/fc2
encoder.final_layer_norm                            norm
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from unified_jax.errors import UserError
from unified_jax.interop.folder import ACTIVATIONS, Settings
from unified_jax.interop.table import MATRIX, Form, Line, Table

KINDS = ("t5", "mt5", "umt5")
SHARED, COPY = "shared.weight", "encoder.embed_tokens.weight"


class Fields(NamedTuple):
    """The fields of `networks.t5.T5Encoder`."""

    vocabulary: int
    width: int
    depth: int
    heads: int
    head_dim: int
    hidden: int
    activation: Any
    gated: bool
    buckets: int
    reach: int
    shared: bool
    eps: float


def fields(config: Mapping[str, Any], what: str) -> Fields:
    """Those that a config.json says. Raises UserError for what is not served."""
    s = Settings(config, what)
    s.require("model_type", *KINDS)
    kind = config.get("model_type", "t5")
    umt5, newer = kind == "umt5", kind in ("mt5", "umt5")
    gated, activation = _mlp(s.get("feed_forward_proj", "gated-gelu" if newer else "relu"), what)
    return Fields(
        vocabulary=s.get("vocab_size", {"t5": 32128, "mt5": 250112}.get(kind, 250112)),
        width=s.get("d_model", 512),
        depth=s.get("num_layers", 8 if newer else 6),
        heads=s.get("num_heads", 6 if newer else 8),
        head_dim=s.get("d_kv", 64),
        hidden=s.get("d_ff", 1024 if newer else 2048),
        activation=activation,
        gated=gated,
        buckets=s.get("relative_attention_num_buckets", 32),
        reach=s.get("relative_attention_max_distance", 128),
        shared=not umt5,
        eps=s.get("layer_norm_epsilon", 1e-6),
    )


def _mlp(said: str, what: str) -> tuple[bool, Any]:
    """(gated, our activation) of feed_forward_proj; a gated "gelu" is the one by tanh."""
    parts = said.split("-")
    if len(parts) > 2 or (len(parts) == 2 and parts[0] != "gated") or parts[-1] not in ACTIVATIONS:
        raise UserError(f"{what}: feed_forward_proj is {said!r}; expected an activation, or gated- and one.")
    return len(parts) == 2, "gelu_tanh" if said == "gated-gelu" else ACTIVATIONS[parts[-1]]


def table(gated: bool, shared: bool, tokens: str = SHARED) -> Table:
    """The lines of an encoder; `tokens` is the name by which the file holds the table of tokens."""
    first, second = "encoder.block.{i}.layer.0", "encoder.block.{i}.layer.1"
    attention, mlp = f"{first}.SelfAttention", f"{second}.DenseReluDense"
    relative = "SelfAttention.relative_attention_bias.weight"
    at = ("relative", f"encoder.block.0.layer.0.{relative}") if shared else ("blocks/relative", f"{first}.{relative}")
    qkv = tuple(f"{attention}.{part}.weight" for part in "qkv")
    wide = (f"{mlp}.wi_0.weight", f"{mlp}.wi_1.weight") if gated else (f"{mlp}.wi.weight",)
    return (
        Line("tokens", (tokens,)),
        Line(at[0], (at[1],)),
        Line("blocks/attention/norm_gain", (f"{first}.layer_norm.weight",)),
        Line("blocks/attention/qkv_kernel", qkv, Form(inputs=1, joined=2)),
        Line("blocks/attention/out_kernel", (f"{attention}.o.weight",), Form(inputs=2)),
        Line("blocks/norm/gain", (f"{second}.layer_norm.weight",)),
        Line("blocks/mlp/fc1/kernel", wide, Form(inputs=1, joined=1) if gated else MATRIX),
        Line("blocks/mlp/fc2/kernel", (f"{mlp}.wo.weight",), MATRIX),
        Line("norm/gain", ("encoder.final_layer_norm.weight",)),
    )


def wanted(name: str) -> bool:
    """Whether an encoder reads this array."""
    return name.startswith("encoder.") or name == SHARED


def one_copy(tensors: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """(the arrays with the table of tokens once, the name that it has)."""
    if SHARED not in tensors:
        return dict(tensors), COPY
    return {name: value for name, value in tensors.items() if name != COPY}, SHARED

"""Family `llama`: Hugging Face's Llama as the Transfusion trunk without modulation."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unified_jax.certify import Unserved
from unified_jax.certify.options import (
    Check,
    anything,
    count,
    either,
    flag,
    mapping,
    named,
    optional,
    positive,
    require,
)  # fmt: skip
from unified_jax.layers.form import Form
from unified_jax.networks.transfusion import Spans, Tokens, Trunk

TOP: dict[str, Check] = {"seed": anything, "n": anything, "spans": anything, "shared_pos": anything, "ctor": mapping}
UNUSED = "attention_dropout initializer_range use_cache max_position_embeddings bos_token_id eos_token_id pad_token_id"
CTOR: dict[str, Check] = dict.fromkeys(UNUSED.split(), anything)
CTOR |= dict.fromkeys(("model_type", "architectures", "transformers_version", "dtype", "torch_dtype"), anything)
CTOR |= dict.fromkeys(("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"), count)
CTOR |= {"num_attention_heads": count, "num_key_value_heads": optional(count), "head_dim": optional(count)}
CTOR |= {"rms_norm_eps": positive, "hidden_act": either("silu", "swish"), "pretraining_tp": either(1)}
CTOR |= {"attention_bias": flag, "mlp_bias": either(False), "tie_word_embeddings": flag}
CTOR |= {"rope_theta": positive, "rope_parameters": optional(mapping), "rope_scaling": optional(mapping)}
ROPE: dict[str, Check] = {"rope_theta": positive, "rope_type": either("default", "linear"), "factor": positive}
ROPE |= {"type": either("default", "linear")}
DEFAULTS: dict[str, Any] = {"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008}
DEFAULTS |= {"num_hidden_layers": 32, "num_attention_heads": 32, "rms_norm_eps": 1e-6}
DEFAULTS |= {"attention_bias": False, "tie_word_embeddings": False}
"""Of `LlamaConfig`."""


def _options(config: dict[str, Any]) -> tuple[dict[str, Any], float, float]:
    """(the constructor's arguments, base of the rotary frequencies, what positions are divided by)."""
    c = DEFAULTS | require(require(config, TOP)["ctor"], CTOR)
    c["num_key_value_heads"] = c.get("num_key_value_heads") or c["num_attention_heads"]
    if c.get("head_dim") not in (None, c["hidden_size"] // c["num_attention_heads"]):
        raise Unserved(named("head_dim", c["head_dim"]))
    rope = require({**(c.get("rope_scaling") or {}), **(c.get("rope_parameters") or {})}, ROPE)
    linear = "linear" in (rope.get("rope_type"), rope.get("type"))
    if linear and "factor" not in rope:
        raise Unserved(named("rope_parameters", rope))
    theta = float(rope.get("rope_theta", c.get("rope_theta", 10000.0)))
    return c, theta, float(rope["factor"]) if linear else 1.0


def _runs(allowed: np.ndarray) -> bool:
    """Whether every row has one key range."""
    edges = np.diff(np.pad(allowed.astype(int), [(0, 0)] * (allowed.ndim - 1) + [(1, 1)]), axis=-1)
    return bool(((edges == 1).sum(-1) == 1).all())


def run_llama(tensors: dict[str, np.ndarray], config: dict[str, Any]) -> dict[str, Any]:
    """The trunk without modulation; text, and embeddings given as one span whose projections are the identity."""
    c, theta, stretch = _options(config)
    d, heads = c["hidden_size"], c["num_attention_heads"]
    trunk = Trunk(
        depth=c["num_hidden_layers"], width=d, heads=heads, kv_heads=c["num_key_value_heads"],
        hidden=c["intermediate_size"], modulated=False, theta=theta, eps=c["rms_norm_eps"], remat="none",
        bias=c["attention_bias"],
    )  # fmt: skip
    rows, n = tensors["in/ids"].shape
    params = _llama_params(tensors, c)

    @jax.jit
    def forward(params: Any, ids: Any, position: Any, visible: Any, embeds: Any) -> tuple[Any, Any]:
        start = jnp.full((rows, 1), jnp.where((ids < 0).all(), 0, -1))
        span = Spans(Form("embeds", (n, d), (1,), d), embeds[:, None], start, jnp.ones_like(start))
        places = jnp.broadcast_to((position if stretch == 1.0 else position / stretch)[..., None], (rows, n, 3))
        whole = ids.astype(jnp.int32), places, visible.astype(jnp.int32)
        tokens = Tokens(*whole, jnp.zeros((rows, n), jnp.int32))
        found: Any = trunk.apply({"params": params}, tokens, (span,), jnp.zeros((rows, 2)), vocabulary=c["vocab_size"])
        logits, outputs, _ = found
        return logits, outputs["embeds"][:, 0]

    plain = np.broadcast_to(np.arange(n), (rows, n))
    causal = np.stack([np.zeros((rows, n), int), plain + 1], axis=-1)
    allowed = tensors["in/allowed"].astype(bool)
    if not _runs(allowed):
        raise Unserved("in/allowed with rows that are not one key range is not served")
    mixed = np.stack([allowed.argmax(-1), n - allowed[..., ::-1].argmax(-1)], axis=-1)
    ids, embeds = tensors["in/ids"], tensors["in/embeds"]
    logits, _ = forward(params, ids, plain, causal, embeds)
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits[:, :-1]), jnp.asarray(ids)[:, 1:, None], axis=-1)
    return {
        "causal.logits": logits,
        "causal.loss": -jnp.mean(chosen[:, 1:]),  # the files' labels leave out the first two tokens
        "mixed.logits": forward(params, ids, tensors["in/position_ids"], mixed, embeds)[0],
        "mixed_embeds.hidden": forward(params, np.full_like(ids, -1), tensors["in/position_ids"], mixed, embeds)[1],
        "inv_freq": theta ** (-np.arange(d // heads // 2) * 2.0 / (d // heads)) / stretch,
    }


def _llama_params(tensors: dict[str, np.ndarray], c: dict[str, Any]) -> dict[str, Any]:
    """The reference's weights as the trunk's; its rotary pairs (j, j + e / 2) become (2 j, 2 j + 1)."""
    d, heads, kv, layers = c["hidden_size"], c["num_attention_heads"], c["num_key_value_heads"], c["num_hidden_layers"]
    e = d // heads

    def stack(name: str, kind: str = "weight") -> np.ndarray:
        return np.stack([tensors[f"param/model.layers.{i}.{name}.{kind}"].T for i in range(layers)])

    def paired(kernel: np.ndarray, count: int) -> np.ndarray:
        return kernel.reshape(layers, -1, count, 2, e // 2).swapaxes(3, 4).reshape(layers, -1, count, e)

    def qkv(kind: str) -> np.ndarray:
        q = paired(stack("self_attn.q_proj", kind), heads).reshape(layers, -1, kv, heads // kv, e)
        k = paired(stack("self_attn.k_proj", kind), kv)[:, :, :, None]
        v = stack("self_attn.v_proj", kind).reshape(layers, -1, kv, 1, e)
        return np.concatenate([q, k, v], axis=3)

    out = stack("self_attn.o_proj").reshape(layers, heads, e, d)
    identity = {"kernel": np.eye(d, dtype=np.float32), "bias": np.zeros(d, np.float32)}
    unused = {"kernel": np.zeros((256, d), np.float32), "bias": np.zeros(d, np.float32)}
    tied = c["tie_word_embeddings"]  # then a file may still hold the copy, which counts for nothing
    head = tensors["param/model.embed_tokens.weight" if tied else "param/lm_head.weight"]
    params: dict[str, Any] = {
        "table": tensors["param/model.embed_tokens.weight"],
        "logits": {"kernel": head.T},
        "final_norm": {"gain": tensors["param/model.norm.weight"]},
        "time": {"fc1": unused, "fc2": identity},
        "embeds_in": identity,
        "embeds_out": identity,
        "blocks": {
            "attention": {
                "norm_gain": stack("input_layernorm"),
                "qkv_kernel": qkv("weight"),
                "out_kernel": out,
            },
            "norm": {"gain": stack("post_attention_layernorm")},
            "mlp": {name: {"kernel": stack(f"mlp.{name}_proj")} for name in ("gate", "up", "down")},
        },
    }
    if c["attention_bias"]:
        params["blocks"]["attention"] |= {"qkv_bias": qkv("bias")[:, 0], "out_bias": stack("self_attn.o_proj", "bias")}
    return jax.tree.map(jnp.asarray, params)

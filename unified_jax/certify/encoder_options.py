"""The options of text and image encoders: what a configuration of each class may say.

Dropout, initialisation and labels change no output of an encoder in evaluation: `anything`.
"""

from typing import Any

from unified_jax.certify.options import (
    Check,
    anything,
    count,
    either,
    flag,
    mapping,
    optional,
    positive,
    whole,
)  # fmt: skip
from unified_jax.interop.folder import ACTIVATIONS

INPUTS = ("input_ids", "attention_mask", "pixel_values")
"""What a model is called with."""

ARGS: dict[str, Check] = {"interpolate_pos_encoding": flag, "output_hidden_states": anything, "return_dict": anything}
"""Arguments of the call."""


def arguments(value: Any) -> bool:
    """Arguments of the call that are served."""
    return isinstance(value, dict) and all(name in ARGS and ARGS[name](one) for name, one in value.items())


def side(value: Any) -> bool:
    """A side, or twice the same one."""
    return count(value) or (isinstance(value, list) and len(value) == 2 and count(value[0]) and value[0] == value[1])


def feed_forward(value: Any) -> bool:
    """T5's name of its MLP."""
    return isinstance(value, str) and value.removeprefix("gated-") in ACTIVATIONS


TOP: dict[str, Check] = {
    "cls": anything,
    "config_cls": anything,
    "ctor": mapping,
    "seed": anything,
    "hooks": anything,
    "hidden": anything,
    "inputs": anything,
    "args": arguments,
}

UNUSED = (
    "architectures dtype torch_dtype transformers_version model_type attention_dropout initializer_range "
    "initializer_factor id2label label2id num_labels problem_type return_dict output_hidden_states output_attentions "
    "chunk_size_feed_forward is_encoder_decoder bos_token_id pad_token_id decoder_start_token_id _name_or_path "
    "logit_scale_init_value"
)
COMMON: dict[str, Check] = dict.fromkeys(UNUSED.split(), anything)
ACTIVATION = either(*ACTIVATIONS)
SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
TOWER = COMMON | dict.fromkeys(SIZES, count) | {"hidden_act": ACTIVATION, "layer_norm_eps": positive}
IMAGE: dict[str, Check] = {"image_size": side, "patch_size": side, "num_channels": count}
WORDS: dict[str, Check] = {"vocab_size": count, "max_position_embeddings": count, "eos_token_id": whole}
PROJECTION: dict[str, Check] = {"projection_dim": count}
CLIP_TEXT, CLIP_VISION = TOWER | WORDS | PROJECTION, TOWER | IMAGE | PROJECTION
SIGLIP_TEXT = TOWER | WORDS | {"projection_size": optional(count), "eos_token_id": anything}
SIGLIP_VISION = TOWER | IMAGE | {"vision_use_head": flag}
PAIR = COMMON | {"text_config": optional(mapping), "vision_config": optional(mapping)}

DINOV2 = TOWER | IMAGE | {"mlp_ratio": positive, "qkv_bias": flag, "use_swiglu_ffn": flag}
DINOV2 |= dict.fromkeys(("layerscale_value", "hidden_dropout_prob", "attention_probs_dropout_prob"), anything)
DINOV2 |= dict.fromkeys(("drop_path_rate", "use_mask_token", "apply_layernorm", "reshape_hidden_states"), anything)
DINOV2 |= dict.fromkeys(("out_features", "out_indices", "stage_names"), anything)
DINOV2 = {name: check for name, check in DINOV2.items() if name != "intermediate_size"}
REGISTERS = DINOV2 | {"num_register_tokens": whole}

T5 = COMMON | dict.fromkeys(("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads"), count)
T5 |= {"relative_attention_num_buckets": count, "relative_attention_max_distance": count}
T5 |= {"feed_forward_proj": feed_forward, "layer_norm_epsilon": positive, "is_decoder": either(False)}
T5 |= dict.fromkeys(("dropout_rate", "classifier_dropout", "use_cache", "tie_word_embeddings"), anything)
T5 |= dict.fromkeys(("num_decoder_layers", "eos_token_id", "scale_decoder_outputs"), anything)
T5 |= dict.fromkeys(("dense_act_fn", "is_gated_act", "tokenizer_class"), anything)

CONFIGS: dict[str, tuple[str, dict[str, Check], dict[str, dict[str, Check]]]] = {
    "CLIPTextModel": ("clip_text_model", CLIP_TEXT, {}),
    "CLIPTextModelWithProjection": ("clip_text_model", CLIP_TEXT, {}),
    "CLIPVisionModel": ("clip_vision_model", CLIP_VISION, {}),
    "CLIPVisionModelWithProjection": ("clip_vision_model", CLIP_VISION, {}),
    "CLIPModel": ("clip", PAIR | PROJECTION, {"text_config": CLIP_TEXT, "vision_config": CLIP_VISION}),
    "SiglipTextModel": ("siglip_text_model", SIGLIP_TEXT, {}),
    "SiglipVisionModel": ("siglip_vision_model", SIGLIP_VISION, {}),
    "SiglipModel": ("siglip", PAIR, {"text_config": SIGLIP_TEXT, "vision_config": SIGLIP_VISION}),
    "T5EncoderModel": ("t5", T5, {}),
    "MT5EncoderModel": ("mt5", T5, {}),
    "UMT5EncoderModel": ("umt5", T5, {}),
    "Dinov2Model": ("dinov2", DINOV2, {}),
    "Dinov2WithRegistersModel": ("dinov2_with_registers", REGISTERS, {}),
}
"""Class -> (model type, checks of its options, checks of nested configurations)."""

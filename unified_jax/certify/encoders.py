"""Family `transformers_model`: text and image encoders, by the class of the file (`cfg.cls`).

CLIPTextModel, CLIPVisionModel, both with a projection, CLIPModel; SiglipTextModel, SiglipVisionModel, SiglipModel;
T5EncoderModel, MT5EncoderModel, UMT5EncoderModel; Dinov2Model, Dinov2WithRegistersModel. `hidden_states.i` is what
enters block i; of T5 the last one has passed the final norm.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unified_jax.certify import Unserved
from unified_jax.certify.encoder_options import CONFIGS, INPUTS, TOP
from unified_jax.certify.options import named, require
from unified_jax.errors import UserError
from unified_jax.interop import clip, dinov2, siglip, t5, table
from unified_jax.models.encoder_networks import t5_encoder, text_tower, vision_transformer
from unified_jax.networks.siglip import pair_logits
from unified_jax.sharding import unbox

Arrays = Mapping[str, np.ndarray]
Found = dict[str, Any]
WHAT = "The file"


class Golden:
    """The parts of a golden: weights, inputs, the configuration with its model type, arguments of the call."""

    def __init__(self, tensors: Arrays, config: dict[str, Any]) -> None:
        top = require(config, TOP)
        self.cls = top["cls"]
        self.kind, checks, nested = CONFIGS[self.cls]
        self.config: dict[str, Any] = {"model_type": self.kind} | require(top.get("ctor", {}), checks)
        for name, inner in nested.items():
            require(self.config.get(name) or {}, inner)
        self.weights = {name[6:]: value for name, value in tensors.items() if name.startswith("param/")}
        self.inputs = {name[3:]: value for name, value in tensors.items() if name.startswith("in/")}
        for name in self.inputs:
            if name not in INPUTS:
                raise Unserved(f"the input {name} is not served")
        self.resized = bool(top.get("args", {}).get("interpolate_pos_encoding", False))


def run(tensors: dict[str, np.ndarray], config: dict[str, Any]) -> Found:
    """Every output of the class."""
    cls = config.get("cls")
    if cls not in CLASSES:
        raise Unserved(named("cls", cls))
    golden = Golden(tensors, config)
    try:
        return CLASSES[cls](golden)
    except UserError as error:
        raise Unserved(str(error)) from error


RUNNERS: dict[str, Callable[..., Found]] = {"transformers_model": run}
"""Family -> how it is computed here, float32."""


def _call(network: Any, lines: table.Table, weights: Arrays, *inputs: Any) -> Any:
    """The network's outputs with its hidden states, and the weights written back as they came."""
    shapes = unbox(jax.eval_shape(lambda: network.init(jax.random.key(0), *inputs))["params"])
    params = table.read(WHAT, dict(weights), lines, shapes)
    for name, value in table.write(params, lines).items():
        if value.tobytes() != np.ascontiguousarray(weights[name]).tobytes():
            raise ValueError(f"{name} does not survive a round trip")
    call = jax.jit(lambda p, *given: network.apply({"params": p}, *given, keep=True))
    return call(jax.tree.map(jnp.asarray, params), *inputs)


def _length(golden: Golden) -> Any:
    """The lengths that an attention mask says. Raises Unserved for a mask with holes."""
    mask = golden.inputs.get("attention_mask")
    if mask is None:
        return None
    length = mask.astype(bool).sum(axis=1)
    if not (mask.astype(bool) == (np.arange(mask.shape[1]) < length[:, None])).all():
        raise Unserved("an attention_mask that is not 1 up to a length and 0 after it is not served")
    return jnp.asarray(length, jnp.int32)


def _hidden(found: Any) -> Found:
    return {f"hidden_states.{i}": value for i, value in enumerate(found.hidden)}


def _ids(golden: Golden) -> Any:
    return jnp.asarray(golden.inputs["input_ids"], jnp.int32)


def _pixels(golden: Golden, size: int) -> Any:
    """Channels last. Raises Unserved for another size, unless positions are resampled."""
    x = golden.inputs["pixel_values"]
    if not golden.resized and x.shape[2:] != (size, size):
        raise Unserved(f"images of {x.shape[2]} x {x.shape[3]} without interpolate_pos_encoding are not served")
    return jnp.moveaxis(jnp.asarray(x, jnp.float32), 1, -1)


def _clip_text(golden: Golden, projected: bool) -> Any:
    fields = clip.text_fields(golden.config, WHAT, projected)
    weights = {n: v for n, v in golden.weights.items() if clip.text_wanted(n, projected)}
    lines = clip.text_table(clip.prefix_of(weights, "text_model."), projected)
    return _call(text_tower(fields), lines, weights, _ids(golden), _length(golden))


def _clip_vision(golden: Golden, projected: bool) -> Any:
    fields = clip.vision_fields(golden.config, WHAT, projected)
    weights = {n: v for n, v in golden.weights.items() if clip.vision_wanted(n, projected)}
    lines = clip.vision_table(clip.prefix_of(weights, "vision_model."), projected, fields.channels)
    return _call(vision_transformer(fields), lines, weights, _pixels(golden, fields.size))


def run_clip_text(golden: Golden) -> Found:
    """CLIPTextModel, and with a projection."""
    projected = golden.cls.endswith("WithProjection")
    found = _clip_text(golden, projected)
    pooled = {"text_embeds" if projected else "pooler_output": found.pooled}
    return pooled | {"last_hidden_state": found.tokens} | _hidden(found)


def run_clip_vision(golden: Golden) -> Found:
    """CLIPVisionModel, and with a projection; its last_hidden_state has not passed the final norm."""
    projected = golden.cls.endswith("WithProjection")
    found = _clip_vision(golden, projected)
    pooled = {"image_embeds" if projected else "pooler_output": found.pooled}
    return pooled | {"last_hidden_state": found.last} | _hidden(found)


def run_clip(golden: Golden) -> Found:
    """CLIPModel: both towers, whose projections have the width that the pair says."""
    width = golden.config.get("projection_dim", 512)
    for name in ("text_config", "vision_config"):
        nested: dict[str, Any] = golden.config.get(name) or {}
        golden.config[name] = nested | {"projection_dim": width}
    text, image = _clip_text(golden, True), _clip_vision(golden, True)
    return pair_outputs(text.pooled, image.pooled, golden.weights["logit_scale"], np.zeros(()))


def pair_outputs(text: Any, image: Any, scale: np.ndarray, bias: np.ndarray) -> Found:
    """What a pair of towers gives: vectors of length 1, and logits."""
    text, image = (v / jnp.linalg.norm(v, axis=-1, keepdims=True) for v in (text, image))
    logits = pair_logits(image, text, jnp.asarray(scale).reshape(()), jnp.asarray(bias).reshape(()))
    return {"logits_per_image": logits, "logits_per_text": logits.T, "text_embeds": text, "image_embeds": image}


def _siglip_text(golden: Golden) -> Any:
    fields = siglip.text_fields(golden.config, WHAT)
    weights = {n: v for n, v in golden.weights.items() if siglip.TEXT_WANTED(n, True)}
    if not fields.projection:
        raise Unserved(named("projection_size", 0))
    weights = _tower(weights, "text_model.")
    return _call(text_tower(fields), siglip.text_table(""), weights, _ids(golden), _length(golden))


def _siglip_vision(golden: Golden) -> Any:
    fields = siglip.vision_fields(golden.config, WHAT)
    weights = _tower({n: v for n, v in golden.weights.items() if siglip.VISION_WANTED(n, True)}, "vision_model.")
    lines = siglip.vision_table("", fields.pool == "probe", fields.channels)
    return _call(vision_transformer(fields), lines, weights, _pixels(golden, fields.size))


def _tower(weights: Arrays, prefix: str) -> Arrays:
    return {name.removeprefix(prefix): value for name, value in weights.items()}


def run_siglip_text(golden: Golden) -> Found:
    """SiglipTextModel."""
    found = _siglip_text(golden)
    return {"pooler_output": found.pooled, "last_hidden_state": found.tokens} | _hidden(found)


def run_siglip_vision(golden: Golden) -> Found:
    """SiglipVisionModel, with or without its head."""
    found = _siglip_vision(golden)
    pooled = {} if found.pooled is None else {"pooler_output": found.pooled}
    return pooled | {"last_hidden_state": found.tokens} | _hidden(found)


def run_siglip(golden: Golden) -> Found:
    """SiglipModel: both towers."""
    text, image = _siglip_text(golden), _siglip_vision(golden)
    return pair_outputs(text.pooled, image.pooled, golden.weights["logit_scale"], golden.weights["logit_bias"])


def run_t5(golden: Golden) -> Found:
    """T5EncoderModel and UMT5EncoderModel."""
    fields = t5.fields(golden.config, WHAT)
    weights, tokens = t5.one_copy({n: v for n, v in golden.weights.items() if t5.wanted(n)})
    lines = t5.table(fields.gated, fields.shared, tokens)
    found = _call(t5_encoder(fields), lines, weights, _ids(golden), _length(golden))
    hidden = _hidden(found) | {f"hidden_states.{fields.depth}": found.tokens}
    return {"last_hidden_state": found.tokens} | hidden


def run_dinov2(golden: Golden) -> Found:
    """Dinov2Model, with or without registers; positions are always resampled to the image."""
    fields = dinov2.fields(golden.config, WHAT)
    weights = dinov2.published({n: v for n, v in golden.weights.items() if dinov2.wanted(n)})
    golden.resized = True
    found = _call(vision_transformer(fields), dinov2.table(fields), weights, _pixels(golden, fields.size))
    return {"pooler_output": found.pooled, "last_hidden_state": found.tokens} | _hidden(found)


CLASSES: dict[str, Callable[[Golden], Found]] = {
    "CLIPTextModel": run_clip_text,
    "CLIPTextModelWithProjection": run_clip_text,
    "CLIPVisionModel": run_clip_vision,
    "CLIPVisionModelWithProjection": run_clip_vision,
    "CLIPModel": run_clip,
    "SiglipTextModel": run_siglip_text,
    "SiglipVisionModel": run_siglip_vision,
    "SiglipModel": run_siglip,
    "T5EncoderModel": run_t5,
    "MT5EncoderModel": run_t5,
    "UMT5EncoderModel": run_t5,
    "Dinov2Model": run_dinov2,
    "Dinov2WithRegistersModel": run_dinov2,
}
"""Class of the reference -> how it is computed here."""

"""diffusers' UnCLIPTextProjModel in the family `diffusers_model`: outputs 0 (tokens) and 1 (added to the time)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unified_jax.certify.options import Check, count, require
from unified_jax.interop import table
from unified_jax.interop.unclip import TABLE
from unified_jax.layers.form import ConditionInput
from unified_jax.modalities.conditions import ConditionForm
from unified_jax.networks.unclip import UnclipConditions
from unified_jax.precision import seed_key
from unified_jax.sharding import unbox

CTOR: dict[str, Check] = dict.fromkeys(
    ("clip_extra_context_tokens", "clip_embeddings_dim", "time_embed_dim", "cross_attention_dim"), count
)
DEFAULTS: dict[str, Any] = {"clip_extra_context_tokens": 4, "clip_embeddings_dim": 768}


def run(tensors: dict[str, np.ndarray], ctor: dict[str, Any]) -> dict[str, Any]:
    """Both outputs; with guidance there are twice as many texts as images, and the first half has none."""
    c = DEFAULTS | require(ctor, CTOR)
    network = UnclipConditions(c["clip_extra_context_tokens"], c["time_embed_dim"], c["cross_attention_dim"])
    z, y, text = (
        jnp.asarray(tensors[f"in/{name}"])
        for name in ("image_embeddings", "prompt_embeds", "text_encoder_hidden_states")
    )
    absent = len(y) - len(z)
    present = jnp.arange(len(y)) >= absent
    form = ConditionForm("image", "vector", z.shape[1], null="learned")
    image = ConditionInput(form, jnp.concatenate([jnp.zeros((absent, z.shape[1])), z]), present)
    shapes = unbox(jax.eval_shape(lambda: network.init(seed_key(0), image, y, text)))["params"]
    weights = {name[6:]: value for name, value in tensors.items() if name.startswith("param/")}
    params = jax.tree.map(jnp.asarray, table.read("The file's projection", weights, TABLE, shapes))
    tokens, time = jax.jit(lambda p, *given: network.apply({"params": p}, *given))(params, image, y, text)
    return {"0": tokens, "1": time}

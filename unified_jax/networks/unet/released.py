"""A U-Net in a folder as diffusers writes it: config.json and its weights, in one file or in parts."""

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp

from unified_jax.errors import UserError
from unified_jax.interop import files
from unified_jax.interop.folder import CONFIG, read_json
from unified_jax.interop.unets import Layout, read
from unified_jax.layers.form import ConditionInput, Form, NoisyInput
from unified_jax.modalities.conditions import ConditionForm, Kind
from unified_jax.networks.unet import conditional as conditional_, plain as plain_
from unified_jax.networks.unet.conditional import Config, conditional, each
from unified_jax.networks.unet.network import UNet
from unified_jax.networks.unet.plain import plain
from unified_jax.precision import seed_key
from unified_jax.sharding import unbox
from unified_jax.typing import Params

CONDITIONAL, PLAIN = "UNet2DConditionModel", "UNet2DModel"


class Released(NamedTuple):
    """A released U-Net."""

    network: UNet
    params: Params
    layout: Layout
    """That of its file, for `interop.unets.write`."""
    config: Config
    """The configuration of its class, with defaults."""


def load_unet(folder: Path) -> Released:
    """The U-Net of a folder. A distilled model's guidance scale is its condition "guided".

    Raises UserError for another class, an option that is not served, and weights that do not fit.
    """
    config = read_json(folder / CONFIG)
    kind = config.get("_class_name")
    if kind == CONDITIONAL:
        config, (network, layout) = conditional_.DEFAULTS | config, conditional(config, "guided")
    elif kind == PLAIN:
        config, (network, layout) = plain_.DEFAULTS | config, plain(config)
    else:
        raise UserError(f"{str(folder / CONFIG)!r} is of the class {kind!r}; expected {CONDITIONAL} or {PLAIN}.")
    x = jnp.zeros((1, 2 ** len(network.down), 2 ** len(network.down), config["in_channels"]))
    noisy = NoisyInput(Form("image", x.shape[1:], (1, 1), config["out_channels"]), x, jnp.zeros(1))
    given = conditions(config, network)
    shapes = jax.eval_shape(lambda key: unbox(network.init(key, (noisy,), given)["params"]), seed_key(0))
    return Released(network, read(f"The folder {str(folder)!r}", files.read(folder), shapes, layout), layout, config)


def conditions(config: Config, network: UNet) -> tuple[ConditionInput, ...]:
    """Zeros for each condition of a configuration: enough for the shapes of its parameters."""
    width = network.time_width or 4 * (network.time_features or network.down[0].channels)
    found = []
    if config["class_embed_type"] is None and config["num_class_embeds"]:
        rows = ConditionForm("class", "label", config["num_class_embeds"])
        found.append(ConditionInput(rows, jnp.zeros(1, jnp.int32)))
    inputs = config.get("projection_class_embeddings_input_dim")
    sizes = {"projection": inputs, "simple_projection": inputs, "identity": width}
    vector = sizes.get(config["class_embed_type"] or "")
    match config.get("addition_embed_type"):
        case "text_time":
            vector = inputs
        case "image":
            vector = config["encoder_hid_dim"]
    widths = set(each(config.get("cross_attention_dim"), 1))
    tokens = widths.pop() if len(widths) == 1 and not network.vector_tokens else None  # several: the maps' own
    kinds: tuple[tuple[str, Kind, int | None], ...] = (
        ("guided", "vector", config.get("time_cond_proj_dim")),
        ("class", "vector", vector),
        ("class", "scalars", 1 if config["class_embed_type"] == "timestep" else None),
        ("text", "tokens", tokens),
    )
    for name, kind, features in kinds:
        if features:
            shape = (1, 1, features) if kind == "tokens" else (1, features)
            found.append(ConditionInput(ConditionForm(name, kind, features, null="none"), jnp.zeros(shape)))
    return tuple(found)

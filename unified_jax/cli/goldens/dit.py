"""Family `dit`: the published DiT, its weights read by name."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unified_jax.modalities.image import Image
from unified_jax.networks.dit import DiT
from unified_jax.samplers.guidance import extrapolate
from unified_jax.typing import Params


def parameters(weights: dict[str, np.ndarray], depth: int, heads: int) -> Params:
    """A DiT state dict (torch layouts) as our tree: linears transposed, q, k, v by head, blocks stacked."""
    width = weights["pos_embed"].shape[-1]
    e = width // heads

    def linear(name: str) -> Params:
        return {"kernel": weights[f"{name}.weight"].T, "bias": weights[f"{name}.bias"]}

    def stacked(name: str) -> Params:
        parts = [linear(f"blocks.{i}.{name}") for i in range(depth)]
        return {key: np.stack([part[key] for part in parts]) for key in ("kernel", "bias")}

    qkv, out = stacked("attn.qkv"), stacked("attn.proj")
    patch = weights["x_embedder.proj.weight"]
    return {
        "time": {"fc1": linear("t_embedder.mlp.0"), "fc2": linear("t_embedder.mlp.2")},
        "label_0": {"table": weights["y_embedder.embedding_table.weight"]},
        "patch": {
            "kernel": patch.transpose(2, 3, 1, 0).reshape(-1, width),
            "bias": weights["x_embedder.proj.bias"],
        },
        "blocks": {
            "modulation": {"linear": stacked("adaLN_modulation.1")},
            "mlp": {"fc1": stacked("mlp.fc1"), "fc2": stacked("mlp.fc2")},
            "attention": {
                "qkv_kernel": qkv["kernel"].reshape(depth, width, 3, heads, e).swapaxes(2, 3),
                "qkv_bias": qkv["bias"].reshape(depth, 3, heads, e).swapaxes(1, 2),
                "out_kernel": out["kernel"].reshape(depth, heads, e, width),
                "out_bias": out["bias"],
            },
        },
        "final_modulation": {"linear": linear("final_layer.adaLN_modulation.1")},
        "final": linear("final_layer.linear"),
    }


def run(tensors: dict[str, np.ndarray], config: dict[str, Any]) -> dict[str, Any]:
    """`y`, and `cfg` where the file has it (guided on the first three channels, as the reference does)."""
    c = config["ctor"]
    weights = {name[6:]: value for name, value in tensors.items() if name.startswith("param/")}
    params = jax.tree.map(jnp.asarray, parameters(weights, c["depth"], c["num_heads"]))
    size, patch, channels = c["input_size"], c["patch_size"], c.get("in_channels", 4)
    image = Image(size, size, channels, patch)
    network = DiT(depth=c["depth"], width=c["hidden_size"], heads=c["num_heads"], mlp_ratio=c.get("mlp_ratio", 4.0))
    out_channels = channels * (2 if c.get("learn_sigma", True) else 1)
    rows = (params["label_0"]["table"].shape[0],)

    def forward(x: Any, t: Any, y: Any) -> Any:
        tokens = image.patches(jnp.moveaxis(jnp.asarray(x), 1, -1))
        labels = jnp.asarray(y, jnp.int32)[:, None]
        positions = jnp.asarray(image.positions())
        out, _ = network.apply(
            {"params": params}, tokens, positions, jnp.asarray(t), labels,
            label_rows=rows, out_features=patch**2 * out_channels,
        )  # fmt: skip
        return image.unpatch(out)

    out = {"y": jnp.moveaxis(forward(tensors["in/x"], tensors["in/t"], tensors["in/y"]), -1, 1)}
    if "out/cfg" in tensors:
        half = len(tensors["in/x"]) // 2
        x = np.concatenate([tensors["in/x"][:half]] * 2)
        y = tensors.get("in/cfg_y", tensors["in/y"])
        raw = forward(x, tensors.get("in/cfg_t", tensors["in/t"]), y)
        conditional, unconditional = raw[:half], raw[half:]
        scale = config.get("cfg_scale", 4.0)
        guided = extrapolate(conditional, unconditional, scale, channels=3)
        other = jnp.concatenate([guided[..., :3], unconditional[..., 3:]], axis=-1)
        out["cfg"] = jnp.moveaxis(jnp.concatenate([guided, other]), -1, 1)
    return out


def run_sit(tensors: dict[str, np.ndarray], config: dict[str, Any]) -> dict[str, Any]:
    """SiT: the same network, whose learned-sigma channels are computed and dropped before guidance."""
    found = run(tensors, config)
    keep = config["ctor"].get("in_channels", 4)
    out = {"y": found["y"][:, :keep]}
    return out | ({"cfg": found["cfg"][:, :keep]} if "cfg" in found else {})

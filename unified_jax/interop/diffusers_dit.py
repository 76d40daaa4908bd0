r"""DiT as diffusers stores it (DiTTransformer2DModel) <-> our tree, via the published layout.

    diffusers                                              published
    pos_embed.proj                                         x_embedder.proj
    transformer_blocks.i.attn1.to_q, to_k, to_v            blocks.i.attn.qkv, stacked
    transformer_blocks.i.attn1.to_out.0                    blocks.i.attn.proj
    transformer_blocks.i.ff.net.0.proj, ff.net.2           blocks.i.mlp.fc1, fc2
    transformer_blocks.i.norm1.linear                      blocks.i.adaLN_modulation.1
    transformer_blocks.i.norm1.emb.timestep_embedder.*     t_embedder.mlp.*     } repeated in every block; they must
    transformer_blocks.i.norm1.emb.class_embedder.*        y_embedder.*         } be equal to form one embedding
    proj_out_1, proj_out_2                                 final_layer.adaLN_modulation.1, final_layer.linear

The position table is not in the file, so the image size must be given.

Its class is not the same function as the published model, of which its released weights are a copy (diffusers 0.42,
embeddings.py and attention.py). The frequencies of the time embedding are 10000^(-i / 127) but were trained
as 10000^(-i / 128). The norm before the MLP takes `norm_eps`, 1e-5 unless it is set to the trained 1e-6. Here
weights mean the published function. A model trained in diffusers used the former.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from unified_jax.errors import UserError
from unified_jax.interop import dit
from unified_jax.interop.dit_sizes import Sizes, depth_of, measure
from unified_jax.interop.names import Shape, account, shapes, unwrapped
from unified_jax.typing import Params

WHAT = "The diffusers state dict"

OUTER = {
    "pos_embed.proj": "x_embedder.proj",
    "proj_out_1": "final_layer.adaLN_modulation.1",
    "proj_out_2": "final_layer.linear",
}
BLOCK = {
    "attn1.to_out.0": "attn.proj",
    "ff.net.0.proj": "mlp.fc1",
    "ff.net.2": "mlp.fc2",
    "norm1.linear": "adaLN_modulation.1",
}
REPEATED = {
    "norm1.emb.timestep_embedder.linear_1.weight": "t_embedder.mlp.0.weight",
    "norm1.emb.timestep_embedder.linear_1.bias": "t_embedder.mlp.0.bias",
    "norm1.emb.timestep_embedder.linear_2.weight": "t_embedder.mlp.2.weight",
    "norm1.emb.timestep_embedder.linear_2.bias": "t_embedder.mlp.2.bias",
    "norm1.emb.class_embedder.embedding_table.weight": "y_embedder.embedding_table.weight",
}
"""Arrays that every block holds a copy of."""

QKV = ("attn1.to_q", "attn1.to_k", "attn1.to_v")

MEASURED = {
    role: (name, dit.MEASURED[role][1])
    for role, name in (
        ("patch", "pos_embed.proj.weight"),
        ("final", "proj_out_2.weight"),
        ("table", "transformer_blocks.0.norm1.emb.class_embedder.embedding_table.weight"),
        ("hidden", "transformer_blocks.0.ff.net.0.proj.weight"),
    )
}


def layout(sizes: Sizes) -> dict[str, Shape]:
    """Every array of a model of these sizes."""
    official, d = sizes.official(), sizes.width
    expected: dict[str, Shape] = {}
    for kind in ("weight", "bias"):
        expected |= {f"{name}.{kind}": official[f"{theirs}.{kind}"] for name, theirs in OUTER.items()}
    for i in range(sizes.depth):
        folder = f"transformer_blocks.{i}"
        for kind, shape in (("weight", (d, d)), ("bias", (d,))):
            expected |= {f"{folder}.{name}.{kind}": shape for name in QKV}
            expected |= {
                f"{folder}.{name}.{kind}": official[f"blocks.{i}.{theirs}.{kind}"] for name, theirs in BLOCK.items()
            }
        expected |= {f"{folder}.{name}": official[theirs] for name, theirs in REPEATED.items()}
    return expected


def read(tensors: Mapping[str, np.ndarray], size: int, heads: int | None = None) -> tuple[Params, Sizes]:
    """(our tree, sizes). `size` is the side of the image or latent (diffusers: sample_size).

    Raises UserError: unmapped, missing or wrongly shaped arrays (all of them listed), a size that the patches do not
    divide, or blocks whose embedders differ.
    """
    tensors, _ = unwrapped(WHAT, tensors)
    found = shapes(tensors)
    sizes = measure(WHAT, found, MEASURED, depth_of(found, "transformer_blocks"), layout)
    account(WHAT, found, layout(sizes))
    if size < 1 or size % sizes.patch:
        raise UserError(f"An image of side {size} is not divisible into patches of side {sizes.patch}; check --size.")
    sizes = dataclasses.replace(sizes, side=size // sizes.patch)
    official = {"pos_embed": dit.position_table(sizes.width, sizes.side)[None]} | _shared(tensors, sizes.depth)
    for kind in ("weight", "bias"):
        official |= {f"{theirs}.{kind}": tensors[f"{name}.{kind}"] for name, theirs in OUTER.items()}
        for i in range(sizes.depth):
            folder = f"transformer_blocks.{i}"
            parts = [tensors[f"{folder}.{name}.{kind}"] for name in QKV]
            official[f"blocks.{i}.attn.qkv.{kind}"] = np.concatenate(parts)
            for name, theirs in BLOCK.items():
                official[f"blocks.{i}.{theirs}.{kind}"] = tensors[f"{folder}.{name}.{kind}"]
    return dit.read(official, heads)


def write(params: Params, sizes: Sizes) -> dict[str, np.ndarray]:
    """The diffusers state dict of our tree.

    Raises UserError as `read` does, with our names, and for an MLP that is not four times as wide, which its
    class requires.
    """
    if sizes.hidden != 4 * sizes.width:
        raise UserError(f"In diffusers the MLP is four times as wide as {sizes.width}, found {sizes.hidden}.")
    official = dit.write(params, sizes)
    theirs: dict[str, np.ndarray] = {}
    for kind in ("weight", "bias"):
        theirs |= {f"{name}.{kind}": official[f"{source}.{kind}"] for name, source in OUTER.items()}
        for i in range(sizes.depth):
            folder = f"transformer_blocks.{i}"
            parts = np.split(official[f"blocks.{i}.attn.qkv.{kind}"], 3)
            theirs |= {f"{folder}.{name}.{kind}": part for name, part in zip(QKV, parts, strict=True)}
            for name, source in BLOCK.items():
                theirs[f"{folder}.{name}.{kind}"] = official[f"blocks.{i}.{source}.{kind}"]
    for i in range(sizes.depth):
        theirs |= {f"transformer_blocks.{i}.{name}": official[source] for name, source in REPEATED.items()}
    account(WHAT, shapes(theirs), layout(sizes))
    return theirs


def constructor(sizes: Sizes) -> dict[str, Any]:
    """Arguments of DiTTransformer2DModel for these sizes; norm_eps is the trained one, not its default."""
    return {
        "num_attention_heads": sizes.heads, "attention_head_dim": sizes.width // sizes.heads,
        "in_channels": sizes.channels, "out_channels": sizes.channels * sizes.outputs, "num_layers": sizes.depth,
        "sample_size": sizes.side * sizes.patch, "patch_size": sizes.patch, "num_embeds_ada_norm": sizes.rows - 1,
        "norm_eps": 1e-6,
    }  # fmt: skip


def check(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Notes on the arguments that a file names.

    Raises UserError if they make the class a function that is not supported here.
    """
    wanted = {"activation_fn": "gelu-approximate", "norm_type": "ada_norm_zero", "norm_elementwise_affine": False}
    other = [f"{name}={config[name]!r}" for name, value in wanted.items() if config.get(name, value) != value]
    if other:
        raise UserError(
            f"{WHAT} has a model with {', '.join(other)}; expected "
            f"{', '.join(f'{name}={value!r}' for name, value in wanted.items())}."
        )
    eps = config.get("norm_eps", 1e-6)
    return () if eps == 1e-6 else (f"its config says norm_eps {eps}, here it is the trained 1e-6",)


def _shared(tensors: Mapping[str, np.ndarray], depth: int) -> dict[str, np.ndarray]:
    """The embedders of all blocks as one. Raises UserError if they differ."""
    different = []
    for name in REPEATED:
        first = tensors[f"transformer_blocks.0.{name}"]
        blocks = (f"transformer_blocks.{i}.{name}" for i in range(1, depth))
        different += [block for block in blocks if not np.array_equal(tensors[block], first)]
    if different:
        raise UserError(
            "The blocks of this diffusers model have time and label embedders of their own, which a DiT with one "
            f"embedding for all blocks cannot represent. Different from block 0: {', '.join(different)}."
        )
    return {theirs: tensors[f"transformer_blocks.0.{name}"] for name, theirs in REPEATED.items()}

"""What a config.json of diffusers says about an autoencoder, by the names of our fields.

Every option of its class is read; a value that our network cannot represent is refused by name.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from unified_jax.errors import UserError

SILU = "silu"
DOWN = {"DownEncoderBlock2D": False, "AttnDownEncoderBlock2D": True}
"""Kinds of an encoder's levels, and whether they have attention."""
UP = {"UpDecoderBlock2D": False, "AttnUpDecoderBlock2D": True}
"""Kinds of a decoder's levels."""
SHARED: dict[str, Any] = {
    "in_channels": 3, "out_channels": 3, "down_block_types": ("DownEncoderBlock2D",),
    "up_block_types": ("UpDecoderBlock2D",), "block_out_channels": (64,), "layers_per_block": 1, "act_fn": SILU,
    "sample_size": 32, "scaling_factor": 0.18215, "norm_num_groups": 32, "mid_block_add_attention": True,
}  # fmt: skip
KL: dict[str, Any] = SHARED | {
    "latent_channels": 4, "shift_factor": None, "latents_mean": None, "latents_std": None, "force_upcast": True,
    "use_quant_conv": True, "use_post_quant_conv": True,
}  # fmt: skip
"""Options of AutoencoderKL with their defaults."""
VQ: dict[str, Any] = SHARED | {
    "latent_channels": 3, "num_vq_embeddings": 256, "vq_embed_dim": None, "norm_type": "group",
    "lookup_from_codebook": False, "force_upcast": False,
}  # fmt: skip
"""Options of VQModel with their defaults."""


class LevelSettings(NamedTuple):
    """Sizes of `networks.autoencoders.coder.Levels`."""

    channels: int
    out_channels: int
    latents: int
    widths: tuple[int, ...]
    blocks: int
    encoder_attention: tuple[bool, ...]
    decoder_attention: tuple[bool, ...]
    middle_attention: bool
    groups: int
    coded: bool = False


class Statistics(NamedTuple):
    """Latents are (z - shift) * scale; one number, or one for each channel."""

    scale: tuple[float, ...] = (1.0,)
    shift: tuple[float, ...] = (0.0,)


def options(what: str, given: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """All options of a class. Raises UserError for one that it does not have."""
    named = {name: value for name, value in given.items() if not name.startswith("_")}
    unknown = sorted(set(named) - set(defaults))
    if unknown:
        raise UserError(f"{what} sets {', '.join(unknown)}; expected some of {', '.join(sorted(defaults))}.")
    return {**defaults, **named}


def levels(what: str, c: Mapping[str, Any]) -> LevelSettings:
    """The sizes of both networks from the options of AutoencoderKL or VQModel."""
    if c["act_fn"] not in (SILU, "swish"):
        raise UserError(f"{what}: act_fn is {c['act_fn']!r}; expected {SILU!r}.")
    return LevelSettings(
        channels=c["in_channels"],
        out_channels=c["out_channels"],
        latents=c["latent_channels"],
        widths=tuple(c["block_out_channels"]),
        blocks=c["layers_per_block"],
        encoder_attention=_kinds(what, "down_block_types", c, DOWN),
        decoder_attention=_kinds(what, "up_block_types", c, UP)[::-1],
        middle_attention=c["mid_block_add_attention"],
        groups=c["norm_num_groups"],
        coded=_coded(what, c.get("norm_type", "group")),
    )


def measured(c: Mapping[str, Any]) -> LevelSettings:
    """The sizes that were read from the shapes of a file (`levels.measured`)."""
    return LevelSettings(
        c["in_channels"], c["out_channels"], c["latent_channels"], tuple(c["block_out_channels"]),
        c["layers_per_block"], tuple(c["encoder_attention"]), tuple(c["decoder_attention"]),
        c["mid_block_add_attention"], c["norm_num_groups"], c["coded"],
    )  # fmt: skip


def statistics(what: str, c: Mapping[str, Any]) -> Statistics:
    """Scale and shift of the latents: scaling_factor, shift_factor, latents_mean, latents_std."""
    scale, mean, std = float(c["scaling_factor"]), c.get("latents_mean"), c.get("latents_std")
    if (mean is None) != (std is None):
        raise UserError(f"{what} sets one of latents_mean and latents_std; expected both or none.")
    if mean is None or std is None:
        return Statistics((scale,), (float(c.get("shift_factor") or 0.0),))
    if c.get("shift_factor"):
        raise UserError(f"{what} sets shift_factor and latents_mean; expected one of them.")
    return Statistics(tuple(scale / s for s in std), tuple(float(m) for m in mean))


def _kinds(what: str, name: str, c: Mapping[str, Any], kinds: Mapping[str, bool]) -> tuple[bool, ...]:
    """Whether each level has attention."""
    unknown = sorted(set(c[name]) - set(kinds))
    if unknown:
        raise UserError(f"{what}: {name} holds {', '.join(unknown)}; expected {' or '.join(kinds)}.")
    if len(c[name]) != len(c["block_out_channels"]):
        raise UserError(f"{what}: {name} has {len(c[name])} levels, block_out_channels {len(c['block_out_channels'])}.")
    return tuple(kinds[kind] for kind in c[name])


def _coded(what: str, kind: str) -> bool:
    if kind not in ("group", "spatial"):
        raise UserError(f"{what}: norm_type is {kind!r}; expected 'group' or 'spatial'.")
    return kind == "spatial"

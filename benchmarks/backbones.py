"""The table of backbones: parameters counted from the networks, and the reference outputs that each reproduces.

    python benchmarks/backbones.py [--goldens FOLDER]

Sizes are counted without an array being made. With --goldens, `certify` runs over the stored outputs of the reference
implementations, and the number of rows that pass is written; without it, those of the last run are kept. Writes
benchmarks/results/backbones.json, from which `pages.py` fills docs/backbones.md.
"""

import argparse
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from pages import read
from turns import write

import unified_jax as uj
from unified_jax.certify.files import certify
from unified_jax.layers.form import ConditionInput, Form, NoisyInput
from unified_jax.modalities.conditions import ConditionForm
from unified_jax.networks import flux, gentron, lightningdit, mdit, mmdit, pixart, unet, uvit
from unified_jax.networks.unet import adm, conditional

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class System:
    """A row of the table."""

    name: str
    special: str
    sizes: tuple[tuple[str, Callable[[], Any]], ...]
    """Name of a published size, and a function that gives the shapes of its parameters."""
    network: Any
    """The class, which tells the file."""
    weights: str
    """Layouts of files that it reads."""
    goldens: tuple[str, ...] = ()
    """Beginnings of the names of reference outputs; () where there is no reference."""
    trained: str = "any recipe, by `network=`"


def stream(name: str, shape: tuple[int, ...], cut: tuple[int, ...], outputs: int) -> NoisyInput:
    """A noisy array of one example."""
    return NoisyInput(Form(name, shape, cut, outputs), jnp.zeros((1, *shape)), jnp.zeros(1))


def given(kind: Any, features: int, tokens: int = 1) -> ConditionInput:
    """A condition of one example; of a label `features` classes."""
    form = ConditionForm(kind, kind, features, tokens, "row" if kind == "label" else "none")
    shape = {"label": (1,), "tokens": (1, tokens, features)}.get(kind, (1, features))
    return ConditionInput(form, jnp.zeros(shape, jnp.int32 if kind == "label" else jnp.float32))


def shapes(network: Any, streams: Any, *conditions: ConditionInput) -> Callable[[], Any]:
    """A function that gives the shapes of a network's parameters."""
    noisy = streams if isinstance(streams, tuple) and not hasattr(streams, "form") else (streams,)
    return lambda: jax.eval_shape(lambda: network.init(jax.random.key(0), noisy, conditions))["params"]


def latent(side: int, channels: int = 4, outputs: int = 0, patch: int = 2) -> NoisyInput:
    """A square latent."""
    return stream("image", (side, side, channels), (patch, patch), outputs or channels)


def uvit_of(size: str, **fields: Any) -> uvit.UVit:
    """A published size."""
    depth, width, heads = uvit.SIZES[size]
    return uvit.UVit(depth=depth, width=width, heads=heads, **fields)


def pixels(side: int, outputs: int) -> NoisyInput:
    """A picture that is not cut into patches."""
    return stream("image", (side, side, 3), (1, 1), outputs)


DIT = tuple(
    (f"{size}/2", shapes(uj.dit_preset(size), latent(32, 4, 8), given("label", 1001))) for size in ("S", "B", "L", "XL")
)
XL = (given("tokens", 2048, 77), given("vector", 1280), given("scalars", 6))
JOINT = (stream("clip", (1, 512), (1,), 512), stream("text", (77, 64), (1,), 64))
TEXTS = (given("vector", 768), given("tokens", 768, 77)._replace(form=ConditionForm("clip", "tokens", 768, 77, "none")))
TEXTS = (*TEXTS, given("tokens", 4096, 77)._replace(form=ConditionForm("t5", "tokens", 4096, 77, "none")))
UNIDIFFUSER = uvit_of("UniDiffuser", norms="post", clocks=("image", "text"))
SYSTEMS = (
    System(
        "DiT, SiT", "adaLN-zero, in-context or cross-attention", DIT, uj.DiT, "original, diffusers",
        ("dit_", "sit_", "diffusers_dit"), "`dit_*`, `sit_*` recipes, `quickstart`",
    ),
    System(
        "LightningDiT", "RMSNorm, SwiGLU, rotations: fields of `DiT`",
        tuple(
            (f"{size}/1", shapes(lightningdit.lightningdit_preset(size), latent(16, 32, patch=1), given("label", 1001)))
            for size in ("B", "L", "XL")
        ),
        uj.DiT, "original", ("lightningdit_", "lightning_"), "`lightningdit_xl1_imagenet256`",
    ),
    System(
        "MDTv2", "long shortcuts, a side block for masked tokens",
        (("XL/2", shapes(mdit.masked_preset("XL"), latent(32, 4, 8), given("label", 1001))),),
        mdit.MaskedDiT, "none read", (), "`MaskedDiffusion`",
    ),
    System(
        "GenTron", "adaLN; CLIP and T5 in turn by cross-attention; the paper counts 930 and 3,083.8 M",
        tuple((f"{size}/2", shapes(gentron.gentron_preset(size), latent(32, 4, 8), *TEXTS)) for size in ("XL", "G")),
        gentron.GenTron, "none published",
    ),
    System(
        "U-Net of DDPM, Stable Diffusion 1, 2 and XL", "levels, cross-attention, added embeddings",
        (
            ("SD 1", shapes(conditional.stable_diffusion("1"), latent(16, patch=1), given("tokens", 768, 77))),
            ("SD 2", shapes(conditional.stable_diffusion("2"), latent(16, patch=1), given("tokens", 1024, 77))),
            ("SD XL", shapes(conditional.stable_diffusion("xl"), latent(16, patch=1), *XL)),
        ),
        unet.network.UNet, "diffusers, CompVis", ("unet_sd", "unet_ddpm", "unet_unclip", "unet_kandinsky", "unet_adm"),
    ),
    System(
        "ADM U-Net, upsampler and classifier", "both orders of queries, keys and values; four pools",
        tuple(
            (f"{side} px", shapes(adm.adm_unet(released, scale_shift=True), pixels(64, 6), given("label", 1000)))
            for side, released in adm.RELEASED.items()
        ),
        adm.Adm, "guided-diffusion", ("adm_",),
    ),
    System(
        "MMDiT (Stable Diffusion 3, 3.5)", "two streams of weights in one attention, dual blocks",
        tuple(
            (name, shapes(network, latent(8, 16), given("tokens", 4096, 2), given("vector", 2048)))
            for name, network in mmdit.RELEASED.items()
        ),
        mmdit.MMDiT, "diffusers", ("sd3_noqk", "sd3_qkrms"),
    ),
    System(
        "Flux", "double, then single blocks, rotary positions",
        (("dev", shapes(
            flux.Flux(), latent(8, 16), given("tokens", 4096, 2), given("vector", 768), given("scalars", 1))),),
        flux.Flux, "diffusers", ("flux_",),
    ),
    System(
        "U-ViT, UniDiffuser", "long skips, any number of streams with times of their own",
        (
            ("H/2", shapes(uvit_of("H"), latent(32), given("label", 1001))),
            ("UniDiffuser-v1", shapes(UNIDIFFUSER, (latent(64), *JOINT), given("label", 2))),
        ),
        uvit.UVit, "original, diffusers", ("uvit_", "diffusers_unidiffuser"), "`JointDiffusion`",
    ),
    System(
        "PixArt-alpha, Sigma", "one modulation for all blocks; compressed keys and values (no reference)",
        (("XL/2", shapes(pixart.PixArt(), latent(32, 4, 8), given("tokens", 4096, 120))),),
        pixart.PixArt, "diffusers", ("pixart_",),
    ),
)  # fmt: skip


def counted(system: System) -> dict[str, int]:
    """Parameters of each size."""
    return {name: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(make())) for name, make in system.sizes}


def passed(system: System, folder: Path) -> dict[str, int]:
    """Rows of the reference outputs by verdict; {} without a reference."""
    rows = [row for beginning in system.goldens for row in certify(folder, beginning)]
    return (
        {verdict: sum(row.verdict.startswith(verdict) for row in rows) for verdict in ("pass", "fail")} if rows else {}
    )


def main() -> None:
    """Counts, compares and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # pyright: ignore[reportOptionalMemberAccess]
    parser.add_argument("--goldens", type=Path)
    asked = parser.parse_args()
    before = {row["system"]: row for row in read("backbones")}
    rows = []
    for system in SYSTEMS:
        file = Path(inspect.getfile(system.network)).relative_to(ROOT).as_posix()
        compared = passed(system, asked.goldens) if asked.goldens else before.get(system.name, {}).get("rows", {})
        rows.append({
            "system": system.name, "special": system.special, "file": file, "parameters": counted(system),
            "weights": system.weights, "reference": bool(system.goldens), "rows": compared, "trained": system.trained,
        })  # fmt: skip
        print(rows[-1], flush=True)
    write("backbones", {"rows": rows})


if __name__ == "__main__":
    main()

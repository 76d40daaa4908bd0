"""Editing by instruction, as InstructPix2Pix does it: a U-Net denoises the edited picture beside the given one.

    unified-jax train caption_encoder && unified-jax train world_autoencoder
    unified-jax data latents runs/world_autoencoder --each channel
    unified-jax train world_instruct
    unified-jax sample --run runs/world_instruct --given.instruction "make it red" --given.image @picture.png

The given picture's latent joins the channels of the noisy one (Brooks et al. 2023, arXiv 2211.09800). The instruction
is read by the encoder of captions, which has never seen one: a new value is named by the words that captions use.
Guidance has two scales, the picture's first, then the instruction's: `--axes image=1.5 instruction=3`.

Goals, set before the run, on 1,024 edits of the split held_out: the named attribute has its new value in at least 0.90
of the pictures, the others are kept in as many (lower ends of the 95 % intervals).
Hardware: two CPU cores, twenty minutes after the two others. Measured figures are in docs/measurements.md.
"""

import dataclasses
import runpy
from pathlib import Path
from typing import Any

import unified_jax as uj

BASE = Path(__file__).parent / "world_control.py"


def experiment(
    autoencoder: str = "runs/world_autoencoder",
    encoder: str = "runs/caption_encoder",
) -> uj.Experiment:
    """The U-Net of `world_control`, which reads a picture and an instruction."""
    base: Any = runpy.run_path(str(BASE))["experiment"](True, autoencoder, encoder)
    text, latent = base.model.conditions[0].encoder, base.model.latents.stage
    instruction = dataclasses.replace(text.model.encoder.text, name="instruction")
    axes = (uj.Axis(("image",), 1.5), uj.Axis(("instruction",), 3.0))
    plan = dataclasses.replace(base.preview.plan, guidance=uj.Guidance(axes=axes))
    return dataclasses.replace(
        base,
        model=dataclasses.replace(
            base.model,
            modality=uj.Image(32, 32, name="edited"),
            conditions=(
                uj.Condition(uj.Image(32, 32), encoder=latent, part="map", drop=0.05),
                uj.Condition(instruction, encoder=text, part="pooled", drop=0.05),
            ),
            drop_all=0.05,
        ),
        preview=dataclasses.replace(base.preview, plan=plan),
        evaluate=1024,
    )

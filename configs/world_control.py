"""A ControlNet on the world: a map shows where the object is and its outline, a caption says the rest.

    unified-jax train caption_encoder && unified-jax train world_autoencoder
    unified-jax data latents runs/world_autoencoder --each channel
    unified-jax train world_control --alone --run-dir runs/world_control_base
    unified-jax train world_control --init-from runs/world_control_base
    unified-jax sample --run runs/world_control --given.caption "a red thing" --given.mask @outline.png

First a U-Net learns pictures of one object from the vector of a caption (`--alone`). Then it stays as it is: a copy of
its way down and middle reads the map, and what the copy finds is added by convolutions that are zero at the start
(`networks.unet.controlnet`). The map is halved twice to the size of the latents.

Goals, set before the run (`python benchmarks/control.py runs/world_control --count 1024`), on scenes of the split
held_out with captions that name the colour alone: shape, size and place are those of the map in at least 0.95 each
(lower end of the 95 % interval). With the map of another scene they agree with their own scene as often as two scenes
agree (inside the interval).
Hardware: two CPU cores, ten minutes for the U-Net and ten for the ControlNet.
"""

import dataclasses
from typing import Any

import unified_jax as uj
from unified_jax.networks.unet.controlnet import Controlled, control_of
from unified_jax.networks.unet.levels import Level

NETWORK: Any = uj.UNet(
    down=(Level(48, 1), Level(96, 1)), middle=Level(96, reads="itself", heads=4), scale_shift=True, remat="none"
)


def experiment(
    alone: bool = False,
    autoencoder: str = "runs/world_autoencoder",
    encoder: str = "runs/caption_encoder",
) -> uj.Experiment:
    """The U-Net and its copy, of which the copy is trained; or the U-Net alone."""
    stage = uj.planned_stage("text", encoder, "caption_encoder")
    latent = uj.planned_stage("autoencoder", autoencoder, "world_autoencoder", statistics=True)
    reader: Any = stage.model
    caption = uj.Condition(reader.encoder.text, encoder=stage, part="pooled")
    plan = uj.SamplingPlan(uj.Euler(), steps=32, shift=3.0, guidance=uj.Guidance(2.0))
    whole = uj.Experiment(
        model=uj.Diffusion(
            network=NETWORK,
            process=uj.RectifiedFlow(target="x0", times=uj.times.UniformTimes(shift=3.0)),
            modality=uj.Image(32, 32),
            conditions=(caption,),
            drop_all=0.1,
            latents=uj.Latents(latent),
        ),
        data=uj.World(resolution=32, max_objects=1),
        optimizer=uj.Optimization(
            uj.AdamW(b2=0.99), learning_rate=2e-3, warmup_steps=50, schedule="cosine", final_fraction=0.05,
            clip_norm=1.0,
        ),
        ema=(uj.Ema(decay=0.99),),
        steps=1200,
        batch_size=64,
        checkpoint=uj.Checkpointing(every=300),
        preview=uj.Previews(every=600, count=16, plan=plan),
        validation=uj.Validation(every=300, batches=4),
        evaluate=512,
    )  # fmt: skip
    if alone:
        return whole
    mask = uj.Condition(uj.Image(32, 32, channels=1, name="mask"), "hint")
    model: Any = whole.model
    model = dataclasses.replace(
        model, network=Controlled(NETWORK, control_of(NETWORK, (16, 32, 64))), conditions=(caption, mask)
    )
    return dataclasses.replace(whole, model=model, tuning=uj.Tuning(train=("^control/",)), steps=600)

"""Pictures from free captions: a sentence names one object or two, and leaves out what it likes.

    unified-jax train caption_encoder && unified-jax train world_autoencoder
    unified-jax data latents runs/world_autoencoder --each channel
    unified-jax train world_text
    unified-jax train world_text --backbone dit --run-dir runs/world_text_dit
    unified-jax sample --run runs/world_text --given.caption "a red star and a small blue ring at the top left"

A frozen caption encoder stands beside a U-Net or a transformer, which reads its tokens (by cross-attention, or jointly)
and its vector with the time, and denoises the latents of the world's autoencoder. Where things go, how many there are
and which is which is decided at high noise, so that times lean towards it, in training and in sampling.

The transformers have the same number of parameters within 2 %, the U-Net has 15 % fewer. In as many steps a DiT, with
the loss of the velocity, drew shapes right more often, and counts, colours and places less often.

Goals, set before the runs, on 2,048 captions of the split held_out and seeds 0, 1, 2 of the sampling noise: the lower
end of the 95 % interval of attribute_accuracy and of count_accuracy is at least 0.95.
Hardware: two CPU cores, half an hour after the two others. Measured figures are in docs/measurements.md.
"""

from dataclasses import replace
from typing import Any, Literal

import unified_jax as uj
from unified_jax.networks.unet.levels import Level

Backbone = Literal["unet", "dit", "uvit", "pixart", "mmdit"]


def network(backbone: Backbone) -> Any:
    """A transformer of about 3.35 million parameters, or a U-Net of 2.8."""
    match backbone:
        case "dit":
            return uj.DiT(depth=4, width=192, heads=4, remat="none", unroll=4)
        case "uvit":
            return uj.UVit(depth=6, width=192, heads=6, remat="none")
        case "pixart":
            return uj.PixArt(depth=5, width=192, heads=4, remat="none")
        case "mmdit":
            return uj.MMDiT(depth=4, width=156, heads=4, remat="none")
        case "unet":
            deep = Level(112, 1, reads="tokens", heads=4)
            return uj.UNet(down=(Level(60, 1), deep), middle=deep, scale_shift=True, remat="none")


def optimizer(backbone: Backbone) -> uj.Optimization:
    """Muon is for the matrices of stacked blocks, which a U-Net has not."""
    rule, rate = (uj.AdamW(b2=0.99), 2e-3) if backbone == "unet" else (uj.Muon(b2=0.98), 5e-3)
    return uj.Optimization(
        rule, learning_rate=rate, warmup_steps=50, schedule="cosine", final_fraction=0.05, clip_norm=1.0
    )


def with_backbone(experiment: uj.Experiment, backbone: Backbone) -> uj.Experiment:
    """The experiment with another backbone and its optimizer, for studies."""
    model: Any = experiment.model
    return replace(experiment, model=replace(model, network=network(backbone)), optimizer=optimizer(backbone))


def experiment(
    backbone: Backbone = "unet",
    autoencoder: str = "runs/world_autoencoder",
    encoder: str = "runs/caption_encoder",
) -> uj.Experiment:
    """The world of one object or two from captions; runs of the two recipes before it."""
    stage = uj.planned_stage("text", encoder, "caption_encoder")
    latent = uj.planned_stage("autoencoder", autoencoder, "world_autoencoder", statistics=True)
    reader: Any = stage.model
    text = reader.encoder.text
    plan = uj.SamplingPlan(uj.Euler(), steps=32, shift=3.0, guidance=uj.Guidance(2.0))
    return uj.Experiment(
        model=uj.Diffusion(
            network=network(backbone),
            process=uj.RectifiedFlow(target="x0", times=uj.times.UniformTimes(shift=3.0)),
            modality=uj.Image(32, 32),
            conditions=(
                uj.Condition(text, encoder=stage),
                uj.Condition(text, "caption_vector", encoder=stage, part="pooled"),
            ),
            drop_all=0.1,
            latents=uj.Latents(latent),
        ),
        data=uj.World(resolution=32),
        optimizer=optimizer(backbone),
        ema=(uj.Ema(decay=0.995),),
        steps=2500,
        batch_size=64,
        log_every=20,
        checkpoint=uj.Checkpointing(every=500),
        preview=uj.Previews(every=500, count=16, plan=plan),
        validation=uj.Validation(every=250, batches=8),
        evaluate=512,
    )

"""An autoencoder of the world's pictures, a fourth of their sides and four channels: the latent space of small models.

    unified-jax train world_autoencoder
    unified-jax train world_autoencoder --size 64 --run-dir runs/world_autoencoder64
    unified-jax evaluate --run runs/world_autoencoder
    uj.Latents(uj.stage("ae", "runs/world_autoencoder"), patch=1)      # in a recipe of a diffusion model

0.14 GFLOP forward at 32 pixels, 0.55 at 64. What the reconstruction resembles is measured by pixels and by random
filters. `--also` shapes the latents: "vf" by features of `world_encoder --no-labels`, "scale" by scale equivariance.
Hardware: two CPU cores, about five minutes. Measured figures are in docs/measurements.md.
"""

from typing import Any, Literal

import unified_jax as uj

ae = uj.autoencoders


def experiment(
    size: int = 32,
    channels: int = 4,
    also: Literal["none", "vf", "scale"] = "none",
    teacher: str = "runs/world_masked",
) -> uj.Experiment:
    """KL, f4, without an adversary."""
    more: dict[str, tuple[Any, ...]] = {"none": (), "vf": (), "scale": (ae.ScaleEquivariance(),)}
    if also == "vf":
        more["vf"] = (ae.VisionFeatures(uj.planned_stage("teacher", teacher, "world_encoder")),)
    levels = ae.Levels(latents=channels, widths=(16, 32, 64), blocks=1, groups=2, middle_attention=False)
    return uj.Experiment(
        model=uj.Autoencoder(
            uj.Autoencoding(ae.KlAutoencoder(levels), (size, size, 3)),
            uj.Image(size, size),
            (ae.Pixels("l2"), ae.Perceptual(weight=0.1), ae.Kl(1e-6), *more[also]),
            logvar=-6.0,
        ),
        data=uj.World(resolution=size),
        optimizer=uj.Optimization(
            uj.AdamW(b2=0.99),
            learning_rate=3e-3,
            warmup_steps=50,
            schedule="cosine",
            final_fraction=0.02,
            clip_norm=1.0,
        ),
        ema=(uj.Ema(decay=0.99),),
        steps=2000,
        batch_size=8,
        checkpoint=uj.Checkpointing(every=500),
        preview=uj.Previews(every=500, count=16),
        validation=uj.Validation(every=500, batches=4),
        evaluate=256,
    )

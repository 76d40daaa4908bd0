"""LightningDiT-XL/1 on ImageNet at 256 px (Yao, Yang & Wang 2025): VA-VAE's f16 latents of 32 channels, 64 epochs.

    unified-jax train lightningdit_xl1_imagenet256 --data.path DATA --vae VAE --statistics latents_stats.pt \\
        --mesh.fsdp 8

DATA as in dit_xl2_imagenet256. VAE is the published file of VA-VAE, which does not hold the mean and standard deviation
of its 32 channels over the training set: the authors' latents_stats.pt, or a file of `unified-jax data latents`, does
(docs/latents.md). Without one, latents stay as they are.

Hardware: accelerators only. The paper reports FID-50K 5.14 after these 80,000 steps of 1,024 examples without guidance,
2.11 with guidance 10 at times up to 0.89 (their figures; nothing was measured here). The published model guides three
of its 32 channels, and so do the samples here; `--preview.plan.guidance.channels 0` guides all.
"""

import unified_jax as uj
from unified_jax.models.released_latents import VA_VAE, channel_statistics, vavae_latents
from unified_jax.networks.lightningdit import flow, lightningdit_preset


def experiment(vae: str = VA_VAE, statistics: str = "", classes: int = 1000) -> uj.Experiment:
    """Patch 1 on 16 x 16 latents: direction loss, logit-normal times, AdamW 2e-4 with beta2 0.95, EMA 0.9999."""
    scale, shift = channel_statistics(statistics) if statistics else ((1.0,), (0.0,))
    guidance = uj.Guidance(10.0, high=0.89, channels=3)
    return uj.Experiment(
        model=uj.Diffusion(
            network=lightningdit_preset("XL", dtype="bfloat16"),
            process=flow(),
            modality=uj.Image(256, 256, 3, patch=16, fit="center_crop"),
            conditions=(uj.Label("label", classes),),
            drop_all=0.1,
            flip=True,
            latents=vavae_latents(vae, scale=scale, shift=shift, rows=8),
        ),
        data=uj.Files(),
        optimizer=uj.Optimization(uj.AdamW(b2=0.95), learning_rate=2e-4),
        ema=(uj.Ema(decay=0.9999, warmup="constant"),),
        steps=80_000,
        batch_size=1024,
        log_every=100,
        checkpoint=uj.Checkpointing(every=10_000, keep=3),
        preview=uj.Previews(
            every=20_000, count=16, plan=uj.SamplingPlan(uj.Euler(), steps=249, shift=1 / 0.3, guidance=guidance)
        ),
    )

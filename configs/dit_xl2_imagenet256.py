"""DiT-XL/2 on ImageNet at 256 px: the published recipe (Peebles & Xie 2022), 675 M parameters.

    unified-jax train dit_xl2_imagenet256 --data.path DATA --vae VAE --mesh.fsdp 8

DATA is a folder with a folder of pictures for each class, tars, or a set that TFDS wrote (imagenet2012/5.1.0): pictures
of any size, cropped at the centre; `--classes N` for another number of classes. VAE is Stable Diffusion's autoencoder:
a folder of diffusers (sd-vae-ft-mse or -ema), or a file. Pictures are mirrored, then encoded; latents are drawn anew in
every step. Everything from pictures to FID, and the published weights: docs/latents.md.

Hardware: accelerators only. The paper trains 7 M steps of 256 examples; 400 k steps gave FID-50K 19.5 without
guidance, 7 M steps 2.27 with guidance 1.5 (their figures; nothing was measured here).
"""

import unified_jax as uj
from unified_jax.models.released_latents import SD_VAE, sd_latents


def experiment(vae: str = SD_VAE, size: int = 256, classes: int = 1000) -> uj.Experiment:
    """Patch 2 on the f8 latents of 4 channels, linear betas, learned range, AdamW 1e-4, EMA 0.9999, flips."""
    plan = uj.SamplingPlan(uj.Ddpm(), steps=250, guidance=uj.Guidance(1.5, channels=3))
    return uj.Experiment(
        model=uj.Diffusion(
            network=uj.dit_preset("XL", dtype="bfloat16"),
            process=uj.DiscreteGaussian(schedule="linear", variance="learned_range"),
            modality=uj.Image(size, size, 3, patch=16, fit="center_crop"),
            conditions=(uj.Label("label", classes),),
            drop_all=0.1,
            flip=True,
            latents=sd_latents(vae, size, rows=8),
        ),
        data=uj.Files(),
        optimizer=uj.Optimization(learning_rate=1e-4),
        ema=(uj.Ema(decay=0.9999, warmup="constant"),),
        steps=7_000_000,
        batch_size=256,
        log_every=100,
        checkpoint=uj.Checkpointing(every=10_000, keep=3),
        preview=uj.Previews(every=50_000, count=16, plan=plan),
    )

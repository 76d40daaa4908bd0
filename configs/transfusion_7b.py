"""Transfusion 7B as published (Zhou et al. 2024): text and pictures of 256 px, rows of 4,096 tokens.

    unified-jax train transfusion_7b --data.path DATA --vae VAE --mesh.fsdp 64

DATA holds pictures with captions (docs/data.md). Pictures are 32 x 32 latents in patches of 2 x 2, 256 tokens. The
paper trained an autoencoder of 8 channels of its own, which is not published: VAE is Stable Diffusion's (4 channels), a
folder of diffusers or a file; another one, also a run of yours, stands in its place in a copy of this file. The linear
layers between patches and tokens are the paper's smaller model; its 7B has U-Net blocks there (`Stream.embedder`).
Hardware: a pod; not run. `plan` needs neither DATA nor VAE.
"""

import unified_jax as uj
from unified_jax.models.released_latents import SD_VAE, sd_latents


def experiment(vae: str = SD_VAE) -> uj.Experiment:
    """The paper's trunk, masks, losses and optimizer."""
    return uj.Experiment(
        model=uj.Transfusion(
            network=uj.trunk_preset("7B"),
            text=uj.Text(512, too_long="crop"),
            streams=(
                uj.Stream(
                    uj.Image(256, 256, 3, patch=16, fit="center_crop"),
                    uj.DiscreteGaussian(schedule="squared_cosine"),
                    latents=sd_latents(vae, 256, rows=8),
                ),
            ),
            length=4096,
            documents=uj.Documents(order="random", clean=0.0, noise_limit=0.5, per_row=8),
        ),
        data=uj.Files(),
        optimizer=uj.Optimization(
            uj.AdamW(b1=0.9, b2=0.95, weight_decay=0.1),
            learning_rate=3e-4,
            warmup_steps=4000,
            schedule="cosine",
            final_fraction=0.05,
            clip_norm=1.0,
        ),
        balance=uj.FixedBalance((("image", 5.0),)),
        steps=250_000,
        batch_size=4096,
        preview=uj.Previews(every=0, plan=uj.SamplingPlan(uj.Ddpm(), steps=250, guidance=uj.Guidance(5.0))),
    )

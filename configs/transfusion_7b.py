"""Transfusion 7B as published (Zhou et al. 2024): text and pictures of 256 px, rows of 4,096 tokens. Compile-only.

    python train.py transfusion_7b

Hardware: a pod; not run. It waits for the autoencoder room (pictures are 32 x 32 latents of 8 channels, 2 x 2 patches)
and for a set of captioned pictures: the data below is the world, so that its shapes can be compiled.
"""

import unified_jax as uj


def experiment() -> uj.Experiment:
    """The paper's trunk, masks, losses and optimizer."""
    return uj.Experiment(
        model=uj.Transfusion(
            network=uj.trunk_preset("7B"),
            text=uj.Text(512),
            streams=(uj.Stream(uj.Image(32, 32, 3, patch=2), uj.DiscreteGaussian(schedule="squared_cosine")),),
            length=4096,
            documents=uj.Documents(order="random", clean=0.0, noise_limit=0.5, per_row=8),
        ),
        data=uj.World(resolution=32),
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
        preview=uj.Previews(every=0, plan=uj.Plan(uj.Ddpm(), steps=250, guidance=uj.Guidance(5.0))),
    )

"""DiT-XL/2 on ImageNet at 256 px: the published recipe (Peebles & Xie 2022), 675 M parameters.

    python train.py dit_xl2_imagenet256 --data.data-dir DIR --mesh.fsdp 8

Hardware: accelerators only. The paper trains 7 M steps of 256 examples; 400 k steps gave FID-50K 19.5 without
guidance, 7 M steps 2.27 with guidance 1.5 (their figures; nothing was measured here).

It waits for the autoencoder room: until pixels can be turned into latents here, DIR must hold a TFDS set
`imagenet256_latents` with features image (uint8 [32, 32, 4], the 8-fold VAE's latents mapped linearly from [-1, 1])
and label.
"""

import unified_jax as uj


def experiment() -> uj.Experiment:
    """Patch 2 on 32 x 32 x 4 latents, linear betas, learned range, AdamW 1e-4, EMA 0.9999, horizontal flips."""
    return uj.Experiment(
        model=uj.Diffusion(
            network=uj.dit_preset("XL", dtype="bfloat16"),
            process=uj.DiscreteGaussian(schedule="linear", variance="learned_range"),
            modality=uj.Image(32, 32, 4, patch=2),
            conditions=(uj.Label("label", 1000),),
            drop_all=0.1,
            flip=True,
        ),
        data=uj.Tfds("imagenet256_latents"),
        optimizer=uj.Optimization(learning_rate=1e-4),
        ema=(uj.Ema(decay=0.9999, warmup="constant"),),
        steps=7_000_000,
        batch_size=256,
        log_every=100,
        checkpoint=uj.Checkpointing(every=10_000, keep=3),
        preview=uj.Previews(every=50_000, count=16, plan=uj.Plan(uj.Ddpm(), steps=250, guidance=uj.Guidance(1.5))),
    )

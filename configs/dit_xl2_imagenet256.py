"""DiT-XL/2 on ImageNet at 256 px: the published recipe (Peebles & Xie 2022), 675 M parameters.

    python train.py dit_xl2_imagenet256 --data.data-dir DIR --mesh.fsdp 8

Hardware: accelerators only. The paper trains 7 M steps of 256 examples; 400 k steps gave FID-50K 19.5 without
guidance, 7 M steps 2.27 with guidance 1.5 (their figures; nothing was measured here).

It waits for the autoencoder room: until pixels can be turned into latents here, DIR must hold a TFDS set
`imagenet256_latents` with features image (uint8 [32, 32, 4], the 8-fold VAE's latents mapped linearly from [-1, 1])
and label.
"""

from unified_jax.data.tfds import Tfds
from unified_jax.modalities.image import Image
from unified_jax.modalities.label import Label
from unified_jax.models.diffusion import Diffusion
from unified_jax.networks.dit import preset
from unified_jax.processes.gaussian import DiscreteGaussian
from unified_jax.samplers.choice import Ddpm
from unified_jax.samplers.guidance import Guidance
from unified_jax.samplers.plan import Plan
from unified_jax.training.ema import Ema
from unified_jax.training.experiment import Checkpointing, Experiment, Previews
from unified_jax.training.optimizer import Optimization


def experiment() -> Experiment:
    """Patch 2 on 32 x 32 x 4 latents, linear betas, learned range, AdamW 1e-4, EMA 0.9999, horizontal flips."""
    return Experiment(
        model=Diffusion(
            network=preset("XL", dtype="bfloat16"),
            process=DiscreteGaussian(schedule="linear", variance="learned_range"),
            modality=Image(32, 32, 4, patch=2),
            conditions=(Label("label", 1000),),
            drop_all=0.1,
            flip=True,
        ),
        data=Tfds("imagenet256_latents"),
        optimizer=Optimization(learning_rate=1e-4),
        ema=(Ema(decay=0.9999, warmup="constant"),),
        steps=7_000_000,
        batch_size=256,
        log_every=100,
        checkpoint=Checkpointing(every=10_000, keep=3),
        preview=Previews(every=50_000, count=16, plan=Plan(Ddpm(), steps=250, guidance=Guidance(1.5))),
    )

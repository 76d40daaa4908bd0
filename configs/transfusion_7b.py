"""Transfusion 7B as published (Zhou et al. 2024): text and pictures of 256 px, rows of 4,096 tokens. Compile-only.

    python train.py transfusion_7b

Hardware: a pod; not run. It waits for the autoencoder room (pictures are 32 x 32 latents of 8 channels, 2 x 2 patches)
and for a set of captioned pictures: the data below is the world, so that its shapes can be compiled.
"""

from unified_jax.data.packing import Documents
from unified_jax.data.world import World
from unified_jax.modalities.image import Image
from unified_jax.modalities.text import Text
from unified_jax.models.transfusion import Stream, Transfusion
from unified_jax.networks.transfusion import preset
from unified_jax.processes.gaussian import DiscreteGaussian
from unified_jax.samplers.choice import Ddpm
from unified_jax.samplers.guidance import Guidance
from unified_jax.samplers.plan import Plan
from unified_jax.training.algorithms import AdamW
from unified_jax.training.balancing import FixedBalance
from unified_jax.training.experiment import Experiment, Previews
from unified_jax.training.optimizer import Optimization


def experiment() -> Experiment:
    """The paper's trunk, masks, losses and optimizer."""
    return Experiment(
        model=Transfusion(
            network=preset("7B"),
            text=Text(512),
            streams=(Stream(Image(32, 32, 3, patch=2), DiscreteGaussian(schedule="squared_cosine")),),
            length=4096,
            documents=Documents(order="random", clean=0.0, noise_limit=0.5, per_row=8),
        ),
        data=World(resolution=32),
        optimizer=Optimization(
            AdamW(b1=0.9, b2=0.95, weight_decay=0.1),
            learning_rate=3e-4,
            warmup_steps=4000,
            schedule="cosine",
            final_fraction=0.05,
            clip_norm=1.0,
        ),
        balance=FixedBalance((("image", 5.0),)),
        steps=250_000,
        batch_size=4096,
        preview=Previews(every=0, plan=Plan(Ddpm(), steps=250, guidance=Guidance(5.0))),
    )

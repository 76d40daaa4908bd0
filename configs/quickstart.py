"""A first model in five minutes: draw a shape of a given colour, size and place (the world, 32 px, rectified flow).

    python train.py quickstart

Hardware: two CPU cores. Measured figures are in docs/measurements.md.
"""

from unified_jax.data.world import World
from unified_jax.data.world.scene import ATTRIBUTES
from unified_jax.modalities.image import Image
from unified_jax.modalities.label import Label
from unified_jax.models.diffusion import Diffusion
from unified_jax.networks.dit import DiT
from unified_jax.processes.interpolant import RectifiedFlow
from unified_jax.samplers.choice import Euler
from unified_jax.samplers.guidance import Guidance
from unified_jax.samplers.plan import Plan
from unified_jax.training.algorithms import Muon
from unified_jax.training.ema import Ema
from unified_jax.training.experiment import Checkpointing, Experiment, Previews, Validation
from unified_jax.training.optimizer import Optimization


def experiment() -> Experiment:
    """Attribute-conditional DiT on the world: one object, anywhere in its cell, so that no picture is seen twice."""
    shown = tuple(Label(name, len(values), values) for name, values in ATTRIBUTES if name != "motion")
    return Experiment(
        model=Diffusion(
            network=DiT(depth=4, width=192, heads=4, label_std=0.25, remat="none", unroll=4),
            process=RectifiedFlow(target="x0"),
            modality=Image(32, 32, 3, patch=8),
            conditions=shown,
            drop_all=0.1,
            drop_some=0.1,
        ),
        data=World(resolution=32, max_objects=1),
        # Muon: at this length it reaches with 1,000 steps what Adam does not with 2,000 (docs/decisions/0004).
        optimizer=Optimization(
            Muon(b2=0.98), learning_rate=5e-3, warmup_steps=50, schedule="cosine", final_fraction=0.05, clip_norm=1.0
        ),
        ema=(Ema(decay=0.995),),
        steps=1500,
        batch_size=64,
        log_every=20,
        checkpoint=Checkpointing(every=500),
        preview=Previews(every=500, count=16, plan=Plan(Euler(), steps=25, guidance=Guidance(2.0))),
        validation=Validation(every=750, batches=4),
        evaluate=512,
    )

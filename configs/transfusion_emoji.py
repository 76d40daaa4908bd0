"""Transfusion on emoji: captions and 64 px pictures, either from the other.

    python train.py transfusion_emoji --data.data-dir ../shared/data/tfds
    python sample.py --run runs/transfusion_emoji --given.caption "red apple" --generate image

Hardware: one GPU; two CPU cores do a step in some seconds. Not measured yet. Needs a TFDS set uj_emoji with the
features caption and image.
"""

from unified_jax.data.packing import Documents
from unified_jax.data.tfds import Tfds
from unified_jax.modalities.image import Image
from unified_jax.modalities.text import Text
from unified_jax.models.transfusion import Stream, Transfusion
from unified_jax.networks.transfusion import Trunk
from unified_jax.processes.interpolant import RectifiedFlow
from unified_jax.samplers.choice import Euler
from unified_jax.samplers.guidance import Guidance
from unified_jax.samplers.plan import Plan
from unified_jax.training.algorithms import Muon
from unified_jax.training.balancing import FixedBalance
from unified_jax.training.ema import Ema
from unified_jax.training.experiment import Checkpointing, Experiment, Previews, Validation
from unified_jax.training.optimizer import Optimization


def experiment() -> Experiment:
    """Captions as bytes, pictures in 64 patches, in random order; pictures before a caption are at most half noise."""
    return Experiment(
        model=Transfusion(
            network=Trunk(depth=8, width=256, heads=4),
            text=Text(64),
            streams=(Stream(Image(64, 64, 3, patch=8), RectifiedFlow(target="x0")),),
            length=272,
            documents=Documents(order="random", clean=0.3, noise_limit=0.5, per_row=2),
        ),
        data=Tfds("uj_emoji"),
        optimizer=Optimization(Muon(b2=0.98), learning_rate=4e-3, warmup_steps=100, clip_norm=1.0),
        ema=(Ema(decay=0.999),),
        balance=FixedBalance((("image", 5.0),)),
        steps=20_000,
        batch_size=64,
        checkpoint=Checkpointing(every=500),
        preview=Previews(every=500, count=16, plan=Plan(Euler(), steps=50, guidance=Guidance(3.0))),
        validation=Validation(every=1000, batches=2),
    )

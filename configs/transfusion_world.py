"""Transfusion on the world: captions, pictures, films, sounds and clouds of points, any of them from any others.

    python train.py transfusion_world

Hardware: two CPU cores, 45 minutes. Measured figures are in docs/measurements.md.
"""

from unified_jax.data.packing import Documents
from unified_jax.data.world import World
from unified_jax.modalities.audio import Audio
from unified_jax.modalities.image import Image
from unified_jax.modalities.points import Points
from unified_jax.modalities.text import Text, learn_bpe
from unified_jax.modalities.video import Video
from unified_jax.models.transfusion import Stream, Transfusion
from unified_jax.networks.transfusion import Trunk
from unified_jax.processes.interpolant import RectifiedFlow
from unified_jax.processes.times import UniformTimes
from unified_jax.samplers.choice import Euler
from unified_jax.samplers.guidance import Guidance
from unified_jax.samplers.plan import Plan
from unified_jax.training.algorithms import Muon
from unified_jax.training.balancing import FixedBalance
from unified_jax.training.ema import Ema
from unified_jax.training.experiment import Checkpointing, Experiment, Previews, Validation
from unified_jax.training.optimizer import Optimization

WORLD = World(resolution=32, max_objects=1, jitter=False)


def experiment() -> Experiment:
    """Five modalities of one object, any subset a document; the long film less often than caption and image."""
    captions = WORLD.source("train", ("caption",))
    # What a scene is like is decided at high noise, so training and sampling spend their time there.
    process = RectifiedFlow(target="x0", times=UniformTimes(shift=3.0))
    modalities = (Image(32, 32, 3, patch=8), Video(8, 32, 32, 3, (4, 8, 8)), Audio(patch=(11, 16)), Points(256, 6, 16))
    return Experiment(
        model=Transfusion(
            network=Trunk(depth=6, width=192, heads=4, remat="none", unroll=6),
            text=Text(40, learn_bpe((str(captions[i]["caption"]) for i in range(2000)), 384)),
            streams=tuple(Stream(modality, process) for modality in modalities),
            length=320,
            documents=Documents(
                text_first=0.35,
                text_last=0.15,
                keep=0.5,
                whole=0.12,
                keep_of=(("caption", 0.9), ("image", 0.85), ("video", 0.4)),
                clean=0.3,
                alone=0.1,
                noise_limit=0.5,
                per_row=5,
            ),
        ),
        data=WORLD,
        optimizer=Optimization(
            Muon(b2=0.98), learning_rate=5e-3, warmup_steps=100, schedule="cosine", final_fraction=0.05, clip_norm=1.0
        ),
        ema=(Ema(decay=0.995),),
        # The errors of x0 are small beside the text's cross-entropy.
        balance=FixedBalance((("text", 2.0), ("image", 45.0), ("video", 30.0), ("audio", 5.0), ("points", 10.0))),
        steps=2100,
        batch_size=60,
        log_every=40,
        checkpoint=Checkpointing(every=300),
        preview=Previews(every=1050, count=8, plan=Plan(Euler(), steps=25, guidance=Guidance(2.5), shift=3.0)),
        validation=Validation(every=1050, batches=4),
        evaluate=128,
    )

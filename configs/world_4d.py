"""Transfusion on the moving world: captions, films of 16 frames, their depth and their sound.

    python train.py world_4d

Hardware: one GPU. Not measured yet.
"""

from unified_jax.data.packing import Documents
from unified_jax.data.world import World
from unified_jax.modalities.audio import Audio
from unified_jax.modalities.depth import Depth
from unified_jax.modalities.text import Text, learn_bpe
from unified_jax.modalities.video import Video
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

WORLD = World(resolution=32, max_objects=1, frames=16)


def experiment() -> Experiment:
    """Every document holds all four, in random order."""
    captions = WORLD.source("train", ("caption",))
    process = RectifiedFlow(target="x0")
    modalities = (Video(16, 32, 32, 3, (4, 8, 8)), Depth(16, 32, 32, (4, 8, 8)), Audio(patch=(11, 16)))
    return Experiment(
        model=Transfusion(
            network=Trunk(depth=8, width=256, heads=4),
            text=Text(32, learn_bpe((str(captions[i]["caption"]) for i in range(2000)), 384)),
            streams=tuple(Stream(modality, process) for modality in modalities),
            length=192,
            documents=Documents(order="random"),
        ),
        data=WORLD,
        optimizer=Optimization(Muon(b2=0.98), learning_rate=4e-3, warmup_steps=100, schedule="cosine", clip_norm=1.0),
        ema=(Ema(decay=0.999),),
        balance=FixedBalance((("video", 20.0), ("depth", 20.0), ("audio", 10.0))),
        steps=20_000,
        batch_size=64,
        checkpoint=Checkpointing(every=500),
        preview=Previews(every=1000, count=8, plan=Plan(Euler(), steps=50, guidance=Guidance(2.0))),
        validation=Validation(every=1000, batches=2),
        evaluate=128,
    )

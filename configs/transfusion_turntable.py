r"""Transfusion on turning fruit: a caption and a first frame become a film.

    python train.py transfusion_turntable --data.data-dir ../shared/data/tfds
    python sample.py --run runs/transfusion_turntable --given.caption "a tomato, rotating on a white background" \
        --given.image @tomato.png --generate video

Hardware: one GPU. Not measured yet. Needs a TFDS set uj_turntable with the features caption and video (16 frames, 64
px).
"""

from unified_jax.data.packing import Documents
from unified_jax.data.tfds import Tfds
from unified_jax.modalities.image import Image
from unified_jax.modalities.text import Text
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


def experiment() -> Experiment:
    """Caption, first frame, film, in this order; the frame is mostly given clean."""
    process = RectifiedFlow(target="x0")
    return Experiment(
        model=Transfusion(
            network=Trunk(depth=8, width=256, heads=4),
            text=Text(64),
            streams=(Stream(Image(64, 64, 3, patch=8), process), Stream(Video(16, 64, 64, 3, (4, 8, 8)), process)),
            length=400,
            documents=Documents(order="given", clean=0.4),
        ),
        data=Tfds("uj_turntable", rename=(("image", "video"),)),
        optimizer=Optimization(Muon(b2=0.98), learning_rate=4e-3, warmup_steps=100, clip_norm=1.0),
        ema=(Ema(decay=0.999),),
        balance=FixedBalance((("image", 5.0), ("video", 5.0))),
        steps=10_000,
        batch_size=16,
        checkpoint=Checkpointing(every=500),
        preview=Previews(every=500, count=6, plan=Plan(Euler(), steps=50, guidance=Guidance(2.0))),
        validation=Validation(every=1000, batches=1),
    )

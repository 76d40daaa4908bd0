"""DiT on emoji: 64 px pictures of a given group (nine) and drawing style (two), rectified flow predicting x0.

    python train.py dit_emoji --data.data-dir ../shared/data/tfds

Hardware: one GPU; it also starts on two CPU cores, slowly. Not measured yet.
Needs a TFDS set uj_emoji with features image, label (the group) and style under --data.data-dir.
"""

from unified_jax.data.tfds import Tfds
from unified_jax.modalities.image import Image
from unified_jax.modalities.label import Label
from unified_jax.models.diffusion import Diffusion
from unified_jax.networks.dit import DiT
from unified_jax.processes.interpolant import RectifiedFlow
from unified_jax.processes.times import LogitNormalTimes
from unified_jax.samplers.choice import Euler
from unified_jax.samplers.guidance import Guidance
from unified_jax.samplers.plan import Plan
from unified_jax.training.algorithms import Muon
from unified_jax.training.ema import Ema
from unified_jax.training.experiment import Checkpointing, Experiment, Previews, Validation
from unified_jax.training.optimizer import Optimization

GROUPS = (
    *("Activities", "Animals & Nature", "Flags", "Food & Drink", "Objects"),
    *("People & Body", "Smileys & Emotion", "Symbols", "Travel & Places"),
)


def experiment() -> Experiment:
    """64 tokens of 8 x 8 pixels; x0 is predicted, because a patch holds more numbers than a narrow network carries."""
    return Experiment(
        model=Diffusion(
            network=DiT(depth=6, width=256, heads=4, label_std=0.25, unroll=6),
            process=RectifiedFlow(target="x0", loss="velocity", times=LogitNormalTimes(mean=0.5)),
            modality=Image(64, 64, 3, patch=8),
            conditions=(Label("group", 9, GROUPS), Label("style", 2, ("noto", "twemoji"))),
            drop_some=0.2,
        ),
        data=Tfds("uj_emoji", rename=(("group", "label"),)),
        optimizer=Optimization(Muon(b2=0.98), learning_rate=4e-3, warmup_steps=100, clip_norm=1.0),
        ema=(Ema(decay=0.999),),
        steps=20_000,
        batch_size=32,
        checkpoint=Checkpointing(every=500),
        preview=Previews(every=500, count=18, plan=Plan(Euler(), steps=50, guidance=Guidance(3.0))),
        validation=Validation(every=1000, batches=2),
        evaluate=256,
    )

"""Transfusion on spoken digits: the word and its sound, either from the other.

    python train.py transfusion_spoken_digit --data.data-dir ../shared/data/tfds
    python sample.py --run runs/transfusion_spoken_digit --given.caption seven --generate audio

Hardware: one GPU; two CPU cores do a step in a second or two. Not measured yet. Needs a TFDS set uj_spoken_digit with
the features label (0 to 9) and audio (int16, 8 kHz); what is longer than a second is cut off.
"""

from unified_jax.data.packing import Documents
from unified_jax.data.tfds import Tfds
from unified_jax.modalities.audio import Audio
from unified_jax.modalities.mel import Mel
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

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def experiment() -> Experiment:
    """Speech wants a frame every 16 ms: 63 frames of 64 bands in 8 x 8 patches, 64 tokens."""
    return Experiment(
        model=Transfusion(
            network=Trunk(depth=8, width=256, heads=4),
            text=Text(5, names=DIGITS),
            streams=(
                Stream(
                    Audio(8000, Mel(rate=8000, n_fft=512, hop=127, mels=64), patch=(8, 8), crop=True),
                    RectifiedFlow(target="x0"),
                ),
            ),
            length=152,
            documents=Documents(order="random", clean=0.3, per_row=2),
        ),
        data=Tfds("uj_spoken_digit", rename=(("caption", "label"),)),
        optimizer=Optimization(Muon(b2=0.98), learning_rate=4e-3, warmup_steps=100, clip_norm=1.0),
        ema=(Ema(decay=0.999),),
        balance=FixedBalance((("audio", 5.0),)),
        steps=20_000,
        batch_size=64,
        checkpoint=Checkpointing(every=500),
        preview=Previews(every=500, count=10, plan=Plan(Euler(), steps=50, guidance=Guidance(2.0))),
        validation=Validation(every=1000, batches=2),
    )

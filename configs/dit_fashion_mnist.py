"""DiT on Fashion-MNIST: class-conditional, adaLN-Zero, eps with a learned variance (DDPM, 1,000 steps).

    python train.py dit_fashion_mnist --data.data-dir ../shared/data/tfds

Hardware: two CPU cores show clothes of the right class within ten minutes; all 20,000 steps want an accelerator.
Measured figures (of a run stopped after 1,041 steps) are in docs/measurements.md. Needs the TFDS set fashion_mnist
3.0.1 in ArrayRecord format under --data.data-dir.
"""

from unified_jax.data.tfds import Tfds
from unified_jax.modalities.image import Image
from unified_jax.modalities.label import Label
from unified_jax.models.diffusion import Diffusion
from unified_jax.networks.dit import DiT
from unified_jax.processes.gaussian import DiscreteGaussian
from unified_jax.samplers.choice import Ddim
from unified_jax.samplers.guidance import Guidance
from unified_jax.samplers.plan import Plan
from unified_jax.training.ema import Ema
from unified_jax.training.experiment import Checkpointing, Experiment, Previews, Validation
from unified_jax.training.optimizer import Optimization

CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)


def experiment() -> Experiment:
    """A small DiT with patches of 4 on 28 x 28 pictures: 49 tokens."""
    return Experiment(
        model=Diffusion(
            network=DiT(depth=4, width=192, heads=4, label_std=0.25, unroll=4),
            process=DiscreteGaussian(schedule="linear", variance="learned_range"),
            modality=Image(28, 28, 1, patch=4),
            conditions=(Label("label", 10, CLASSES),),
        ),
        data=Tfds("fashion_mnist"),
        optimizer=Optimization(learning_rate=1.5e-3, warmup_steps=100, clip_norm=1.0),
        ema=(Ema(decay=0.999),),
        steps=20_000,
        batch_size=32,
        checkpoint=Checkpointing(every=500),
        preview=Previews(every=300, count=20, plan=Plan(Ddim(), steps=25, guidance=Guidance(2.0), clip=True)),
        validation=Validation(every=1000, batches=4),
        evaluate=512,
    )

"""DiT on Fashion-MNIST: class-conditional, adaLN-Zero, eps with a learned variance (DDPM, 1,000 steps).

    unified-jax data get fashion_mnist
    unified-jax train dit_fashion_mnist

Hardware: two CPU cores show clothes of the right class within ten minutes; all 20,000 steps want an accelerator.
Measured figures (of a run stopped after 1,041 steps) are in docs/measurements.md. Needs the TFDS set fashion_mnist
3.0.1 in ArrayRecord format under --data.data-dir.
"""

import unified_jax as uj

CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)


def experiment() -> uj.Experiment:
    """A small DiT with patches of 4 on 28 x 28 pictures: 49 tokens."""
    return uj.Experiment(
        model=uj.Diffusion(
            network=uj.DiT(depth=4, width=192, heads=4, label_std=0.25, unroll=4),
            process=uj.DiscreteGaussian(schedule="linear", variance="learned_range"),
            modality=uj.Image(28, 28, 1, patch=4),
            conditions=(uj.Label("label", 10, CLASSES),),
        ),
        data=uj.Tfds("fashion_mnist"),
        optimizer=uj.Optimization(learning_rate=1.5e-3, warmup_steps=100, clip_norm=1.0),
        ema=(uj.Ema(decay=0.999),),
        steps=20_000,
        batch_size=32,
        checkpoint=uj.Checkpointing(every=500),
        preview=uj.Previews(
            every=300, count=20, plan=uj.SamplingPlan(uj.Ddim(), steps=25, guidance=uj.Guidance(2.0), clip=True)
        ),
        validation=uj.Validation(every=1000, batches=4),
        evaluate=512,
    )

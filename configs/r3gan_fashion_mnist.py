"""R3GAN on Fashion-MNIST, by class: the relativistic loss with R1 and R2, and the paper's schedules, at a small size.

    unified-jax data get fashion_mnist
    unified-jax train r3gan_fashion_mnist
    unified-jax sample --run runs/r3gan_fashion_mnist --given.label Sneaker

Hardware: an accelerator for all 20,000 steps, where widths can grow (the paper's networks for 32 pixels have four
stages of 768 channels in 96 groups, two blocks each). Looked at after 1,276 steps with `--decay 2000`, half an hour of
one CPU core, all that was trained so far: boots, sneakers, trousers and tops are recognised, bags and sandals are not.
Needs the TFDS set fashion_mnist 3.0.1 in ArrayRecord format under --data.data-dir.
"""

import unified_jax as uj

CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
WIDTHS, GROUPS, BLOCKS = (64, 32, 16), (16, 8, 4), (1, 1, 1)
"""Of the stages of 7, 14 and 28 pixels."""


def experiment(decay: int = 15_000) -> uj.Experiment:
    """Schedules end after `decay` steps: gamma 0.5 to 0.05, rate 4e-4 to 1e-4, b2 0.9 to 0.99, the EMA's half-life."""
    return uj.Experiment(
        model=uj.Gan(
            uj.R3ganGenerator(WIDTHS, GROUPS, BLOCKS, classes=10, embedding=32, channels=1, base=7, latent=64),
            uj.R3ganDiscriminator(
                WIDTHS[::-1], GROUPS[::-1], BLOCKS[::-1], classes=10, embedding=32, channels=1, base=7
            ),
            uj.Image(28, 28, 1, patch=4),
            uj.Label("label", 10, CLASSES),
            gamma=uj.Cosine(0.5, 0.05, decay),
        ),
        data=uj.Tfds("fashion_mnist"),
        optimizer=uj.Optimization(
            uj.AdamW(b1=0.0, b2=0.9, b2_end=0.99, b2_steps=decay),
            learning_rate=4e-4, schedule="cosine", final_fraction=0.25,
        ),
        ema=(uj.Ema(warmup="half-life", half_life=500.0, over=decay),),
        steps=20_000,
        batch_size=32,
        checkpoint=uj.Checkpointing(every=500),
        preview=uj.Previews(every=500, count=20),
        evaluate=512,
    )  # fmt: skip

"""A small GAN on a grid of Gaussians in the plane: which losses drop modes (`configs/studies/gan.py`).

    unified-jax train gan_gaussians
    unified-jax train gan_gaussians --no-model.r1 --no-model.r2

Hardware: two CPU cores, two to three minutes. The evaluation at the end counts the modes that samples reach.
"""

import unified_jax as uj


def experiment() -> uj.Experiment:
    """Perceptrons of 128; the relativistic loss with R1 and R2."""
    data = uj.Gaussians(side=5, width=0.01)
    return uj.Experiment(
        model=uj.Gan(
            uj.PerceptronGenerator((1, 2)),
            uj.PerceptronDiscriminator(),
            uj.Action(steps=1, patch=1, name="point"),
            gamma=uj.Cosine(0.1, 0.01, 3000),
        ),
        data=data,
        optimizer=uj.Optimization(
            uj.AdamW(b1=0.0, b2=0.9, b2_end=0.99, b2_steps=3000),
            learning_rate=1e-3, schedule="cosine", final_fraction=0.25,
        ),
        ema=(uj.Ema(warmup="half-life", half_life=100.0, over=3000),),
        steps=4000,
        batch_size=256,
        log_every=100,
        checkpoint=uj.Checkpointing(every=4000),
        preview=uj.Previews(every=0),
        evaluate=2000,
        scores=(uj.Modes(data),),
    )  # fmt: skip

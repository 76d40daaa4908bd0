"""Transfusion on emoji: captions and 64 px pictures, either from the other.

    unified-jax data get emoji
    unified-jax train transfusion_emoji
    unified-jax sample --run runs/transfusion_emoji --given.caption "red apple" --generate image

Hardware: one GPU; two CPU cores do a step in some seconds. Not measured yet. Needs a TFDS set uj_emoji with the
features caption and image.
"""

import unified_jax as uj


def experiment() -> uj.Experiment:
    """Captions as bytes, pictures in 64 patches, in random order; pictures before a caption are at most half noise."""
    return uj.Experiment(
        model=uj.Transfusion(
            network=uj.Trunk(depth=8, width=256, heads=4),
            text=uj.Text(64),
            streams=(uj.Stream(uj.Image(64, 64, 3, patch=8), uj.RectifiedFlow(target="x0")),),
            length=272,
            documents=uj.Documents(order="random", clean=0.3, noise_limit=0.5, per_row=2),
        ),
        data=uj.Tfds("uj_emoji"),
        optimizer=uj.Optimization(uj.Muon(b2=0.98), learning_rate=4e-3, warmup_steps=100, clip_norm=1.0),
        ema=(uj.Ema(decay=0.999),),
        balance=uj.FixedBalance((("image", 5.0),)),
        steps=20_000,
        batch_size=64,
        checkpoint=uj.Checkpointing(every=500),
        preview=uj.Previews(every=500, count=16, plan=uj.SamplingPlan(uj.Euler(), steps=50, guidance=uj.Guidance(3.0))),
        validation=uj.Validation(every=1000, batches=2),
    )

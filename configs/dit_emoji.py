"""DiT on emoji: 64 px pictures of a given group (nine) and drawing style (two), rectified flow predicting x0.

    unified-jax data get emoji
    unified-jax train dit_emoji

Hardware: one GPU; it also starts on two CPU cores, slowly. Not measured yet.
Needs a TFDS set uj_emoji with features image, label (the group) and style under --data.data-dir.
"""

import unified_jax as uj

GROUPS = (
    *("Activities", "Animals & Nature", "Flags", "Food & Drink", "Objects"),
    *("People & Body", "Smileys & Emotion", "Symbols", "Travel & Places"),
)


def experiment() -> uj.Experiment:
    """64 tokens of 8 x 8 pixels; x0 is predicted, because a patch holds more numbers than a narrow network carries."""
    return uj.Experiment(
        model=uj.Diffusion(
            network=uj.DiT(depth=6, width=256, heads=4, label_std=0.25, unroll=6),
            process=uj.RectifiedFlow(target="x0", loss="velocity", times=uj.times.LogitNormalTimes(mean=0.5)),
            modality=uj.Image(64, 64, 3, patch=8),
            conditions=(uj.Label("group", 9, GROUPS), uj.Label("style", 2, ("noto", "twemoji"))),
            drop_some=0.2,
        ),
        data=uj.Tfds("uj_emoji", rename=(("group", "label"),)),
        optimizer=uj.Optimization(uj.Muon(b2=0.98), learning_rate=4e-3, warmup_steps=100, clip_norm=1.0),
        ema=(uj.Ema(decay=0.999),),
        steps=20_000,
        batch_size=32,
        checkpoint=uj.Checkpointing(every=500),
        preview=uj.Previews(every=500, count=18, plan=uj.SamplingPlan(uj.Euler(), steps=50, guidance=uj.Guidance(3.0))),
        validation=uj.Validation(every=1000, batches=2),
        evaluate=256,
    )

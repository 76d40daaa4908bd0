"""Encoders of the world's images, for distances between features: one has seen the labels, the other has not.

    unified-jax train world_encoder
    unified-jax train world_encoder --no-labels --run-dir runs/world_masked

The first names the attributes of the object (the labels' cross-entropy), the second predicts masked patches (SimMIM).
`unified-jax evaluate --run RUN --against test --encoder runs/world_encoder runs/world_masked`. Hardware: two CPU cores,
three minutes each.
"""

import unified_jax as uj


def experiment(labels: bool = True) -> uj.Experiment:
    """A small ViT over 32 x 32 pixels. With labels: a classifier; without: masked patches."""
    vit = uj.Vit(32, 4, width=96, depth=4, heads=4, hidden=384, activation="gelu", patch_bias=True, first_norm=False)
    half = uj.Preprocessing(32, 32, False, "cubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    encoder = uj.ImageEncoder(vit, uj.Image(32, 32), half)
    seen = tuple(uj.Label(name, len(values), values) for name, values in uj.ATTRIBUTES if name != "motion")
    return uj.Experiment(
        model=uj.ImageClassifier(encoder, seen) if labels else uj.MaskedImages(encoder),
        data=uj.World(resolution=32),
        optimizer=uj.Optimization(
            uj.Muon(b2=0.98), learning_rate=5e-3, warmup_steps=50, schedule="cosine", final_fraction=0.05, clip_norm=1.0
        ),
        ema=(uj.Ema(decay=0.99),),
        steps=1000,
        batch_size=64,
        checkpoint=uj.Checkpointing(every=500),
        preview=uj.Previews(every=0),
        validation=uj.Validation(every=500, batches=4),
    )

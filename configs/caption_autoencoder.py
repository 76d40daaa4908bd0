"""Captions as vectors of 32 numbers: the latent space in which `unidiffuser_world` denoises text.

    unified-jax train caption_encoder
    unified-jax train caption_autoencoder

The vector is linear in what the frozen encoder reads out of a caption, the probabilities of an object's labels; a small
GPT-2 behind it writes a caption again, in its own words. The noise on the vectors in training makes it read what a
diffusion model draws. Hardware: two CPU cores, three minutes.
"""

from dataclasses import replace
from typing import Any

import unified_jax as uj


def experiment(encoder: str = "runs/caption_encoder") -> uj.Experiment:
    """`encoder` is a run of `caption_encoder`; until it is there, its recipe's network stands for it."""
    words = uj.planned_stage("words", encoder, "caption_encoder")
    reader: Any = words.model
    text = reader.encoder.text
    words = replace(words, model=replace(reader, objects=(tuple(f"named_{name}" for name, _ in uj.ATTRIBUTES),)))
    network = uj.PrefixDecoder(
        vocabulary=text.vocabulary + 1, length=64, width=96, depth=3, heads=4, hidden=384, latents=32, normalise=True,
    )  # fmt: skip
    return uj.Experiment(
        model=uj.TextAutoencoder(uj.TextCoding(network, words, text), noise=0.5),
        data=uj.World(resolution=32, max_objects=1),
        optimizer=uj.Optimization(
            uj.Muon(b2=0.98), learning_rate=5e-3, warmup_steps=50, schedule="cosine", final_fraction=0.05, clip_norm=1.0
        ),
        ema=(uj.Ema(decay=0.99),),
        steps=1500,
        batch_size=64,
        checkpoint=uj.Checkpointing(every=500),
        preview=uj.Previews(every=500, count=16),
        validation=uj.Validation(every=500, batches=4),
    )

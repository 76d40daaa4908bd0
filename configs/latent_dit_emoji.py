"""DiT on the latents of emoji: 64 px pictures of a given group (nine) and drawing style (two), by an own autoencoder.

    unified-jax data get emoji
    unified-jax train image_autoencoder --data.path data/tfds/uj_emoji/1.0.0 --no-flip --run-dir runs/emoji_autoencoder
    unified-jax data latents runs/emoji_autoencoder                 # scale and shift, kept with the run
    unified-jax train latent_dit_emoji
    unified-jax sample --run runs/latent_dit_emoji --given.group Flags --given.style noto --count 16

The scaled-down twin of `dit_xl2_imagenet256` (docs/latents.md), and `dit_emoji` in a latent space: 64 tokens of 2 x 2
numbers of 4 channels. Until the autoencoder is trained, a dry run and `plan` take the network of its recipe.
Hardware: two CPU cores for a first look; a GPU for more. Measured figures are in docs/measurements.md.
"""

import unified_jax as uj

GROUPS = (
    *("Activities", "Animals & Nature", "Flags", "Food & Drink", "Objects"),
    *("People & Body", "Smileys & Emotion", "Symbols", "Travel & Places"),
)


def experiment(autoencoder: str = "runs/emoji_autoencoder") -> uj.Experiment:
    """The network of `dit_emoji`; `autoencoder` is a run of 64 px."""
    coder = uj.planned_stage("autoencoder", autoencoder, "image_autoencoder")
    return uj.Experiment(
        model=uj.Diffusion(
            network=uj.DiT(depth=6, width=256, heads=4, label_std=0.25, unroll=6),
            process=uj.RectifiedFlow(target="x0", loss="velocity", times=uj.times.LogitNormalTimes(mean=0.5)),
            modality=uj.Image(64, 64, 3),
            conditions=(uj.Label("group", 9, GROUPS), uj.Label("style", 2, ("noto", "twemoji"))),
            drop_some=0.2,
            latents=uj.Latents(coder, patch=2),
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

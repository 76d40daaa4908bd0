"""Transfusion on spoken digits: the word and its sound, either from the other.

    unified-jax data get spoken_digit
    unified-jax train transfusion_spoken_digit
    unified-jax sample --run runs/transfusion_spoken_digit --given.caption seven --generate audio

Hardware: one GPU; two CPU cores do a step in a second or two. Not measured yet. Needs a TFDS set uj_spoken_digit with
the features label (0 to 9) and audio (int16, 8 kHz); what is longer than a second is cut off.
"""

import unified_jax as uj

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def experiment() -> uj.Experiment:
    """Speech wants a frame every 16 ms: 63 frames of 64 bands in 8 x 8 patches, 64 tokens."""
    return uj.Experiment(
        model=uj.Transfusion(
            network=uj.Trunk(depth=8, width=256, heads=4),
            text=uj.Text(5, names=DIGITS),
            streams=(
                uj.Stream(
                    uj.Audio(8000, uj.Mel(rate=8000, n_fft=512, hop=127, mels=64), patch=(8, 8), crop=True),
                    uj.RectifiedFlow(target="x0"),
                ),
            ),
            length=152,
            documents=uj.Documents(order="random", clean=0.3, per_row=2),
        ),
        data=uj.Tfds("uj_spoken_digit", rename=(("caption", "label"),)),
        optimizer=uj.Optimization(uj.Muon(b2=0.98), learning_rate=4e-3, warmup_steps=100, clip_norm=1.0),
        ema=(uj.Ema(decay=0.999),),
        balance=uj.FixedBalance((("audio", 5.0),)),
        steps=20_000,
        batch_size=64,
        checkpoint=uj.Checkpointing(every=500),
        preview=uj.Previews(every=500, count=10, plan=uj.SamplingPlan(uj.Euler(), steps=50, guidance=uj.Guidance(2.0))),
        validation=uj.Validation(every=1000, batches=2),
    )

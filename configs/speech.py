"""Speech of your own with its words: either from the other.

    unified-jax train speech --data.path recordings --seconds 1
    unified-jax sample --run runs/speech --given.caption "seven" --generate audio
    unified-jax sample --run runs/speech --given.audio @seven.wav --generate caption

`recordings` holds sound files with a text beside each, or a metadata.csv (file_name, caption); a table of names and
words: `--data.path list.csv --data.rename audio path caption text`; where the column holds indices, say what they mean:
`--names zero one two`. Sounds of any rate and number of channels are resampled and mixed down; what is longer is cut
off, what is shorter filled up with silence. Hardware: two CPU cores for a first look in ten minutes with words of a
second; a GPU for sentences. Measured figures are in docs/measurements.md.
"""

import unified_jax as uj


def experiment(seconds: float = 1.0, rate: int = 8000, letters: int = 48, names: tuple[str, ...] = ()) -> uj.Experiment:
    """Transfusion of letters and mel spectra: a frame every 16 ms, 64 bands, 8 x 8 to a token."""
    hop = round(rate * 127 / 8000)
    samples, window = round(seconds * rate), 512 * max(1, rate // 8000)
    sound = uj.Audio(
        samples, uj.Mel(rate=rate, n_fft=window, hop=hop, mels=64), patch=(8, 8), crop=True, fit="resample"
    )
    return uj.Experiment(
        model=uj.Transfusion(
            network=uj.Trunk(depth=4, width=192, heads=4),
            text=uj.Text(letters, too_long="crop", names=names),
            streams=(uj.Stream(sound, uj.RectifiedFlow(target="x0")),),
            length=2 * (letters + sound.tokens + 6),
            documents=uj.Documents(order="random", clean=0.3, per_row=2),
        ),
        data=uj.Files(),
        optimizer=uj.Optimization(uj.Muon(b2=0.98), learning_rate=4e-3, warmup_steps=100, clip_norm=1.0),
        ema=(uj.Ema(decay=0.995),),
        balance=uj.FixedBalance((("audio", 5.0),)),
        steps=20_000,
        batch_size=32,
        checkpoint=uj.Checkpointing(every=200),
        preview=uj.Previews(every=500, count=10, plan=uj.SamplingPlan(uj.Euler(), steps=32, guidance=uj.Guidance(2.0))),
        validation=uj.Validation(every=500, batches=2),
    )

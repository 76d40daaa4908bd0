"""An encoder of captions: a small transformer that learns what a caption of the world says, of one object or two.

    unified-jax train caption_encoder

`world_text` draws pictures from its encodings. Most captions are in free words ("huge disc, upper right", a word that
means nothing), so that it reads more than the grammar writes. Hardware: two CPU cores, six minutes.
"""

from dataclasses import replace

import unified_jax as uj


def experiment() -> uj.Experiment:
    """BERT over 48 tokens; heads for the number of objects, and for the attributes of each in the order of mention."""
    words = uj.World(resolution=32, wording=uj.Wording(free=0.6))
    captions = words.source("train", ("caption",))
    said = tuple(
        uj.Label(f"named_{name}{end}", len(values), values, absent=True)
        for end in ("", "_2")
        for name, values in uj.ATTRIBUTES
    )
    text = uj.Text(48, uj.learn_bpe((str(captions[i]["caption"]) for i in range(2000)), 512), too_long="crop")
    bert = uj.Bert(vocabulary=512, length=48, width=96, depth=3, heads=4, hidden=384, eps=1e-6)
    return uj.Experiment(
        model=uj.TextClassifier(uj.TextEncoder(bert, text, normalise=False), (uj.Label("count", 3), *said)),
        data=replace(words, wording=uj.Wording(free=0.6, strange=0.15)),
        optimizer=uj.Optimization(
            uj.Muon(b2=0.98), learning_rate=5e-3, warmup_steps=50, schedule="cosine", final_fraction=0.05, clip_norm=1.0
        ),
        ema=(uj.Ema(decay=0.99),),
        steps=3000,
        batch_size=64,
        checkpoint=uj.Checkpointing(every=500),
        preview=uj.Previews(every=0),
        validation=uj.Validation(every=500, batches=4),
    )

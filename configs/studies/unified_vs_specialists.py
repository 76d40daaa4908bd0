"""One model of five modalities against four of a caption and one other, each of a quarter of its parameters and FLOPs.

    unified-jax ablate unified_vs_specialists

For an accelerator. The claim under test: a unified model nearly reaches specialists that together cost as much. Two
questions beside it: what a modality that is seen in a tenth of the documents gains from the others (beside a
specialist that is starved alike), and what is left of a pair that never shares a document.
"""

import dataclasses

import unified_jax as uj

OTHERS = ("image", "video", "audio", "points")
STARVED = ("points", 0.05)
APART = ("image", "audio")


def specialist(experiment: uj.Experiment, name: str, keep: float = 0.85) -> uj.Experiment:
    """The same recipe with the caption and one stream."""
    model, balance = experiment.model, experiment.balance
    assert isinstance(model, uj.Transfusion)
    assert isinstance(balance, uj.FixedBalance)
    streams = tuple(stream for stream in model.streams if stream.modality.name == name)
    rates = (("caption", 0.9), (name, keep))
    return dataclasses.replace(
        experiment,
        model=dataclasses.replace(
            model, streams=streams, documents=dataclasses.replace(model.documents, keep_of=rates, whole=0.0)
        ),
        balance=uj.FixedBalance(tuple(pair for pair in balance.weights if pair[0] in ("text", name))),
    )


def starve(experiment: uj.Experiment) -> uj.Experiment:
    """Points in a tenth as many documents."""
    model = experiment.model
    assert isinstance(model, uj.Transfusion)
    rates = (*(pair for pair in model.documents.keep_of if pair[0] != STARVED[0]), STARVED)
    documents = dataclasses.replace(model.documents, keep_of=rates, whole=0.0)
    return dataclasses.replace(experiment, model=dataclasses.replace(model, documents=documents))


def pairs(name: str, *arms: str) -> tuple[uj.Metric, ...]:
    """From the caption and to it."""
    return tuple(
        uj.Metric("attribute_accuracy", given=(a,), wanted=(b,), arms=arms)
        for a, b in (("caption", name), (name, "caption"))
    )


def study() -> uj.Study:
    """Widths of the specialists are searched for a quarter of the parameters; steps follow from FLOPs."""
    lonely = f"caption and {STARVED[0]}, starved"
    return uj.Study(
        "transfusion_world",
        (
            *(uj.Variant(f"caption and {n}", lambda e, n=n: specialist(e, n), share=0.25) for n in OTHERS),
            uj.Variant("points starved", starve),
            uj.Variant(lonely, lambda e: specialist(e, *STARVED), share=0.25),
            uj.Variant("image and audio apart", {"model.documents.apart": (APART,), "model.documents.whole": 0.0}),
        ),
        budget=uj.Budget(by="flops", adjust="model.network.width", multiple=8),
        metrics=(
            *(metric for n in OTHERS[:3] for metric in pairs(n, f"caption and {n}")),
            *pairs(STARVED[0], f"caption and {STARVED[0]}", "points starved", lonely),
            uj.Metric("attribute_accuracy", given=APART[:1], wanted=APART[1:], arms=("image and audio apart",)),
        ),
        samples=256,
    )

"""What Transfusion's paper ablates (arXiv 2408.11039, section 4.3): mask inside a span, embedder, weight of the image.

    unified-jax ablate transfusion_parts

For an accelerator: transfusion_world, five seeds an arm.
"""

import dataclasses

import unified_jax as uj


def weigh_image(experiment: uj.Experiment, factor: float) -> uj.Experiment:
    """The image's weight (lambda) times a factor."""
    assert isinstance(experiment.balance, uj.FixedBalance)
    weights = tuple((name, w * factor if name == "image" else w) for name, w in experiment.balance.weights)
    return dataclasses.replace(experiment, balance=uj.FixedBalance(weights))


def study() -> uj.Study:
    """The base sees whole spans through linear embedders."""
    return uj.Study(
        "transfusion_world",
        (
            uj.Variant("causal spans", {"model.documents.causal": True}),
            uj.Variant("image through a U-Net", {"model.streams.0.embedder": "unet"}),
            uj.Variant("image through convolutions", {"model.streams.0.embedder": "convolutional"}),
            *(uj.Variant(f"lambda x {factor:g}", lambda e, f=factor: weigh_image(e, f)) for factor in (0.25, 0.5, 2.0)),
        ),
        metrics=(
            uj.Metric("attribute_accuracy", given=("caption",), wanted=("image",)),
            uj.Metric("attribute_accuracy", given=("image",), wanted=("caption",)),
            uj.Metric("consistency", given=(), wanted=("caption", "image", "video", "audio", "points")),
        ),
        samples=512,
    )

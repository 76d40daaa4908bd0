"""What Transfusion's paper ablates (arXiv 2408.11039, section 4.3): mask inside a span, embedder, weight of the image.

    python -m unified_jax.cli.ablate transfusion_parts

For an accelerator: transfusion_world, five seeds an arm.
"""

import dataclasses

from unified_jax.studies.study import Metric, Study, Variant
from unified_jax.training.balancing import FixedBalance
from unified_jax.training.experiment import Experiment


def weigh_image(experiment: Experiment, factor: float) -> Experiment:
    """The image's weight (lambda) times a factor."""
    assert isinstance(experiment.balance, FixedBalance)
    weights = tuple((name, w * factor if name == "image" else w) for name, w in experiment.balance.weights)
    return dataclasses.replace(experiment, balance=FixedBalance(weights))


def study() -> Study:
    """The base sees whole spans through linear embedders."""
    return Study(
        "transfusion_world",
        (
            Variant("causal spans", {"model.documents.causal": True}),
            Variant("image through a U-Net", {"model.streams.0.embedder": "unet"}),
            Variant("image through convolutions", {"model.streams.0.embedder": "convolutional"}),
            *(Variant(f"lambda x {factor:g}", lambda e, f=factor: weigh_image(e, f)) for factor in (0.25, 0.5, 2.0)),
        ),
        metrics=(
            Metric("attribute_accuracy", given=("caption",), wanted=("image",)),
            Metric("attribute_accuracy", given=("image",), wanted=("caption",)),
            Metric("consistency", given=(), wanted=("caption", "image", "video", "audio", "points")),
        ),
        samples=512,
    )

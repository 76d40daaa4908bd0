"""Which way of telling a DiT its time and labels is best at equal FLOPs (DiT, section 3.2 and figure 5).

    python -m unified_jax.cli.ablate dit_conditioning

Two CPU cores, about a quarter of an hour.
"""

from unified_jax.studies.study import Budget, Metric, Study, Variant


def study() -> Study:
    """adaLN-Zero against adaLN, cross-attention and in-context tokens."""
    kinds = {"adaLN": "adaln", "cross-attention": "cross", "in-context": "in_context"}
    return Study(
        "world_tiny",
        tuple(Variant(name, {"model.network.conditioning": kind}) for name, kind in kinds.items()),
        budget=Budget("flops"),
        metrics=(Metric("validation/loss", "lower"), Metric("attribute_accuracy")),
        about="The base is adaLN-Zero. Steps are chosen so that every arm trains for the same FLOPs.",
    )

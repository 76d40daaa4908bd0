"""Which way of telling a DiT its time and labels is best at equal FLOPs (DiT, section 3.2 and figure 5).

    unified-jax ablate dit_conditioning

Two CPU cores, about a quarter of an hour.
"""

import unified_jax as uj


def study() -> uj.Study:
    """adaLN-Zero against adaLN, cross-attention and in-context tokens."""
    kinds = {"adaLN": "adaln", "cross-attention": "cross", "in-context": "in_context"}
    return uj.Study(
        "world_tiny",
        tuple(uj.Variant(name, {"model.network.conditioning": kind}) for name, kind in kinds.items()),
        budget=uj.Budget("flops"),
        metrics=(uj.Metric("validation/loss", "lower"), uj.Metric("attribute_accuracy")),
        about="The base is adaLN-Zero. Steps are chosen so that every arm trains for the same FLOPs.",
    )

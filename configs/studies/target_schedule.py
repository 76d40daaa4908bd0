"""What the network predicts, on which path: x0, eps or velocity, over straight lines and quarter circles.

    python -m unified_jax.cli.ablate target_schedule

Two CPU cores, about a quarter of an hour. Losses of different targets cannot be compared, so samples are.
"""

from unified_jax.processes.paths import Gvp, Linear
from unified_jax.studies.study import Metric, Study, Variant

END = 0.99
"""Sampling starts a little before pure noise, where eps says nothing of x0."""


def study() -> Study:
    """Three targets on two paths; the base is x0 on straight lines."""
    arms = [
        Variant(f"{target}, {path}", {"model.process.target": target, "model.process.path": make})
        for path, make in (("linear", Linear()), ("cosine", Gvp()))
        for target in ("x0", "eps", "velocity")
    ]
    return Study(
        "world_tiny",
        tuple(arms[1:]),
        common={"model.process.noise_end": END},
        metrics=(Metric("attribute_accuracy"), Metric("frechet/pooled_pixels", "lower")),
        about="The base predicts x0 on straight lines (rectified flow); cosine is the path cos, sin of pi t / 2.",
    )

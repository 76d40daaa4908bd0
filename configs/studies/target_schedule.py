"""What the network predicts, on which path: x0, eps or velocity, over straight lines and quarter circles.

    unified-jax ablate target_schedule

Two CPU cores, about a quarter of an hour. Losses of different targets cannot be compared, so samples are.
"""

import unified_jax as uj

END = 0.99
"""Sampling starts a little before pure noise, where eps says nothing of x0."""


def study() -> uj.Study:
    """Three targets on two paths; the base is x0 on straight lines."""
    arms = [
        uj.Variant(f"{target}, {path}", {"model.process.target": target, "model.process.path": make})
        for path, make in (("linear", uj.paths.Linear()), ("cosine", uj.paths.Gvp()))
        for target in ("x0", "eps", "velocity")
    ]
    return uj.Study(
        "world_tiny",
        tuple(arms[1:]),
        common={"model.process.noise_end": END},
        metrics=(uj.Metric("attribute_accuracy"), uj.Metric("frechet/pooled_pixels", "lower")),
        about="The base predicts x0 on straight lines (rectified flow); cosine is the path cos, sin of pi t / 2.",
    )

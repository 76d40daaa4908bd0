"""Runs whose models encode images, as extractors of features."""

from pathlib import Path
from typing import Any

from unified_jax.config import lacking
from unified_jax.errors import UserError
from unified_jax.evaluation.extractors import Encoded
from unified_jax.modalities.image import Image
from unified_jax.models.stages import Encoder
from unified_jax.runs.directory import provenance
from unified_jax.runs.opened import open_run


def encoder_of(run: Path, trust: bool = False) -> Encoded:
    """The model of a run as an extractor. Raises UserError where it does not encode images."""
    experiment, params, step = open_run(run, trust=trust)
    model: Any = experiment.model
    images = [m for m in model.modalities if isinstance(m, Image)]
    if lacking(type(model), Encoder) or not images:
        raise UserError(
            f"The run {str(run)!r} encodes no images ({type(model).__name__}); expected a model with `encode` over an "
            "image, such as ImageClassifier or MaskedImages."
        )
    digest = f"{provenance(experiment)['config_hash'][:8]} step {step}"
    return Encoded(run.name, model, images[0], params, digest)

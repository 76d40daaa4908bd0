"""Image encoders as extractors of features: the model of a run, or published weights."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import jax
import numpy as np

from unified_jax.config import lacking
from unified_jax.errors import UserError
from unified_jax.evaluation.extractors import Encoded
from unified_jax.interop import folder as folders
from unified_jax.modalities.image import Image
from unified_jax.models.image_encoder import KINDS, image_encoder
from unified_jax.models.stages import Encoder
from unified_jax.runs.directory import provenance
from unified_jax.runs.opened import open_run


def encoder_of(source: Path, trust: bool = False) -> Encoded:
    """The encoder of a run, or of a folder of transformers with a CLIP, a SigLIP or a DINOv2.

    Raises UserError for anything else, and for a model that encodes no images.
    """
    if folders.is_family(str(source), KINDS):
        return published(source)
    experiment, params, step = open_run(source, trust=trust)
    model: Any = experiment.model
    images = [m for m in model.modalities if isinstance(m, Image)]
    if lacking(type(model), Encoder) or not images:
        raise UserError(
            f"The run {str(source)!r} encodes no images ({type(model).__name__}); expected a model with `encode` over "
            "an image, such as ImageClassifier or MaskedImages, or a folder with a CLIP, a SigLIP or a DINOv2."
        )
    digest = f"{provenance(experiment)['config_hash'][:8]} step {step}"
    return Encoded(source.name, model, images[0], params, digest)


def published(folder: Path) -> Encoded:
    """The vectors of published weights; pictures are fitted as their family does. Raises UserError for a bad folder."""
    plain = image_encoder(folder)
    side = plain.preprocessing.resize
    shown = Image(side, side, 3, fit="resize" if plain.preprocessing.stretch else "center_crop")
    encoder = dataclasses.replace(plain, image=shown)
    params = encoder.read(str(folder))
    made = hashlib.sha256()
    for leaf in jax.tree.leaves(params):
        made.update(np.ascontiguousarray(leaf).tobytes())
    return Encoded(folder.name, encoder, shown, params, made.hexdigest()[:8])

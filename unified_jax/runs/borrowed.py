"""Somebody's autoencoder as a run directory: a stage, a reconstruction, or the start of a fine-tuning."""

from pathlib import Path
from typing import Any

from unified_jax.data.tfds import Tfds
from unified_jax.errors import UserError
from unified_jax.interop.autoencoders.settings import Statistics
from unified_jax.modalities.image import Image
from unified_jax.models.autoencoders.base import AutoencoderLoss
from unified_jax.models.autoencoders.model import Autoencoder
from unified_jax.models.autoencoders.terms import Perceptual, Pixels
from unified_jax.models.autoencoding import autoencoder
from unified_jax.runs.adapters import write_run
from unified_jax.training.experiment import Experiment


def borrow_autoencoder(
    source: str | Path,
    run_dir: str | Path,
    statistics: Statistics | None = None,
    size: int | None = None,
    objective: tuple[AutoencoderLoss, ...] = (Pixels(), Perceptual()),
) -> Autoencoder:
    """Writes a run at step 0 with published weights of images, and returns its model.

    source       a folder of diffusers or a file, as `uj.autoencoders.autoencoder` opens it
    statistics   scale and shift of the latents, where the source does not say them
    size         side of the pictures; default: 256
    objective    losses without parameters of their own; a recipe that fine-tunes names others (`--init-from`)

    Raises UserError for weights that do not fit, or a folder that is not empty.
    """
    folder = Path(run_dir)
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{str(folder)!r} exists already; choose another folder.")
    coder, params = autoencoder(Path(source), statistics, size)
    if coder.name != "image":
        raise UserError(f"{str(source)!r} is an autoencoder of {coder.name}s; a run is made of one of images.")
    height, width, channels = coder.shape
    made: Any = Autoencoder(coder, Image(height, width, channels), objective)
    write_run(folder, Experiment(model=made, data=Tfds("unknown")), params, {"source": Path(source).name})
    return made

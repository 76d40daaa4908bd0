"""The start of every probe: the run, and checks of its model."""

from pathlib import Path
from typing import Any

from unified_jax.errors import UserError
from unified_jax.runs.folders import make_folder


def open_for_probe(run: str, trust: bool = False) -> tuple[Any, Any, Path]:
    """(experiment, parameters of the first EMA, folder for the files)."""
    from unified_jax.runs.opened import open_run

    experiment, params, _ = open_run(Path(run), trust=trust)
    folder = Path(run) / "probes"
    make_folder(folder)
    return experiment, params, folder


def need_diffusion(model: Any) -> None:
    """Raises UserError for another model, or for other modalities than images."""
    from unified_jax.modalities.image import Image
    from unified_jax.models.diffusion import Diffusion

    if not isinstance(model, Diffusion):
        raise UserError(f"This probe is for class-conditional models (Diffusion), not for {type(model).__name__}.")
    if not isinstance(model.modality, Image):
        made = f"{model.modality.name} ({type(model.modality).__name__})"
        raise UserError(f"This probe is for models of images; this one makes {made}.")


def need_transfusion(model: Any) -> None:
    """Raises UserError for another model."""
    from unified_jax.models.transfusion import Transfusion

    if not isinstance(model, Transfusion):
        raise UserError(f"This probe is for models of many modalities (Transfusion), not for {type(model).__name__}.")

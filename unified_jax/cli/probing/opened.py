"""The start of every probe: the run, and what the probe needs of its model."""

from pathlib import Path
from typing import Any, Protocol

from unified_jax.config import lacking
from unified_jax.errors import UserError
from unified_jax.runs.folders import make_folder


class Denoises(Protocol):
    """A model of one array under conditions, as probes call it; see `Diffusion`."""

    @property
    def modality(self) -> Any:
        """What it denoises."""
        ...

    @property
    def process(self) -> Any:
        """Its process."""
        ...

    def conditions_of(self, params: Any, given: Any, count: int) -> Any:
        """What the network reads."""
        ...

    def apply(self, params: Any, process: Any, x_t: Any, t: Any, conditions: Any, capture: Any) -> Any:
        """(raw output, what was captured)."""
        ...


class ReadsDocuments(Protocol):
    """A model of packed documents, as probes call it; see `Transfusion`."""

    @property
    def documents(self) -> Any:
        """How documents are made."""
        ...

    @property
    def streams(self) -> Any:
        """What it denoises."""
        ...

    def forward(self, *arguments: Any) -> Any:
        """The trunk over packed rows."""
        ...


def open_for_probe(
    run: str, trust: bool = False, step: int | None = None, stage: tuple[str, ...] = ()
) -> tuple[Any, Any, Path, int]:
    """(experiment, parameters of the first EMA, folder for the files, step of the parameters)."""
    from unified_jax.runs.opened import open_run
    from unified_jax.runs.saved import Which
    from unified_jax.runs.stages import parse_places

    experiment, params, found = open_run(Path(run), Which(step=step), trust, parse_places(stage))
    folder = Path(run) / "probes"
    make_folder(folder)
    return experiment, params, folder, found


def reads_documents(model: Any) -> bool:
    """Whether probes of documents can call it."""
    return not lacking(type(model), ReadsDocuments)


def need_denoiser(model: Any) -> None:
    """Raises UserError for another model, or for other modalities than images."""
    from unified_jax.modalities.image import Image

    if lacking(type(model), Denoises):
        raise UserError(f"This probe is for class-conditional models (Diffusion), not for {type(model).__name__}.")
    if not isinstance(model.modality, Image):
        made = f"{model.modality.name} ({type(model.modality).__name__})"
        raise UserError(f"This probe is for models of images; this one makes {made}.")


def need_documents(model: Any) -> None:
    """Raises UserError for another model."""
    if not reads_documents(model):
        raise UserError(f"This probe is for models of many modalities (Transfusion), not for {type(model).__name__}.")

"""What RUN/latents.json says of an autoencoder's latents (`runs.latents`), and whether a stage agrees with it."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from unified_jax.errors import UserError
from unified_jax.models.stages import Serves, Stage
from unified_jax.runs import directory as runs

RECORD = "latents.json"
AGAIN = "Measure again (unified-jax data latents RUN), or remove the file."


def measured(model: Any, run_dir: Path) -> Any:
    """The autoencoder with the scale and shift that were measured in its run, if they were."""
    said = runs.read_json(run_dir / RECORD)
    if said is None or not {"scale", "shift"} <= {field.name for field in dataclasses.fields(model)}:
        return model
    return dataclasses.replace(model, scale=tuple(said["scale"]), shift=tuple(said["shift"]))


def check_measured(one: Stage, model: Any, run_dir: Path, checksum: Callable[[], str]) -> None:
    """Raises UserError for a stage of a run with another scale or shift than its file says, or of other parameters."""
    said, name = runs.read_json(run_dir / RECORD), one.name
    coder = model.serves() if isinstance(model, Serves) else model
    if said is None or not hasattr(coder, "shift"):
        return
    where = f"{str(run_dir / RECORD)!r}"
    for field in ("scale", "shift"):
        if tuple(getattr(coder, field)) != tuple(said[field]):
            raise UserError(
                f"The stage {name!r} has the {field} {tuple(getattr(coder, field))}, and {where} says "
                f"{tuple(said[field])}: take the stage with uj.stage({name!r}, {str(run_dir)!r}), or remove the file."
            )
    alike = coder is model and one.dtype == "float32" and said.get("ema") == one.ema
    if alike and said.get("checksum") != checksum():
        raise UserError(f"{where} was measured of other parameters than those of the stage {name!r}. {AGAIN}")

"""A run in Weights & Biases: scalars, previews and the configuration (extra `wandb`).

`WANDB_MODE=offline` writes into RUN/wandb/ and sends nothing. A resumed run continues the same record, whose id lies in
RUN/wandb.json. Whatever the service refuses is reported once and missed: it is no reason to stop.
"""

import json
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from unified_jax.errors import UserError
from unified_jax.runs.directory import read_json, write_json
from unified_jax.runs.notice import say

RECORD = "wandb.json"


def check_installed() -> None:
    """Raises UserError without the package."""
    try:
        import wandb  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError("--wandb needs Weights & Biases: pip install 'unified_jax[wandb]'.") from None


class Wandb:
    """Like `tensorboard.Board`, for a project of Weights & Biases."""

    def __init__(self, project: str, run_dir: Path) -> None:
        self.failed, self.run = False, None
        self._try(lambda: self._begin(project, run_dir))

    def _begin(self, project: str, run_dir: Path) -> None:
        import wandb  # pyright: ignore[reportMissingImports]

        record = read_json(run_dir / RECORD) or {"id": uuid.uuid4().hex[:12]}
        write_json(run_dir / RECORD, record | {"project": project})
        self.run: Any = wandb.init(
            project=project, id=record["id"], name=run_dir.name, dir=str(run_dir), resume="allow",
            settings=wandb.Settings(silent=True),
        )  # fmt: skip
        self.run.define_metric("*", step_metric="step")  # a resumed run writes some steps again

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """One line of scalars."""
        self._try(lambda: self.run.log({"step": step, **scalars}))

    def image(self, step: int, tag: str, path: Path) -> None:
        """A PNG file as an image."""
        import wandb  # pyright: ignore[reportMissingImports]

        self._try(lambda: self.run.log({"step": step, tag: wandb.Image(str(path))}))

    def describe(self, config: str, fields: dict[str, bool | int | float | str], metrics: list[str]) -> None:
        """The configuration; its scalar fields are what runs are compared by."""
        del metrics
        self._try(lambda: self.run.config.update({**fields, "config": json.loads(config)}, allow_val_change=True))

    def close(self) -> None:
        """Ends the record."""
        self._try(lambda: self.run.finish())

    def _try(self, do: Callable[[], Any]) -> None:
        if self.failed:
            return
        try:
            do()
        except Exception as error:  # the client raises what it likes
            self.failed = True
            say(f"Weights & Biases gets no more of this run: {type(error).__name__}: {str(error)[:200]}")

"""What has moved, and how its old paths stay good.

A class path that a run saved is read through `present_path`, for ever. Importing a module by its old name works for one
release, with a DeprecationWarning: `MovedModules`, which `unified_jax` puts in front of Python's own finders, answers
with the module itself under its present name.
"""

import importlib
import importlib.abc
import importlib.machinery
import sys
import warnings
from collections.abc import Container
from types import ModuleType
from typing import Any

MOVED: dict[str, str] = {
    "unified_jax.models.autoencoder_losses": "unified_jax.models.autoencoders.losses",
    "unified_jax.models.plan": "unified_jax.samplers.plan",
    "unified_jax.samplers.plan.Plan": "unified_jax.samplers.plan.SamplingPlan",
    "unified_jax.models.plan.Plan": "unified_jax.samplers.plan.SamplingPlan",
    "unified_jax.samplers.grids": "unified_jax.processes.grids",
    "unified_jax.models.transfusion.Stream": "unified_jax.models.streams.Stream",
    "unified_jax.training.checkpoint.Checkpointing": "unified_jax.training.experiment.Checkpointing",
    "unified_jax.cli.ablation": "unified_jax.studies",
    "unified_jax.cli.ablation.cells": "unified_jax.studies.cells",
    "unified_jax.cli.ablation.figures": "unified_jax.studies.figures",
    "unified_jax.cli.ablation.origin": "unified_jax.studies.origin",
    "unified_jax.cli.ablation.report": "unified_jax.studies.report",
    "unified_jax.cli.ablation.results": "unified_jax.studies.results",
    "unified_jax.cli.ablation.running": "unified_jax.studies.running",
    "unified_jax.cli.ablation.study": "unified_jax.studies.study",
    "unified_jax.cli.ablation.timing": "unified_jax.studies.timing",
    "unified_jax.cli.adapters": "unified_jax.runs.adapters",
    "unified_jax.cli.edits": "unified_jax.runs.edits",
    "unified_jax.cli.given": "unified_jax.runs.given",
    "unified_jax.cli.goldens": "unified_jax.certify",
    "unified_jax.cli.goldens.balancing": "unified_jax.certify.balancing",
    "unified_jax.cli.goldens.chains": "unified_jax.certify.chains",
    "unified_jax.cli.goldens.dit": "unified_jax.certify.dit",
    "unified_jax.cli.goldens.dpm_solver_pp": "unified_jax.certify.dpm_solver_pp",
    "unified_jax.cli.goldens.gaussian_diffusion": "unified_jax.certify.gaussian_diffusion",
    "unified_jax.cli.goldens.levels": "unified_jax.certify.levels",
    "unified_jax.cli.goldens.scheduler": "unified_jax.certify.scheduler",
    "unified_jax.cli.goldens.sequence": "unified_jax.certify.sequence",
    "unified_jax.cli.goldens.sit": "unified_jax.certify.sit",
    "unified_jax.cli.goldens.tables": "unified_jax.certify.tables",
    "unified_jax.cli.matrix": "unified_jax.runs.matrix",
    "unified_jax.cli.opened": "unified_jax.runs.opened",
    "unified_jax.cli.probing.figures": "unified_jax.evaluation.probes.figures",
    "unified_jax.cli.recipe": "unified_jax.runs.recipe",
    "unified_jax.cli.encoding": "unified_jax.cli.datasets.encode",
    "unified_jax.cli.outputs": "unified_jax.runs.outputs",
    "unified_jax.cli.sampling": "unified_jax.runs.sampling_flags",
    "unified_jax.cli.supervise": "unified_jax.runs.supervise",
    "unified_jax.training.board": "unified_jax.runs.tensorboard",
    "unified_jax.training.checkpoint": "unified_jax.runs.checkpoints",
    "unified_jax.training.checksums": "unified_jax.runs.checksums",
    "unified_jax.training.collectives": "unified_jax.planning.collectives",
    "unified_jax.training.graft": "unified_jax.runs.weight_transfer",
    "unified_jax.training.lock": "unified_jax.runs.lock",
    "unified_jax.training.loop": "unified_jax.runs.loop",
    "unified_jax.training.metrics": "unified_jax.runs.metrics",
    "unified_jax.training.notice": "unified_jax.runs.notice",
    "unified_jax.training.pace": "unified_jax.runs.stragglers",
    "unified_jax.training.planning": "unified_jax.planning.plan",
    "unified_jax.training.previews": "unified_jax.runs.previews",
    "unified_jax.training.pulse": "unified_jax.runs.watchdog",
    "unified_jax.training.replay": "unified_jax.runs.replay",
    "unified_jax.training.rules": "unified_jax.training.algorithms",
    "unified_jax.training.run_dir": "unified_jax.runs.directory",
    "unified_jax.training.same_run": "unified_jax.runs.resume",
    "unified_jax.training.saved": "unified_jax.runs.saved",
    "unified_jax.training.search": "unified_jax.planning.search",
    "unified_jax.training.seeds": "unified_jax.runs.seeds",
    "unified_jax.training.start": "unified_jax.runs.start",
    "unified_jax.training.targets": "unified_jax.planning.hardware",
    "unified_jax.training.watch": "unified_jax.runs.monitor",
    "unified_jax.training.xla_flags": "unified_jax.runs.xla_flags",
}
"""Old module (or class) -> present one."""


RENAMED = {"Plan": "SamplingPlan"}
"""Old name of a class -> present one, where people import it."""


def present_name(name: str, known: Container[str]) -> str:
    """The name itself, or with a DeprecationWarning the present one of an old name."""
    if name in known or name not in RENAMED:
        return name
    warnings.warn(f"{name} is now {RENAMED[name]}; the old name goes in the next release.", DeprecationWarning, 3)
    return RENAMED[name]


def present_path(path: str) -> str:
    """The present path of a class (or module) that was saved under `path`."""
    module, dot, name = path.rpartition(".")
    return MOVED.get(path) or MOVED.get(module, module) + dot + name


def old_path(path: str) -> str:
    """The path under which a class was first saved."""
    module, dot, name = path.rpartition(".")
    before = {new: old for old, new in MOVED.items()}
    return before.get(path) or before.get(module, module) + dot + name


class MovedModules(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds modules by their old names."""

    def find_spec(
        self, fullname: str, path: Any = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """A spec for an old name, None for any other."""
        del path, target
        return importlib.machinery.ModuleSpec(fullname, self) if fullname in MOVED else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        """The module under its present name."""
        new = MOVED[spec.name]
        warnings.warn(f"{spec.name} is now {new}; the old name goes in the next release.", DeprecationWarning, 2)
        module = importlib.import_module(new)
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Nothing: it is loaded. Its own spec, which importing has just replaced, is put back."""
        spec: Any = module.__spec__
        module.__spec__ = spec.loader_state


def install() -> None:
    """Puts the finder in front, once."""
    if not any(isinstance(finder, MovedModules) for finder in sys.meta_path):
        sys.meta_path.insert(0, MovedModules())

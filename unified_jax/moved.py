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
from collections.abc import Sequence
from types import ModuleType
from typing import Any

MOVED: dict[str, str] = {
    "unified_jax.models.plan": "unified_jax.samplers.plan",
    "unified_jax.samplers.grids": "unified_jax.processes.grids",
    "unified_jax.models.transfusion.Stream": "unified_jax.models.streams.Stream",
}
"""Old module (or class) -> present one."""


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
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
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

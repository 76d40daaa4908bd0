"""unified_jax: diffusion and Transfusion models over any set of modalities, as pure functions.

The names below are imported when they are first used, so that `import unified_jax` takes no time; `__init__.pyi` lists
them, for people and type checkers alike.
"""

import ast
import functools
import importlib
from pathlib import Path
from typing import Any

from unified_jax import moved

__version__ = "0.2.0"

moved.install()


@functools.cache
def _homes() -> dict[str, tuple[str, str]]:
    """Name -> (module, its name there), as the stub says."""
    stub = ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    return {
        alias.asname or alias.name: (f"{node.module}", alias.name)
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def __getattr__(name: str) -> Any:
    name = moved.present_name(name, _homes())
    if name not in _homes():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, known = _homes()[name]
    home = importlib.import_module(module) if module != __name__ else None
    found = globals()[name] = getattr(home, known, None) or importlib.import_module(f"{module}.{known}")
    return found


def __dir__() -> list[str]:
    return sorted([*_homes(), "__version__"])

"""Custom code: imported as modules, kept by a run, and imported again when the run is opened.

A recipe file is imported as a module under its own name, with its folder appended to the path, so that Python finds its
classes and the modules next to it. A run keeps the modules of its classes, and their local imports, in RUN/code with
checksums (`code.json`). Opening the run imports them from there with --trust; without it only if the same bytes are
loaded already.
"""

import ast
import hashlib
import importlib.util
import json
import re
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from unified_jax.config import Trust, class_path, fields_of
from unified_jax.errors import UserError

CODE, TABLE = "code", "code.json"


def import_file(path: Path) -> ModuleType:
    """A file as the module of its name; its folder is appended to sys.path.

    Raises UserError if the name belongs to another module, or if a module next to the file is shadowed.
    """
    path, name = path.resolve(), re.sub(r"\W|^(?=\d)", "_", path.stem)
    data, old = path.read_bytes(), sys.modules.get(name)
    digest = hashlib.sha256(data).hexdigest()
    if old is not None and _file(old) == path and getattr(old, "__sha256__", "") == digest:
        return old
    known = old is not None and hasattr(old, "__sha256__")
    if not known and (taken := _elsewhere(name, path)):
        raise UserError(f"{path} would be imported as {name!r}, which is a module of {taken}; rename the file.")
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    spec: Any = importlib.util.spec_from_file_location(name, path)
    module: Any = importlib.util.module_from_spec(spec)
    module.__sha256__ = digest
    sys.modules[name] = module
    try:
        exec(compile(data, str(path), "exec"), module.__dict__)  # not by a cached .pyc: a file may change in a second
    except BaseException:
        sys.modules.pop(name)
        if old is not None:
            sys.modules[name] = old
        raise
    for imported in _imports(data, ""):
        beside = path.parent / f"{imported.split('.')[0]}.py"
        found = _file(sys.modules.get(imported.split(".")[0]))
        if beside.is_file() and found not in (None, beside.resolve()):
            raise UserError(f"{path} imports {imported!r}, and got {found} instead of {beside}; rename the latter.")
    return module


def _elsewhere(name: str, path: Path) -> str:
    """The path of another module of this name; "" if there is none."""
    if name in sys.stdlib_module_names or name == "unified_jax":
        return "Python" if name != "unified_jax" else "this library"
    loaded = sys.modules.get(name)
    try:
        spec = loaded.__spec__ if loaded is not None else importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return ""
    origin = spec.origin if spec is not None else None
    return "" if origin is None or Path(origin).resolve() == path else origin


# ---- which modules -------------------------------------------------------------------------------------------------


def own_classes(value: Any) -> Iterator[type]:
    """Classes of a configuration that are not of this package."""
    if isinstance(value, tuple):
        for item in value:
            yield from own_classes(item)
    elif hasattr(type(value), "__dataclass_fields__"):
        if type(value).__module__.split(".")[0] != "unified_jax":
            yield type(value)
        for field in fields_of(value):
            yield from own_classes(getattr(value, field.name))


def check_own_classes(value: Any) -> None:
    """Raises UserError for a class that a saved configuration could not find again."""
    for cls in own_classes(value):
        module, path = sys.modules.get(cls.__module__), class_path(cls)
        if cls.__module__ == "__main__":
            raise UserError(
                f"The class {cls.__name__} is defined in the script that runs, where no other command finds it; move "
                "it to a module of its own beside the script and import it."
            )
        if getattr(module, cls.__qualname__, None) is not cls:
            raise UserError(
                f"The class {path} cannot be found by its path (it is local to a function, or its file has changed and "
                "was loaded again); define it at the top of a module, and start once more."
            )


def own_modules(value: Any) -> dict[str, Path]:
    """Module name -> file of a configuration's classes and of their local imports, without installed packages."""
    found: dict[str, Path] = {}
    waiting = sorted({cls.__module__ for cls in own_classes(value)})
    while waiting:
        name = waiting.pop()
        module = sys.modules.get(name)
        path = _file(module)
        if module is None or path is None or name in found or _installed(path) or name.split(".")[0] == "unified_jax":
            continue
        found[name] = path
        waiting += _imports(path.read_bytes(), module.__package__ or "")
        waiting += [name.rpartition(".")[0]] if "." in name else []
    return found


def _file(module: ModuleType | None) -> Path | None:
    path = getattr(module, "__file__", None)
    return Path(path).resolve() if path and path.endswith(".py") else None


def _installed(path: Path) -> bool:
    roots = {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    return any(root in path.parents for root in roots)


def _imports(source: bytes, package: str) -> list[str]:
    """Names of modules that a source imports, `from a import b` counting as a and a.b."""
    names: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return names


# ---- what a run keeps ----------------------------------------------------------------------------------------------


def kept_code(run_dir: Path) -> dict[str, Any]:
    """code.json of a run: {"modules": {name: sha256}, "changes": [...]}; empty without custom code."""
    path = run_dir / CODE / TABLE
    if not path.is_file():
        return {"modules": {}, "changes": []}
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}.") from error


def changed_code(run_dir: Path, value: Any) -> list[str]:
    """Modules of a configuration that differ from those at the start of its run."""
    kept, now = kept_code(run_dir)["modules"], {name: _loaded(name, path) for name, path in own_modules(value).items()}
    return sorted(name for name in kept.keys() | now.keys() if kept.get(name) != now.get(name))


def code_digest(value: Any) -> str:
    """Eight hex digits of the custom code of a configuration; "" without any."""
    found = {name: _loaded(name, path) for name, path in sorted(own_modules(value).items())}
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()[:8] if found else ""


def keep_code(run_dir: Path, value: Any, step: int) -> None:
    """Writes RUN/code. Changed code is recorded as a change at `step`; the old code is kept."""
    modules, table, folder = own_modules(value), kept_code(run_dir), run_dir / CODE
    changed = changed_code(run_dir, value)
    if not changed:
        return
    if table["modules"]:
        table["changes"].append({"step": step, "modules": {n: table["modules"].get(n) for n in changed}})
        aside = folder / f"before_step_{step}"
        for name in changed:
            if (old := folder / _place(name, folder)).is_file():
                (aside / old.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(old, aside / old.relative_to(folder))
    for name, path in modules.items():
        place = folder / name.replace(".", "/")
        place = place / "__init__.py" if path.name == "__init__.py" else place.with_suffix(".py")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)
    table["modules"] = {name: _loaded(name, path) for name, path in sorted(modules.items())}
    (folder / TABLE).write_text(json.dumps(table, indent=1) + "\n", "utf-8")


def _place(name: str, folder: Path) -> Path:
    path = Path(*name.split("."))
    return path / "__init__.py" if (folder / path / "__init__.py").is_file() else path.with_suffix(".py")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _loaded(name: str, path: Path) -> str:
    """Digest of a module's source as it was loaded, where `import_file` loaded it, else of its file."""
    return getattr(sys.modules[name], "__sha256__", "") or _digest(path)


# ---- opening it again ----------------------------------------------------------------------------------------------


def admitted(run_dir: Path, trust: bool) -> Trust:
    """The modules that a run's configuration may name.

    Those loaded with the bytes that the run keeps; with `trust` any, the kept ones from RUN/code.
    """
    kept = kept_code(run_dir)["modules"]

    def admits(module: str) -> bool:
        path = _file(sys.modules.get(module))
        if module not in kept:
            return trust
        if path is not None:
            if _loaded(module, path) == kept[module]:
                return True
            raise UserError(
                f"{run_dir} keeps another {module!r} in {CODE}/ than {path}, which is loaded here; open the run in a "
                "process of its own."
            )
        if trust:
            _import_kept(run_dir / CODE, kept)
        return trust

    return admits


def beside_file(path: Path, trust: bool) -> Trust:
    """The modules that the configuration in a weights file may name: with `trust` any, also those beside the file."""
    folder = str(path.resolve().parent)
    if trust and folder not in sys.path:
        sys.path.append(folder)
    return trust


def _import_kept(folder: Path, kept: dict[str, str]) -> None:
    for name, digest in kept.items():
        path = folder / _place(name, folder)
        if not path.is_file() or _digest(path) != digest:
            raise UserError(f"{path} is missing or is not the file that the run kept (its checksum differs).")
    before = sys.dont_write_bytecode
    sys.path.insert(0, str(folder))
    sys.dont_write_bytecode = True
    try:
        for name in kept:
            importlib.import_module(name)
    except Exception as error:
        raise UserError(f"The run's code {folder} cannot be imported: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(folder))
        sys.dont_write_bytecode = before

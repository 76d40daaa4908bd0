"""The laws of the house, each a function of one file's text, so that `test_house` also shows what it must find."""

import ast
import functools
from collections import defaultdict
from pathlib import PurePosixPath

ROOMS = (
    *("cli", "api", "studies", "certify", "planning", "runs", "training", "evaluation", "models", "networks", "layers"),
    *("interop", "data", "samplers", "processes", "modalities", "kernels"),
)
"""From the top down: a room imports itself and what stands after it, also inside functions and for types alone."""
FREE = ("sharding", "config", "moved", "typing", "errors", "hosts", "precision")
"""Files beside the rooms: every room may import them, they import no room."""
FLAX = ("layers/", "networks/", "sharding.py", "training/state.py", "models/")
BY_NAME = ("__init__.py", "config.py", "moved.py", "runs/code.py")
"""Who may import a module whose name is not written out."""
IMPORTERS = {
    *("__import__", "builtins.__import__", "importlib.__import__", "importlib.import_module"),
    *("pkgutil.resolve_name", "runpy.run_module"),
}
LINES, FUNCTION_LINES = 270, 60
"""Of a file, of a function: at most."""


@functools.cache
def uses(source, name):
    """(dotted name, line) of all that the file `name` ("training/step.py") imports or reaches through an import.

    A module imported by a name that is computed is "?".
    """
    tree, package = ast.parse(source), ("unified_jax", *PurePosixPath(name).parts[:-1])
    known, found = defaultdict(set, {"__import__": {"__import__"}}), []

    def absolute(module, level):
        above = package[: len(package) - level + 1] if level else ()
        return ".".join([*above, *([module] if module else [])])

    def meant(node):
        """What a name, a chain of attributes or a getattr may stand for."""
        if isinstance(node, ast.Name):
            return known.get(node.id, set())
        if isinstance(node, ast.Attribute):
            return {f"{base}.{node.attr}" for base in meant(node.value)}
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "getattr" and len(node.args) > 1:
            return {f"{base}.{literal(node.args[1])}" for base in meant(node.args[0])}
        return set()

    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.split(".")[0]
                known[alias.asname or top].add(alias.name if alias.asname else top)
                found.append((alias.name, node.lineno))
        elif isinstance(node, ast.ImportFrom):
            base = absolute(node.module, node.level)
            for alias in node.names:
                known[alias.asname or alias.name].add(f"{base}.{alias.name}")
                found.append((f"{base}.{alias.name}", node.lineno))
    for node in ast.walk(tree):
        found += [(one, node.lineno) for one in meant(node) if not isinstance(node, ast.Name)]
        if isinstance(node, ast.Call) and meant(node.func) & IMPORTERS:
            given = [*node.args, *(k.value for k in node.keywords if k.arg in ("name", "mod_name"))]
            text = literal(given[0]).split(":")[0] if given else "?"
            module = text.lstrip(".")
            found.append((absolute(module, len(text) - len(module)), node.lineno))
    return found


def literal(node):
    """The text that stands there, "?" where it is computed."""
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else "?"


def upward(source, name):
    """What a file imports that stands above it, or nowhere."""
    room, wrong = PurePosixPath(name).parts[0] if "/" in name else "cli" if name == "__main__.py" else "", []
    if room and room not in ROOMS:
        return [f"{name} is in no room"]
    for module, line in uses(source, name):
        parts = module.split(".")
        if module == "?" and name not in BY_NAME:
            wrong.append(f"{name}:{line} imports by a name that is not written out")
        if parts[0] != "unified_jax" or len(parts) < 2 or parts[1] in FREE:
            continue
        if parts[1] not in ROOMS:
            wrong.append(f"{name}:{line} imports {module}, which is no room")
        elif not room or ROOMS.index(parts[1]) < ROOMS.index(room):
            wrong.append(f"{name}:{line} imports {module}, which is above it")
    return list(dict.fromkeys(wrong))


def misplaced(source, name):
    """What a file uses of Flax where it may not, of Flax' other halves anywhere, and of JAX' private parts."""
    wrong = []
    for module, line in uses(source, name):
        parts = module.split(".")
        bad = parts[:2] == ["jax", "_src"] or parts[:3] == ["flax", "linen", "partitioning"]
        if parts[0] == "flax":
            bad |= not name.startswith(FLAX) or parts[1:2] not in ([], ["linen"], ["struct"])
        wrong += [f"{name}:{line} uses {module}"] if bad else []
    return list(dict.fromkeys(wrong))


def too_long(source, name):
    """The file and its functions that have too many lines; methods, nested and async functions are functions."""
    lines = len(source.splitlines())
    wrong = [f"{name}: {lines} lines"] if lines > LINES else []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            wrong += [f"{name}:{node.lineno} {node.name}: {length} lines"] if length > FUNCTION_LINES else []
    return wrong


def cannot_fail(source, name):
    """Tests that check nothing, neither themselves nor by a function of their file, and asserts that always hold."""
    tree = ast.parse(source)
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    hollow = [node for node in ast.walk(tree) if isinstance(node, ast.Assert) and always_true(node.test)]

    def checks(function, seen):
        for node in ast.walk(function):
            if isinstance(node, ast.Assert) and node not in hollow:
                return True
            named = getattr(node, "attr", getattr(node, "id", ""))
            if named.startswith("assert") or named in ("raises", "warns", "fail"):
                return True
            own = [f for f in functions if f.name == named and f not in seen]
            if any(checks(f, [*seen, f]) for f in own):
                return True
        return False

    wrong = [f"{name}:{node.lineno} always holds: {ast.unparse(node)}" for node in hollow]
    tests = [f for f in functions if f.name.startswith("test")]
    return wrong + [f"{name}:{f.lineno} {f.name} checks nothing" for f in tests if not checks(f, [f])]


def always_true(test):
    """Whether a condition is a true constant, a tuple, or compares something with itself (two calls may differ)."""
    if isinstance(test, ast.Constant | ast.Tuple):
        return not isinstance(test, ast.Constant) or bool(test.value)
    if isinstance(test, ast.Compare) and not any(isinstance(node, ast.Call) for node in ast.walk(test)):
        return ast.unparse(test.left) == ast.unparse(test.comparators[0])
    return False

"""The house keeps its own laws: imports run downward, Flax stays where it may be, files and functions stay short."""

import ast
import subprocess
import sys

import pytest

ROOMS = [
    *("cli", "training", "evaluation", "models", "networks", "layers", "interop", "data", "samplers", "processes"),
    *("modalities", "kernels"),
]
FREE = {"sharding", "config", "typing", "errors", "hosts", "precision"}
FLAX = ("layers/", "networks/", "sharding.py", "training/state.py", "models/")


def modules(root):
    for path in sorted((root / "unified_jax").rglob("*.py")):
        yield path.relative_to(root / "unified_jax").as_posix(), path, ast.parse(path.read_text())


def imports(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, node.lineno
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def test_imports_run_downward(root):
    wrong = []
    for name, _, tree in modules(root):
        room = name.split("/")[0]
        for module, line in imports(tree):
            parts = module.split(".")
            if parts[0] != "unified_jax" or len(parts) < 2 or "/" not in name:
                continue
            if parts[1] in ROOMS and ROOMS.index(parts[1]) < ROOMS.index(room):
                wrong.append(f"{name}:{line} imports {module}")
            elif parts[1] not in ROOMS and parts[1] not in FREE:
                wrong.append(f"{name}:{line} imports {module}, which is no room")
    assert not wrong, wrong


def test_flax_is_where_it_may_be(root):
    wrong = []
    for name, _, tree in modules(root):
        for module, line in imports(tree):
            if module.split(".")[0] != "flax" or module == "flax":
                continue
            if not name.startswith(FLAX) or module.split(".")[1] not in ("linen", "struct"):
                wrong.append(f"{name}:{line} imports {module}")
            if module.startswith("flax.linen.partitioning"):
                wrong.append(f"{name}:{line} imports {module}")
        wrong += [f"{name}:{line} imports {m}" for m, line in imports(tree) if m.startswith("jax._src")]
    assert not wrong, wrong


def test_files_and_functions_are_short(root):
    wrong = []
    for name, path, tree in modules(root):
        lines = len(path.read_text().splitlines())
        if lines > 270:
            wrong.append(f"{name}: {lines} lines")
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and (length := (node.end_lineno or 0) - node.lineno + 1) > 60:
                wrong.append(f"{name}:{node.lineno} {node.name}: {length} lines")
    assert not wrong, wrong


def test_the_scripts_are_thin(root):
    assert all(len((root / script).read_text().splitlines()) < 120 for script in ("train.py", "sample.py"))


def test_every_test_can_fail(root):
    for path in (root / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                body = ast.unparse(node)
                assert any(word in body for word in ("assert", "raises")), f"{path.name}: {node.name}"


@pytest.mark.parametrize("module", ["unified_jax", "unified_jax.data.world", "unified_jax.cli.entry"])
def test_light_modules_stay_light(module):
    code = f"import sys, {module}; print([m for m in ('jax', 'tensorflow_datasets', 'grain') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_kernels_to_train_step_need_no_data_packages():
    """They run on machines that have neither Grain nor TFDS nor tyro."""
    code = """
import sys
for name in ("grain", "tensorflow_datasets", "tyro", "tensorboardX", "orbax", "orbax.checkpoint"):
    sys.modules[name] = None
import unified_jax.models.diffusion, unified_jax.models.sampling, unified_jax.training.step
import unified_jax.kernels.choice, unified_jax.samplers.ode, unified_jax.processes.gaussian
print("fine")
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stdout.strip() == "fine", found.stderr

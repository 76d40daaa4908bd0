"""The house keeps its own laws: imports run downward, Flax stays where it may be, files and functions stay short."""

import subprocess
import sys

import pytest

from tests.laws import FUNCTION_LINES, LINES, cannot_fail, misplaced, too_long, upward


def found_by(law, files, base):
    return [one for path in sorted(files) for one in law(path.read_text(), path.relative_to(base).as_posix())]


@pytest.mark.parametrize("law", [upward, misplaced, too_long])
def test_the_library_keeps_its_laws(root, law):
    package = root / "unified_jax"
    wrong = found_by(law, package.rglob("*.py"), package)
    assert not wrong, wrong


def test_every_test_can_fail(root):
    wrong = found_by(cannot_fail, (root / "tests").rglob("test_*.py"), root / "tests")
    assert not wrong, wrong


def test_the_scripts_are_thin(root):
    assert all(len((root / script).read_text().splitlines()) < 120 for script in ("train.py", "sample.py"))


UPWARD = [
    "from unified_jax.cli import sample",
    "from unified_jax import cli",
    "import unified_jax.cli.sample as s",
    "from ..cli import sample",
    "from .. import cli",
    "from ..cli.sample import parse",
    "def f():\n    from unified_jax.cli import sample",
    "if TYPE_CHECKING:\n    from unified_jax.cli.sample import Sample",
    "import unified_jax\nunified_jax.cli.sample.main()",
    "import unified_jax as u\ngetattr(u, 'cli')",
    "from importlib import import_module as load\nload('unified_jax.cli.sample')",
    "import importlib\nimportlib.import_module('..cli', __package__)",
    "import importlib\nimportlib.import_module(name='unified_jax.cli')",
    "__import__('unified_jax.cli')",
    "import importlib\nimportlib.import_module('unified_jax.' + room)",
    "import pkgutil\npkgutil.resolve_name('unified_jax.cli:main')",
    "from unified_jax.attic import old",
    "from unified_jax import *",
]
MISPLACED = [
    *("import flax", "import flax.linen as nn", "from flax import struct", "def f():\n    import flax.struct"),
    *("import jax\njax._src.core", "from jax._src import core", "from jax import _src"),
]
MISPLACED_EVERYWHERE = [
    *("import flax\nflax.nnx.Linear", "import flax\nflax.training.train_state", "from flax import nnx"),
    *("import flax as f\nf.nnx", "from flax.training import checkpoints", "import flax\ngetattr(flax, 'nnx')"),
    *("import flax.linen as nn\nnn.partitioning.x", "from flax.linen import partitioning"),
]
LONG = ["def f():", "async def f():", "class A:\n  def f(self):", "def g():\n  async def f():"]
HOLLOW = [
    "def test_a():\n    'It asserts and raises.'\n    f()",
    "def test_a():\n    f()",
    "def test_a():\n    f()  # assert",
    "async def test_a():\n    f()",
    "class TestA:\n    def test_a(self):\n        f()",
    "def f():\n    g()\ndef g():\n    f()\ndef test_a():\n    f()",
    *(
        "def test_a():\n    assert True",
        "def test_a():\n    assert (f(), 'always')",
        "def test_a():\n    assert a.b == a.b",
    ),
]


@pytest.mark.parametrize(
    ("law", "name", "source"),
    [
        *((upward, "training/step.py", source) for source in UPWARD),
        *((upward, name, "from unified_jax.cli import recipe") for name in ("config.py", "typing.py", "__init__.py")),
        *((upward, "config.py", source) for source in ("from .kernels import xla", "from . import kernels")),
        *((upward, "samplers/deep/new.py", source) for source in ("from ...models import plan", "from ... import cli")),
        (upward, "attic/old.py", ""),
        *((misplaced, "training/step.py", source) for source in MISPLACED),
        *((misplaced, "layers/mlp.py", source) for source in MISPLACED_EVERYWHERE),
        *((too_long, "a.py", head + "\n    x()" * FUNCTION_LINES) for head in LONG),
        (too_long, "a.py", "x()\n" * (LINES + 1)),
        *((cannot_fail, "test_a.py", source) for source in HOLLOW),
    ],
)
def test_what_breaks_a_law_is_found(law, name, source):
    assert law(source, name), source


@pytest.mark.parametrize(
    ("law", "name", "source"),
    [
        (upward, "training/step.py", "from ..models import base\nfrom . import ema\nfrom unified_jax.errors import E"),
        (upward, "config.py", "import importlib\nimportlib.import_module(name)\nfrom .errors import UserError"),
        (misplaced, "layers/mlp.py", "import flax.linen as nn\nimport flax\nflax.struct.dataclass\nnn.Module"),
        (too_long, "a.py", "def f():" + "\n    x()" * (FUNCTION_LINES - 1)),
        (cannot_fail, "test_a.py", "def f():\n    g()\ndef g():\n    assert x == y\ndef test_a():\n    f()"),
        (
            cannot_fail,
            "test_a.py",
            "def test_a():\n    assert f() == f()\n    with pytest.raises(E):\n        f()",
        ),
    ],
)
def test_what_keeps_a_law_is_left_alone(law, name, source):
    assert not law(source, name)


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

"""Eight fake CPU devices for the whole suite, unless `make gpu` asks for the GPU; shared sets where present."""

import gc
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

os.environ["JAX_PLATFORMS"] = os.environ.get("TEST_PLATFORMS", "cpu")
# Compiled programs are kept for the session, for all its processes: the first process of pytest makes the folder.
os.environ["JAX_COMPILATION_CACHE_DIR"] = os.environ.get("JAX_COMPILATION_CACHE_DIR") or tempfile.mkdtemp("-compiled")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
os.environ["PJRT_NPROC"] = "128"  # threads enough for all collectives at once (`cli.entry.use_fake_devices`)
# Most of the suite's time is spent in compilers; small programs need no optimised machine code, nor to be cut up for
# several threads, and XLA's older emitters of loops compile in half the time (jax 0.11 has them no more, and refuses
# the flag).
os.environ["XLA_FLAGS"] = " ".join(
    (
        os.environ.get("XLA_FLAGS", ""),
        "--xla_backend_optimization_level=0",
        "--xla_llvm_disable_expensive_passes=true",
        "--xla_cpu_parallel_codegen_split_count=1",
        "--xla_cpu_use_fusion_emitters=false" if version("jax").startswith("0.10.") else "",
    )
    if os.environ["JAX_PLATFORMS"] == "cpu"
    else (os.environ.get("XLA_FLAGS", ""),)
)

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)
gc.set_threshold(20_000, 20, 50)  # tracing makes many objects that live; the default looks at them all too often

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"


@pytest.fixture
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture
def shared_data() -> Path:
    """TFDS sets beside the checkout; the test is skipped where there are none."""
    folder = SHARED / "data" / "tfds"
    if not folder.is_dir():
        pytest.skip("not verified: no shared data beside the checkout")
    return folder


@pytest.fixture
def shared_goldens() -> Path:
    """Reference numbers beside the checkout; the test is skipped where there are none."""
    folder = SHARED / "goldens"
    if not folder.is_dir():
        pytest.skip("not verified: no shared goldens beside the checkout")
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with the most slow tests come first, so that no worker is left with a long one at the end."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


def pytest_unconfigure() -> None:
    """Drops what the session compiled, once its last process is done."""
    folder = os.environ["JAX_COMPILATION_CACHE_DIR"]
    if "PYTEST_XDIST_WORKER" not in os.environ and folder.endswith("-compiled"):
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def cache() -> str:
    """Compiled programs, shared by all processes that the suite starts."""
    return os.environ["JAX_COMPILATION_CACHE_DIR"]


@pytest.fixture(scope="module", autouse=True)
def little_memory() -> Iterator[None]:
    """Compiled programs of earlier files are dropped where the process holds more than 2.5 GB (as Linux tells it)."""
    yield
    held = Path("/proc/self/statm")
    if held.is_file() and int(held.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") > 2.5e9:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small experiment as a recipe file."""
    from tests.helpers import write_recipe

    return write_recipe(tmp_path_factory.mktemp("recipe"))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a network that is traced sooner, as a recipe file."""
    from tests.helpers import write_recipe

    return write_recipe(tmp_path_factory.mktemp("recipe"), "TINY")


@pytest.fixture(scope="module")
def one_device() -> Iterator[None]:
    """Runs of a file's own process take the first of the fake devices."""
    from tests.helpers import on_one_device

    with pytest.MonkeyPatch.context() as patch:
        on_one_device(patch)
        yield

"""Weights files: what is read, and what is refused in a sentence without running anything."""

import builtins
import pickle
import stat
import sys
import types
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from unified_jax.errors import UserError
from unified_jax.interop import files


class Harmful:
    """Unpickling it would leave a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_half_precision_is_widened_and_the_rest_is_as_it_is(tmp_path):
    half, exact = np.asarray([1.0, -2.5], ml_dtypes.bfloat16), np.asarray([[0.1]], np.float32)
    save_file({"a": half, "b": exact, "c": np.asarray([0.5], np.float16)}, tmp_path / "x.safetensors")
    found = files.read(tmp_path / "x.safetensors")
    assert {value.dtype.name for value in found.values()} == {"float32"}
    assert found["a"].tolist() == [1.0, -2.5]
    assert found["b"].tobytes() == exact.tobytes()


def test_written_files_are_whole_readable_and_never_replaced(tmp_path):
    path = tmp_path / "new" / "x.safetensors"
    files.write(path, {"a": np.arange(6, dtype=np.float32).reshape(2, 3).T}, {"k": "v"})
    assert files.read(path)["a"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert files.read_metadata(path) == {"k": "v"}
    assert path.stat().st_mode & stat.S_IRGRP
    assert [p.name for p in path.parent.iterdir()] == ["x.safetensors"]
    with pytest.raises(UserError, match="exists already"):
        files.write(path, {}, {})
    with pytest.raises(UserError, match=r"ends in \.safetensors"):
        files.write(tmp_path / "x.pt", {}, {})
    with pytest.raises(UserError, match="cannot be written"):
        files.write(path / "below.safetensors", {"a": np.zeros(1, np.float32)}, {})


def test_damaged_and_strange_files(tmp_path):
    good = tmp_path / "good.safetensors"
    save_file({"a": np.zeros(1000, np.float32)}, good)
    contents = {
        "short": good.read_bytes()[:-100],
        "garbage": b"nonsense" * 50,
        "nothing": b"",
        "huge": b"\xff" * 8 + b"{}",
        "pickle": pickle.dumps(Harmful(tmp_path / "harm")),
    }
    for name, content in contents.items():
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(content)
        with pytest.raises(UserError, match=f"{name}.safetensors' cannot be read; it is damaged or of another kind"):
            files.read(path)
    assert not (tmp_path / "harm").exists()
    save_file({"n": np.zeros(3, np.int64)}, tmp_path / "ints.safetensors")
    save_file({}, tmp_path / "empty.safetensors")
    (tmp_path / "x.npz").write_bytes(b"")
    for name, words in (
        ("ints.safetensors", r"expected floats: n \(int64\)"),
        ("empty.safetensors", "holds no array"),
        ("x.npz", r"ends in \.safetensors, \.pt"),
        ("none.pt", "does not exist"),
    ):
        with pytest.raises(UserError, match=words):
            files.read(tmp_path / name)


def test_torch_files_need_torch(tmp_path, monkeypatch):
    real = builtins.__import__

    def without_torch(name, *rest):
        if name == "torch":
            raise ImportError("No module named 'torch'")
        return real(name, *rest)

    (tmp_path / "x.pt").write_bytes(b"")
    monkeypatch.setattr(builtins, "__import__", without_torch)
    with pytest.raises(UserError, match=r"torch is not installed; install it .* or save the weights as \.safetensors"):
        files.read(tmp_path / "x.pt")


class Tensor:
    """As much of torch.Tensor as reading needs."""

    def __init__(self, *values):
        self.values, self.dtype = np.asarray(values, np.float32), "float32"

    def detach(self):
        return self

    def numpy(self):
        return self.values


@pytest.fixture
def torch(monkeypatch):
    """A stand-in for torch whose `load` answers or raises what `torch.answer` is."""
    fake = types.ModuleType("torch")

    class SafeGlobals:
        def __init__(self, allowed):
            assert [a.__name__ for a in allowed] == ["Namespace"]

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

    def load(path, map_location, weights_only):
        assert (map_location, weights_only) == ("cpu", True)
        if isinstance(fake.answer, Exception):
            raise fake.answer
        return fake.answer

    fake.Tensor, fake.bfloat16, fake.float32 = Tensor, "bfloat16", "float32"
    fake.serialization = types.SimpleNamespace(safe_globals=SafeGlobals)
    fake.load = load
    monkeypatch.setitem(sys.modules, "torch", fake)
    return fake


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (EOFError(), "damaged or of another kind: EOFError"),
        (RuntimeError("PytorchStreamReader failed"), "damaged or of another kind: PytorchStreamReader failed"),
        (pickle.UnpicklingError("Weights only load failed. Unsupported global"), "may run code, so it is not read"),
        ([1, 2], "holds a list, expected a state dict"),
        ({"a": Tensor(1.0), "epoch": 3}, "entries that are not arrays: epoch"),
        ({"model": {"a": Tensor(1.0)}, "net": {"a": Tensor(1.0)}}, "several sets of weights: model, net"),
        ({"a": Tensor(float("nan"), 1.0)}, r"not finite .*: 1 in 1 of 1 arrays, first a \(1\)"),
    ],
)
def test_torch_files_that_are_refused(tmp_path, torch, answer, words):
    torch.answer = answer
    (tmp_path / "x.pt").write_bytes(b"")
    with pytest.raises(UserError, match=words):
        files.read(tmp_path / "x.pt")


def test_a_training_checkpoint_gives_its_average(tmp_path, torch):
    torch.answer = {"model": {"a": Tensor(1.0)}, "ema": {"a": Tensor(2.0)}, "opt": {}, "args": object()}
    (tmp_path / "x.pt").write_bytes(b"")
    assert files.read(tmp_path / "x.pt")["a"].tolist() == [2.0]
    assert files.read(tmp_path / "x.pt", average=False)["a"].tolist() == [1.0]
    assert files.read_weights(tmp_path / "x.pt").said == ("took 'ema' of x.pt, not 'model' (--ema none)",)
    torch.answer = {"ema": {"a": Tensor(2.0)}}
    with pytest.raises(UserError, match="has no weights besides its"):
        files.read(tmp_path / "x.pt", average=False)
    torch.answer = {"state_dict": {"model": {"module.a": Tensor(4.0)}}, "epoch": 3}
    found = files.read_weights(tmp_path / "x.pt")
    assert found.tensors["a"].tolist() == [4.0]
    assert found.said == ("took 'state_dict' of x.pt, which holds no average",)
    torch.answer = {"a": Tensor(3.0)}
    assert files.read(tmp_path / "x.pt")["a"].tolist() == [3.0]

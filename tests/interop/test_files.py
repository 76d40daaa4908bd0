"""Weights files: what is read, and what is refused in a sentence without running anything."""

import builtins
import json
import pickle
import stat
import struct
import sys
import types
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from unified_jax.errors import UserError
from unified_jax.interop import files
from unified_jax.interop.names import account


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
    with pytest.raises(UserError, match="is there already"):
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


def raw_file(path, **arrays):
    """A safetensors file of {name: (kind, shape, bytes)}."""
    header, data = {}, b""
    for name, (kind, shape, content) in arrays.items():
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def eight(values, dtype=ml_dtypes.float8_e4m3fn, kind="F8_E4M3"):
    values = np.asarray(values, dtype)
    return kind, list(values.shape), values.tobytes()


def wide(values):
    values = np.asarray(values, np.float32)
    return "F32", list(values.shape), values.tobytes()


def test_eight_bits_are_widened_exactly(tmp_path):
    """Every finite number that F8 has, between other arrays, so that a wrong offset shows."""
    for kind, dtype in (("F8_E4M3", ml_dtypes.float8_e4m3fn), ("F8_E5M2", ml_dtypes.float8_e5m2)):
        every = np.arange(256, dtype=np.uint8).view(dtype)
        every = every[np.isfinite(every.astype(np.float32))]
        path = raw_file(tmp_path / f"{kind}.safetensors", a=wide([1.5]), b=eight(every, dtype, kind), c=wide([2.5]))
        found = files.read(path)
        np.testing.assert_array_equal(found["b"], every.astype(np.float32))
        assert (found["a"].tolist(), found["c"].tolist()) == ([1.5], [2.5])
    for kind, count in (("F8_E8M0", 2), ("F4", 1), ("C64", 16)):
        path = raw_file(tmp_path / f"{kind}.safetensors", w=(kind, [2], bytes(count)))
        with pytest.raises(UserError, match=rf"of a kind that is not read here: w \({kind}\)"):
            files.read(path)


def test_scales_of_eight_bit_weights_are_multiplied_in_or_refused(tmp_path):
    weight = np.arange(6.0).reshape(2, 3)
    for scale, value, factor in (
        ("a.weight_scale", 0.5, 0.5),
        ("a.weight_scale", [[0.5], [2.0]], np.asarray([[0.5], [2.0]])),
        ("a.scale_weight", [4.0], 4.0),
        ("a.weight_scale_inv", [[3.0]], 3.0),
    ):
        arrays = {"a.weight": eight(weight), scale: wide(value), "b": wide([1.0])}
        arrays |= {"scaled_fp8": eight([0.0])} if scale == "a.scale_weight" else {}
        found = files.read(raw_file(tmp_path / "x.safetensors", **arrays))
        assert set(found) == {"a.weight", "b"}
        np.testing.assert_array_equal(found["a.weight"], weight * factor)
    big = np.ones((130, 2), np.float32)
    blocks = {"a.weight": eight(big), "a.weight_scale_inv": wide([[2.0], [3.0]])}
    assert files.read(raw_file(tmp_path / "x.safetensors", **blocks))["a.weight"][[0, 127, 128, 129], 1].tolist() == [
        2, 2, 3, 3,
    ]  # fmt: skip
    for name, value, words in (
        ("a.input_scale", [1.0], "of a convention that is not known here: a.input_scale"),
        ("a.weight_scale", [1.0, 2.0, 3.0], r"the scale a.weight_scale \[3\] does not fit a.weight \[2, 3\]"),
    ):
        arrays = {"a.weight": eight(weight), name: wide(value)}
        with pytest.raises(UserError, match=words):
            files.read(raw_file(tmp_path / "x.safetensors", **arrays))


def test_numbers_that_are_not_finite_are_refused_by_name_both_ways(tmp_path):
    nan = np.asarray([1.0, np.nan, np.inf], np.float32)
    for value, count in ((nan, 2), (np.asarray([1e300]), 1), (np.asarray([np.nan], np.float16), 1)):
        save_file({"a": np.zeros(2, np.float32), "b": value}, tmp_path / "x.safetensors")
        with pytest.raises(UserError, match=rf"x.safetensors' .*not finite .*: {count} in 1 of 2 arrays, first b"):
            files.read(tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=r"not finite .* first b"):
        files.write(tmp_path / "y.safetensors", {"b": nan}, {})
    assert not (tmp_path / "y.safetensors").exists()


def test_what_training_puts_before_names_is_taken_off(tmp_path):
    path = tmp_path / "x.safetensors"
    ones, twos = np.ones(1, np.float32), np.full(1, 2, np.float32)
    for names in (
        ("module.a.w", "module.b"),
        ("module._orig_mod.a.w", "module._orig_mod.b"),
        ("a._orig_mod.w", "module.b"),
        ("state_dict.model.a._fsdp_wrapped_module.w", "state_dict.model.b"),
        ("ema.a.w", "ema.b"),
        ("a.w", "b"),
    ):
        save_file({names[0]: ones, names[1]: twos}, path)
        assert set(files.read(path)) == {"a.w", "b"}, names
    save_file({"model.a": ones, "ema.module.a": twos}, path)
    assert files.read(path)["a"].tolist() == [2]
    assert files.read(path, average=False)["a"].tolist() == [1]
    assert files.read_weights(path).said == ("took ema.module.a and the like, not model.a (--ema none)",)
    save_file({"model.a": ones, "net.a": twos}, path)
    with pytest.raises(UserError, match=r"holds a twice, as model\.a and net\.a"):
        files.read(path)
    with pytest.raises(UserError, match=r"all its names begin with the prefix 'vae\.up\.'"):
        account("X", {"vae.up.a": (1,), "vae.up.b.c": (1,)}, {"a": (1,)})


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
        ({"a": Tensor(1.0), "epoch": 3}, "entries that are no arrays: epoch"),
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
    with pytest.raises(UserError, match="has no trained weights beside its average"):
        files.read(tmp_path / "x.pt", average=False)
    torch.answer = {"state_dict": {"model": {"module.a": Tensor(4.0)}}, "epoch": 3}
    found = files.read_weights(tmp_path / "x.pt")
    assert found.tensors["a"].tolist() == [4.0]
    assert found.said == ("took 'state_dict' of x.pt, which holds no average",)
    torch.answer = {"a": Tensor(3.0)}
    assert files.read(tmp_path / "x.pt")["a"].tolist() == [3.0]

"""Numbers and names as others store them: F8 and its scales, what is not finite, what training puts before names."""

import json
import struct

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from unified_jax.errors import UserError
from unified_jax.interop import files, folder
from unified_jax.interop.autoencoders import published
from unified_jax.interop.names import account


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
        with pytest.raises(UserError, match=rf"of an unsupported dtype: w \({kind}\)"):
            files.read(path)


def test_eight_bit_weights_of_a_folder_keep_their_scales(tmp_path):
    """The arrays of another tower are not read, and so not their scales."""
    weight = np.arange(6.0).reshape(2, 3)
    arrays = {"text.a.weight": eight(weight), "text.a.weight_scale": wide(0.5), "vision.b.weight_scale": wide(3.0)}
    raw_file(tmp_path / "model.safetensors", **arrays)
    found = folder.tensors(tmp_path, lambda name: name == "text.a.weight")
    np.testing.assert_array_equal(found.pop("text.a.weight"), 0.5 * weight)
    assert not found


def test_eight_bit_weights_of_an_autoencoder(tmp_path):
    path = raw_file(tmp_path / "model.safetensors", **{"encoder.conv_in.weight": eight(np.arange(6.0))})
    np.testing.assert_array_equal(published.tensors(path)["encoder.conv_in.weight"], np.arange(6.0))


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
        ("a.input_scale", [1.0], "of an unknown convention: a.input_scale"),
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


def test_files_that_torch_itself_wrote(tmp_path):
    """Every precision, views, a nested checkpoint of compiled modules; what is no plain array is a sentence."""
    torch = pytest.importorskip("torch", reason="not verified: torch is not installed")
    w = torch.arange(6.0).reshape(2, 3)
    path = tmp_path / "x.ckpt"
    kinds = (torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2)
    torch.save({"state_dict": {f"module._orig_mod.{i}": w.T.to(kind) for i, kind in enumerate(kinds)}}, path)
    found = files.read(path)
    assert sorted(found) == ["0", "1", "2", "3", "4"]
    for value in found.values():
        np.testing.assert_array_equal(value, w.T.numpy())
    torch.save({"a.weight": w.to(torch.float8_e4m3fn), "a.weight_scale": torch.tensor(2.0)}, path)
    np.testing.assert_array_equal(files.read(path)["a.weight"], 2 * w.numpy())
    whole = path.read_bytes()
    for strange, words in (
        ({"a": w.to_sparse()}, "a cannot be read as a plain array"),
        ({"a": torch.empty(3, device="meta")}, "a cannot be read as a plain array"),
        ({"a": w.to(torch.complex64)}, "expected floats: a"),
        (torch.nn.Linear(2, 2), "may run code, so it is not read"),
        (w, "holds a Tensor, expected a state dict"),
    ):
        torch.save(strange, path)
        with pytest.raises(UserError, match=words):
            files.read(path)
    for damaged in (whole[:-40], whole[: len(whole) // 2], b"", b"\x00" * 100):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"x\.ckpt'"):
            files.read(path)

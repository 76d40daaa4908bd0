"""The environment cannot change a draw: flags are held, keys name their generator, and what is left is noticed."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unified_jax.errors import UserError
from unified_jax.models.sampling import sample_keys
from unified_jax.precision import FIXED, REFUSED, same_numbers, seed_key
from unified_jax.runs.draws import check_same_draws, described

OTHERWISE = {
    "jax_default_prng_impl": "rbg",
    "jax_random_seed_offset": 7,
    "jax_threefry_partitionable": False,
    "jax_high_dynamic_range_gumbel": True,
    "jax_enable_x64": True,
    "jax_explicit_x64_dtypes": "allow",
    "jax_allow_f16_reductions": False,
    "jax_default_matmul_precision": "bfloat16",
    "jax_softmax_custom_jvp": True,
    "eager_constant_folding": True,
    "jax_disable_jit": True,
    "jax_numpy_dtype_promotion": "strict",
    "jax_numpy_rank_promotion": "raise",
    "jax_debug_key_reuse": True,
    "jax_transfer_guard_host_to_device": "disallow",
    "jax_transfer_guard_device_to_device": "disallow",
    "jax_transfer_guard_device_to_host": "disallow",
}
CHANGES_A_DRAW = ("jax_default_prng_impl", "jax_threefry_partitionable", "jax_high_dynamic_range_gumbel")


def drawn():
    """What a step and a sampler draw: initial parameters, noise, tokens of sample 2 for two batches, and its kinds."""
    params: Any = nn.Dense(2).init(seed_key(0), jnp.ones((1, 3)))["params"]
    found = [params["kernel"]] + [jax.random.gumbel(sample_keys(5, 0, count)[2], (4,)) for count in (3, 4)]
    found += [jnp.zeros((2, 3), jnp.float32) + jnp.arange(3) * np.float32(0.5)]
    return [(str(x.dtype), np.asarray(x).tolist()) for x in found]


@pytest.fixture(scope="module")
def usual():
    with same_numbers():
        return drawn()


def test_every_flag_that_is_held_is_tried():
    assert set(OTHERWISE) == set(FIXED)


@pytest.mark.parametrize("name", OTHERWISE)
def test_no_flag_changes_what_is_drawn(name, usual):
    before = getattr(jax.config, name)
    jax.config.update(name, OTHERWISE[name])
    try:
        set_to = getattr(jax.config, name)
        with same_numbers():
            assert drawn() == usual
            assert getattr(jax.config, name) != set_to
        assert getattr(jax.config, name) == set_to
        if name in CHANGES_A_DRAW:
            key = jax.random.key(5)
            assert jax.random.gumbel(key, (4,)).tolist() != usual_gumbel()
    finally:
        jax.config.update(name, before)


def usual_gumbel():
    with same_numbers():
        return jax.random.gumbel(jax.random.key(5), (4,)).tolist()


@pytest.mark.parametrize("name", REFUSED)
def test_variables_of_flax_that_would_change_a_draw_are_refused(name, monkeypatch):
    monkeypatch.setenv(name, "0")
    with same_numbers():
        pass
    monkeypatch.setenv(name, "True")
    with pytest.raises(UserError, match=f"{name} is set: .* Unset it"), same_numbers():
        pass


def test_a_caller_that_asks_for_64_bits_has_them_back():
    with jax.enable_x64(True):
        with same_numbers():
            assert jnp.ones(1).dtype == jnp.float32
        assert jnp.ones(1).dtype == jnp.float64
    assert jnp.ones(1).dtype == jnp.float32


def test_a_key_is_that_of_its_seed():
    for seed in (0, 17, 2**31 - 1):
        expected = jax.random.key_data(jax.random.key(seed, impl="threefry2x32"))
        assert (jax.random.key_data(seed_key(seed)) == expected).all()
        assert (jax.random.key_data(jax.jit(seed_key)(seed)) == expected).all()
    for seed in (-1, 2**32):
        with pytest.raises(ValueError, match=r"0 .. 2\^32 - 1"):
            seed_key(seed)


def test_variables_of_the_environment_change_no_draw(usual):
    code = (
        "import sys; sys.path.insert(0, '.')\nimport json\nfrom tests.runs.test_draws import drawn, same_numbers\n"
        "with same_numbers(): print(json.dumps(drawn()))"
    )
    variables = {
        "JAX_DEFAULT_PRNG_IMPL": "unsafe_rbg", "JAX_RANDOM_SEED_OFFSET": "7", "JAX_THREEFRY_PARTITIONABLE": "0",
        "JAX_ENABLE_X64": "1", "JAX_HIGH_DYNAMIC_RANGE_GUMBEL": "1", "JAX_NUMPY_DTYPE_PROMOTION": "strict",
        "JAX_NUMPY_RANK_PROMOTION": "raise", "JAX_TRANSFER_GUARD": "disallow",
        "JAX_DEFAULT_MATMUL_PRECISION": "bfloat16",
        "PYTHONHASHSEED": "11",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[2], env=os.environ | variables,
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [tuple(one) for one in json.loads(done.stdout)] == usual


def test_a_run_that_drew_other_numbers_is_not_resumed(tmp_path):
    check_same_draws(tmp_path)  # there is no record
    record = described({"JAX_X": "1", "HOME": "/root", "PYTHONHASHSEED": "0"})
    assert record["variables"] == {"JAX_X": "1", "PYTHONHASHSEED": "0"}
    (tmp_path / "environment.json").write_text(json.dumps(record))
    check_same_draws(tmp_path)
    (tmp_path / "environment.json").write_text(json.dumps(record | {"draws": "0" * 12}))
    with pytest.raises(UserError, match=r"used other random numbers .*JAX_X \(1 -> not set\).*another --run-dir"):
        check_same_draws(tmp_path)
    for torn in ("{", "[]", "{}", '{"draws": null}'):
        (tmp_path / "environment.json").write_text(torn)
        if "draws" not in torn:
            check_same_draws(tmp_path)

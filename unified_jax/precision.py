"""The same numbers everywhere: float32 means float32 on every device, and the environment cannot change random numbers.

By default a GPU multiplies float32 matrices in TF32 (a mantissa of 10 bits) and a TPU in one pass of bfloat16 (7
bits): the same recipe would train by other numbers there than on a CPU. So every product names its precision, and its
gradients inherit it. Set a network's `dtype="bfloat16"` for the speed of shorter numbers.

JAX also reads flags from the environment that change random numbers or rounding: another generator of random
bits, an offset on every seed, 64-bit numbers, strict promotion. `same_numbers` holds each of them at the value that
this package was made for, and refuses those of Flax; `seed_key` makes a key that depends only on its seed. Flags that
only look for faults (JAX_DEBUG_NANS, JAX_LOG_COMPILES) and those that choose devices are left as they are.
"""

import contextlib
import functools
import operator
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from unified_jax.errors import UserError

EXACT = jax.lax.Precision.HIGHEST
"""The precision of products of float32 arrays."""

KEYS = "threefry2x32"
"""The generator of every random number; under others a sample depends on its batch."""

FIXED = {
    "jax_default_prng_impl": KEYS,  # another stream of bits; of rbg's keys, vmap uses the first alone
    "jax_random_seed_offset": 0,  # another seed
    "jax_threefry_partitionable": True,  # another stream; without it, draws depend on the mesh
    "jax_high_dynamic_range_gumbel": False,  # other tokens and categories
    "jax_enable_x64": False,  # other draws, and types that do not meet
    "jax_explicit_x64_dtypes": "warn",  # the same, where a type is named
    "jax_allow_f16_reductions": True,  # other sums in bfloat16
    "jax_default_matmul_precision": None,  # other products where none is named (shorter dtypes)
    "jax_softmax_custom_jvp": False,  # other rounding of gradients
    "eager_constant_folding": False,  # other rounding
    "jax_disable_jit": False,  # other rounding, and hours
    "jax_numpy_dtype_promotion": "standard",  # strict refuses right programs
    "jax_numpy_rank_promotion": "allow",  # the same
    "jax_debug_key_reuse": False,  # the same: our streams are folded from one key on purpose
    "jax_transfer_guard_host_to_device": "allow",  # the same: numbers from the host are meant
    "jax_transfer_guard_device_to_device": "allow",
    "jax_transfer_guard_device_to_host": "allow",
}
"""Flags of JAX, and the values under which everything here is computed."""

REFUSED = {
    "FLAX_FIX_RNG_SEPARATOR": "initial parameters would be drawn otherwise",
    "FLAX_RETURN_FROZENDICT": "parameters would be another kind of tree",
    "FLAX_PRESERVE_ADOPTED_NAMES": "parameters would have other names",
}
"""Variables that Flax reads when it is imported, and what they would do: they must be off."""


def precision(dtype: DTypeLike) -> jax.lax.Precision:
    """That of a product whose operands have this dtype: full for float32, nothing to ask for in shorter ones."""
    return EXACT if jnp.dtype(dtype) == jnp.float32 else jax.lax.Precision.DEFAULT


@functools.cache
def multiplies_bfloat16() -> bool:
    """Whether this processor has AVX512_BF16 or AMX_BF16, as Linux tells it; False where that cannot be told."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    return "avx512_bf16" in flags or "amx_bf16" in flags


@contextlib.contextmanager
def same_numbers() -> Iterator[None]:
    """Everything inside computes with the flags above; also a decorator, `@same_numbers()`.

    A flag is touched only where it differs, and put back afterwards: by JAX's own context manager where there is one,
    else for all threads. Raises UserError where one of Flax' variables is set.
    """
    for name, effect in REFUSED.items():
        if os.environ.get(name, "").lower() in ("y", "yes", "t", "true", "on", "1"):
            raise UserError(f"The variable {name} is set: {effect}. Unset it and start again.")
    with contextlib.ExitStack() as stack:
        for name, value in FIXED.items():
            found = getattr(jax.config, name, value)  # a flag that a later version has dropped cannot differ
            if _same(found, value):
                continue
            manager = getattr(jax, name.removeprefix("jax_"), None)
            if manager is not None:
                stack.enter_context(manager(value))
            else:
                jax.config.update(name, value)
                stack.callback(jax.config.update, name, found)
        yield


def _same(found: Any, value: Any) -> bool:
    """JAX answers some flags with members of an enum, and one that was never set with None."""
    return str(getattr(found, "name", found)).lower() == str(value).lower() or (found is None and value == "allow")


def seed_key(seed: int | np.integer | jax.Array) -> jax.Array:
    """The key of a seed in 0 .. 2^32 - 1: that of `jax.random.key`, whatever the environment says."""
    if not isinstance(seed, jax.Array):
        if not 0 <= operator.index(seed) < 2**32:
            raise ValueError(f"A seed must lie in 0 .. 2^32 - 1, found {seed}.")
        return jax.random.wrap_key_data(jnp.asarray([0, seed], jnp.uint32), impl=KEYS)
    low = seed.astype(jnp.uint32)
    return jax.random.wrap_key_data(jnp.stack([jnp.zeros_like(low), low]), impl=KEYS)


def check_seed(seed: int) -> None:
    """Raises UserError for a seed of a run or of samples that is out of range, or no whole number."""
    if not isinstance(seed, int | np.integer) or not 0 <= seed < 2**31:
        raise UserError(f"--seed must lie in 0 .. 2^31 - 1, found {seed}.")

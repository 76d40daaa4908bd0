"""float32 means float32, on every device.

Left to itself a GPU multiplies float32 matrices in TF32 (a mantissa of 10 bits) and a TPU in one pass of bfloat16 (7
bits): the same recipe would train by other numbers there than on a CPU. So every product of ours names its precision,
and its gradients inherit it. Who wants the speed of shorter numbers says so, with a network's `dtype="bfloat16"`.
"""

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

EXACT = jax.lax.Precision.HIGHEST
"""For products of float32 arrays."""


def precision(dtype: DTypeLike) -> jax.lax.Precision:
    """That of a product whose operands have this dtype: full for float32, nothing to ask for in shorter ones."""
    return EXACT if jnp.dtype(dtype) == jnp.float32 else jax.lax.Precision.DEFAULT

"""Low-rank updates find stacked layers by their logical axes, wherever the stack stands."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from unified_jax.interop.names import flatten
from unified_jax.models.tuned import Tuned, Tuning


@dataclasses.dataclass(frozen=True)
class Stacks:
    """Parameters alone: a stack that is not called blocks, and a kernel of no stack."""

    def init(self, key):
        return {
            "encoder": {"layers": {"fc": {"kernel": jnp.ones((3, 4, 5))}, "mix": {"q_kernel": jnp.ones((3, 4, 2, 6))}}},
            "head": {"kernel": jnp.ones((4, 5))},
        }

    def axes(self):
        fc, mix = ("layers", "embed", "mlp"), ("layers", "embed", "heads", "head_dim")
        stack = {"fc": {"kernel": fc}, "mix": {"q_kernel": mix}}
        return {"encoder": {"layers": stack}, "head": {"kernel": ("embed", "mlp")}}


def test_a_stack_of_any_name_gets_one_update_a_layer():
    model = Tuned(Stacks(), Tuning(train=(), lora=(".*",), rank=2, alpha=4.0))
    params = model.init(jax.random.key(0))
    shapes = {path: leaf.shape for path, leaf in flatten(params["lora"]).items()}
    assert shapes == {
        "encoder/layers/fc/kernel/a": (3, 4, 2),
        "encoder/layers/fc/kernel/b": (3, 2, 5),
        "encoder/layers/mix/q_kernel/a": (3, 4, 2),
        "encoder/layers/mix/q_kernel/b": (3, 2, 2, 6),
        "head/kernel/a": (4, 2),
        "head/kernel/b": (2, 5),
    }
    stirred = jax.tree.map(lambda x: x + jnp.arange(x.size).reshape(x.shape) / x.size, params["lora"])
    whole = Stacks().init(None)
    found = flatten(model.compose({"own": {}, "lora": stirred, **model.frozen(whole)}))
    flat = flatten(stirred)
    for path, kernel in flatten(whole).items():
        a, b = np.asarray(flat[f"{path}/a"]), np.asarray(flat[f"{path}/b"])
        layers = [x @ y.reshape(2, -1) for x, y in (zip(a, b, strict=True) if a.ndim == 3 else [(a, b)])]
        by_hand = np.stack(layers).reshape(kernel.shape)
        np.testing.assert_allclose(found[path], kernel + 2.0 * by_hand, rtol=1e-5)

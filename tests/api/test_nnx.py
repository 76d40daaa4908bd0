"""Networks are Linen modules; `flax.nnx.bridge` wraps one for programs written with NNX."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.core import meta

import unified_jax as uj
from tests.helpers import stirred

NETWORK = uj.DiT(depth=1, width=32, heads=2)
FORM = uj.Form("image", (8, 8, 1), (4, 4), 1)


def paths(tree):
    return {jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)}


def test_a_network_inside_nnx_computes_what_linen_applies():
    noisy = (uj.NoisyInput(FORM, jax.random.normal(jax.random.key(1), (2, 8, 8, 1)), jnp.asarray([0.2, 0.7])),)
    params = stirred(lambda key: meta.unbox(NETWORK.init(key, noisy)["params"]))

    @jax.jit
    def inside(params, noisy):
        module = nnx.bridge.ToNNX(NETWORK, rngs=nnx.Rngs(0)).lazy_init(noisy)
        state = nnx.state(module, nnx.Param)
        assert paths(nnx.to_pure_dict(state)) == paths(params)
        nnx.replace_by_pure_dict(state, params)
        nnx.update(module, state)
        return module(noisy)[0]["image"]

    with nnx.use_eager_sharding(False):  # parameters name logical axes, and there is no mesh here
        found = inside(params, noisy)
    expected = jax.jit(NETWORK.apply)({"params": params}, noisy)[0]["image"]
    assert np.abs(np.asarray(expected)).max() > 0.01
    np.testing.assert_allclose(found, expected, atol=1e-6)

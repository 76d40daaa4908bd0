"""The sides of `peers.py`: our DiT and those of other JAX libraries, each with the step and the sampler around it.

    python benchmarks/peers_sides.py SIDE TOKENS kept|given       (a worker; see `serve`)

Every network is a DiT-S: 12 blocks of width 384 with 6 heads, patches of 2, adaLN with gates, an MLP of 4 times the
width. Peers' networks are taken from their public packages as they are, with their own positions, norms and embeddings
of time; a class enters as their networks take one (a vector added to that of time, or a text of one token). Around a
peer's network stands `Around`: rectified flow, AdamW, the average of the weights, the norms and metrics that our train
step computes too, the state donated; sampling is Euler's method, guided, both halves in one batch, in one scan. Ours
are the library's own train step and sampler; PyTorch's are `twin.py`'s, around its DiT and that of diffusers.
"""

import importlib.util
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from turns import timed

DEPTH, WIDTH, HEADS, PATCH, CHANNELS, CLASSES, ROWS = 12, 384, 6, 2, 4, 1000, 8
SIDES = {64: 16, 256: 32}
SCALE, STEPS = 4.0, 10
"""Of guided sampling."""
PACKAGES = {
    "ours": "unified_jax", "hackable-diffusion": "hackable_diffusion", "FlaxDiff": "flaxdiff", "Dew": "dew",
    "torch": "torch", "diffusers": "diffusers",
}  # fmt: skip
"""What each side imports."""
Call = Callable[[Any, Any, Any, Any], Any]
"""(parameters, x, t, classes) -> velocity."""


class Tasks(NamedTuple):
    """What a side can be asked."""

    step: Callable[[], Any]
    sample: Callable[[], Any]
    parameters: int


def batch(tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Images and classes of a step."""
    rng, side = np.random.default_rng(1), SIDES[tokens]
    return rng.integers(0, 256, (ROWS, side, side, CHANNELS), np.uint8), rng.integers(0, CLASSES, ROWS).astype(np.int32)


def blank(tokens: int) -> tuple[Any, Any, Any]:
    """(x, t, classes) of one example."""
    import jax.numpy as jnp

    return jnp.zeros((1, SIDES[tokens], SIDES[tokens], CHANNELS)), jnp.zeros(1), jnp.zeros(1, jnp.int32)


def ours(tokens: int) -> Tasks:
    """The public train step and sampler, with the network as the CPU recipes set it."""
    import jax
    import ours as side

    images, labels = batch(tokens)
    model = side.make_model(SIDES[tokens], CHANNELS, PATCH, CLASSES, {"remat": "none", "unroll": DEPTH})
    params, keys = side.make_params(model), jax.random.split(jax.random.key(0), ROWS)
    trainer = side.Trainer(model, params, images, labels)
    sample = side.sampler(model, params, keys, labels, STEPS, SCALE)
    return Tasks(trainer.step, sample, sum(leaf.size for leaf in jax.tree.leaves(params)))


def hackable(tokens: int) -> tuple[Call, Callable[[Any], Any]]:
    """(call, init) of hackable-diffusion's DiT in its configuration of the original one."""
    import flax.linen as nn
    import jax.numpy as jnp
    from hackable_diffusion.lib.architecture import dit, dit_blocks, normalization

    norm = normalization.NormalizationLayerFactory(
        normalization_method="layer_norm", use_bias=False, use_scale=False, use_conditional_shift=True
    )
    side = SIDES[tokens]
    backbone = dit.DiT(
        num_blocks=DEPTH,
        block=dit_blocks.DiTBlock(
            hidden_size=WIDTH, norm_factory=norm, num_heads=HEADS, ffn_type="dense", ffn_use_bias=True,
            attn_normalize_qk=False, zero_init_output=False,
        ),
        encoder=dit_blocks.Patchify(patch_size=(PATCH, PATCH), embedding_dim=WIDTH),
        decoder=dit_blocks.DePatchify(patch_size=(PATCH, PATCH), output_shape=(side, side, CHANNELS)),
        absolute_posenc=dit_blocks.PositionalEmbedding(),
    )  # fmt: skip

    class Net(nn.Module):
        """The backbone, its time as the original DiT embeds it, and a table of classes."""

        @nn.compact
        def __call__(self, x: Any, t: Any, y: Any) -> Any:
            """The velocity."""
            waves = 1000.0 * t[:, None] * jnp.exp(-np.log(1e4) * jnp.arange(128) / 128)
            c = nn.Dense(WIDTH)(nn.silu(nn.Dense(WIDTH)(jnp.concatenate([jnp.cos(waves), jnp.sin(waves)], -1))))
            c = c + nn.Embed(CLASSES + 1, WIDTH)(y)
            return backbone.copy()(x, {"adaptive_norm": c}, is_training=True)

    return functions_of(Net(), tokens)


def functions_of(net: Any, tokens: int) -> tuple[Call, Callable[[Any], Any]]:
    """(call, init) of a Flax module; what it holds beside its parameters (tables of constants) is made once."""
    import jax

    beside = {name: value for name, value in net.init(jax.random.key(0), *blank(tokens)).items() if name != "params"}
    return (
        lambda params, x, t, y: net.apply({"params": params, **beside}, x, t, y),
        lambda key: net.init(key, *blank(tokens))["params"],
    )


def of_text(tokens: int, network: Any, text: Callable[[Any], Any]) -> tuple[Call, Callable[[Any], Any]]:
    """(call, init) of a network that reads a text: a class is a text of one token."""
    import flax.linen as nn

    class Net(nn.Module):
        """The network and a table of classes."""

        @nn.compact
        def __call__(self, x: Any, t: Any, y: Any) -> Any:
            """The velocity."""
            return network.copy()(x, 1000.0 * t, text(nn.Embed(CLASSES + 1, WIDTH)(y)[:, None]))

    return functions_of(Net(), tokens)


def flaxdiff(tokens: int) -> tuple[Call, Callable[[Any], Any]]:
    """FlaxDiff's SimpleDiT."""
    from flaxdiff.models.simple_dit import SimpleDiT

    network = SimpleDiT(
        output_channels=CHANNELS, patch_size=PATCH, emb_features=WIDTH, num_layers=DEPTH, num_heads=HEADS
    )
    return of_text(tokens, network, lambda text: text)


def dew(tokens: int) -> tuple[Call, Callable[[Any], Any]]:
    """Dew's SimpleDiT."""
    import jax.numpy as jnp
    from dew.nn.backbones.dit import SimpleDiT
    from dew.nn.dit import TextContext

    network = SimpleDiT(
        output_channels=CHANNELS, patch_size=PATCH, emb_features=WIDTH, num_layers=DEPTH, num_heads=HEADS
    )
    return of_text(tokens, network, lambda text: TextContext(text, jnp.ones(text.shape[:2])))


class Around:
    """The step and the sampler around a peer's network."""

    def __init__(self, call: Call, init: Callable[[Any], Any], tokens: int) -> None:
        import jax
        import jax.numpy as jnp
        import optax

        transform = optax.adamw(1e-4, b1=0.9, b2=0.99, weight_decay=0.0)
        images, labels = batch(tokens)
        rng = np.random.default_rng(0)
        params = jax.jit(init)(jax.random.key(0))
        params = jax.tree.map(lambda p: p + 0.02 * rng.standard_normal(p.shape, np.float32), params)
        self.parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
        own, average = (jax.tree.map(jnp.copy, params) for _ in range(2))
        self.state = (own, transform.init(own), average, jnp.zeros((), jnp.int32))
        self.batch = jax.device_put((images, labels))

        def loss_of(params: Any, images: Any, labels: Any, key: Any) -> Any:
            noise, times, drops = jax.random.split(key, 3)
            x0 = images.astype(jnp.float32) / 127.5 - 1
            eps, t = jax.random.normal(noise, x0.shape), jax.random.uniform(times, (ROWS,))
            y = jnp.where(jax.random.uniform(drops, (ROWS,)) < 0.1, CLASSES, labels)
            shaped = t[:, None, None, None]
            return jnp.mean((call(params, (1 - shaped) * x0 + shaped * eps, t, y) - (eps - x0)) ** 2)

        def step(state: Any, batch: Any, key: Any) -> Any:
            params, moments, average, count = state
            loss, gradient = jax.value_and_grad(loss_of)(params, *batch, jax.random.fold_in(key, count))
            updates, moments = transform.update(gradient, moments, params)
            new = optax.apply_updates(params, updates)
            average = jax.tree.map(lambda a, p: 0.999 * a + 0.001 * p, average, new)
            norms = optax.global_norm(gradient), optax.global_norm(new)
            return (new, moments, average, count + 1), (loss, *norms)

        def sample(params: Any, noise: Any, labels: Any) -> Any:
            both = jnp.concatenate([labels, jnp.full_like(labels, CLASSES)])

            def euler(x: Any, t: Any) -> Any:
                v = call(params, jnp.concatenate([x, x]), jnp.full(2 * ROWS, t), both)
                given, null = jnp.split(v, 2)
                return x - (null + SCALE * (given - null)) / STEPS, None

            return jax.lax.scan(euler, noise, 1 - jnp.arange(STEPS) / STEPS)[0]

        self.call, self.draw = jax.jit(step, donate_argnums=0), jax.jit(sample)
        self.key, self.params = jax.random.key(0), params
        self.noise = jax.random.normal(jax.random.key(1), images.shape)

    def step(self) -> Any:
        """One step, finished, with its metrics."""
        import jax

        self.state, metrics = self.call(self.state, self.batch, self.key)
        jax.block_until_ready(self.state)
        return [float(value) for value in metrics]

    def sample(self) -> Any:
        """Guided samples."""
        return np.asarray(self.draw(self.params, self.noise, self.batch[1]))


def torch_tasks(side: str, tokens: int) -> Tasks:
    """PyTorch's: the network of `twin.py`, or diffusers' transformer behind the same call."""
    import torch
    import twin

    images, labels = (torch.tensor(value) for value in batch(tokens))
    shape = twin.Shape(DEPTH, WIDTH, HEADS, SIDES[tokens], CHANNELS, PATCH, CLASSES)
    net: Any = twin.Twin(shape)
    if side == "diffusers":
        from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel

        inner = DiTTransformer2DModel(
            num_attention_heads=HEADS, attention_head_dim=WIDTH // HEADS, in_channels=CHANNELS, out_channels=CHANNELS,
            num_layers=DEPTH, sample_size=SIDES[tokens], patch_size=PATCH, num_embeds_ada_norm=CLASSES, dropout=0.0,
        )  # fmt: skip
        inner.train()

        class Behind(torch.nn.Module):
            """Its call as the twin's; the wrapped network drops no labels of its own."""

            def __init__(self) -> None:
                super().__init__()
                self.inner, self.shape = inner.eval(), shape

            def forward(self, x: Any, t: Any, y: Any) -> Any:
                """The velocity."""
                out = self.inner(x.permute(0, 3, 1, 2), timestep=(1000 * t).long(), class_labels=y).sample
                return out.permute(0, 2, 3, 1)

        net = Behind()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.02 * torch.randn(p.shape))
    trainer = twin.Trainer(net)
    noise = torch.randn(images.shape)
    return Tasks(
        lambda: trainer.step(images, labels),
        lambda: twin.sample(net, noise, labels, CLASSES, STEPS, SCALE, False).numpy(),
        sum(p.numel() for p in net.parameters()),
    )


NETWORKS = {"hackable-diffusion": hackable, "FlaxDiff": flaxdiff, "Dew": dew}


def tasks(side: str, tokens: int) -> Tasks:
    """The tasks of a side."""
    if side == "ours":
        return ours(tokens)
    if side in ("torch", "diffusers"):
        return torch_tasks(side, tokens)
    around = Around(*NETWORKS[side](tokens), tokens)
    return Tasks(around.step, around.sample, around.parameters)


def serve(side: str, tokens: int) -> None:
    """Answers `{"task": NAME}` with the time of one call, and the process's peak of memory so far."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no reply
    begun = time.perf_counter()
    made = tasks(side, tokens)
    answer: dict[str, Any] = {
        "ready": True,
        "parameters": made.parameters,
        "build_seconds": time.perf_counter() - begun,
    }
    print(json.dumps(answer), file=replies, flush=True)
    for line in sys.stdin:
        answer = dict(timed(getattr(made, json.loads(line)["task"])))
        answer["peak_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(json.dumps(answer), file=replies, flush=True)


def main(side: str, tokens: str, heap: str) -> None:
    """One side; with "kept" the allocator is set as train.py sets it."""
    if missing := [name for name in ("unified_jax", PACKAGES[side]) if importlib.util.find_spec(name) is None]:
        print(json.dumps({"ready": False, "missing": missing}), flush=True)
        return
    from unified_jax.cli.heap import keep_heap

    assert heap == "given" or keep_heap(), "the heap cannot be kept here: see unified_jax/cli/heap.py"
    serve(side, int(tokens))


if __name__ == "__main__":
    main(*sys.argv[1:])

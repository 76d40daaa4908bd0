"""What `growth.py` times, at a size each: steps, samples, decoding and reading."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Point:
    """What one size costs."""

    run: Callable[[], Any]
    """One call, finished."""
    flops: float | None = None
    memory: int | None = None
    """Bytes of temporaries that the compiler plans."""


def step_of(model: Any, examples: list[dict[str, Any]]) -> Point:
    """A training step of a model."""
    import jax

    from unified_jax.training.balancing import FixedBalance
    from unified_jax.training.ema import Ema
    from unified_jax.training.flops import count_flops
    from unified_jax.training.optimizer import Optimization
    from unified_jax.training.step import Optimizer, init_state, train_step

    optimizer, balance = Optimizer(Optimization(), (Ema(),), 1000), FixedBalance()
    state = jax.jit(functools.partial(init_state, model, optimizer, balance))(jax.random.key(0))
    slots = np.arange(len(examples), dtype=np.int32)
    if model.packer is not None:
        batch = model.packer.pack(examples, slots, 0, 0)
    else:
        batch = {name: np.stack([one[name] for one in examples]) for name in examples[0]} | {"slot": slots}
    batch, key = jax.device_put(batch), jax.random.key(0)
    step = jax.jit(functools.partial(train_step, model, optimizer, balance), donate_argnums=0)
    compiled = step.lower(state, {}, batch, key).compile()
    flops = 3 * count_flops(lambda params: model.losses(params, {}, batch, key)[0], state.params)
    held = [state]

    def run() -> None:
        held[0], _ = compiled(held[0], {}, batch, key)
        jax.block_until_ready(held)

    return Point(run, flops, compiled.memory_analysis().temp_size_in_bytes)


def dit(tokens: int = 64, width: int = 192, depth: int = 4) -> Any:
    """A class-conditional DiT, heads of 64 features, on squares of so many patches of one latent pixel."""
    from unified_jax.modalities.image import Image
    from unified_jax.modalities.label import Label
    from unified_jax.models.diffusion import Diffusion
    from unified_jax.networks.dit import DiT

    side = round(tokens**0.5)
    network = DiT(depth=depth, width=width, heads=width // 64, unroll=depth)
    return Diffusion(network, modality=Image(side, side, 4, 1), conditions=(Label("label", 10),))


def examples_of(model: Any, count: int) -> list[dict[str, Any]]:
    """Random examples of its modalities."""
    rng = np.random.default_rng(0)
    return [
        {m.name: rng.integers(0, 10, m.blank().shape).astype(m.blank().dtype) for m in model.modalities}
        for _ in range(count)
    ]


def by_tokens(tokens: int) -> Point:
    """A step on one image."""
    model = dit(tokens)
    return step_of(model, examples_of(model, 1))


def by_width(width: int) -> Point:
    """A step of a wider network."""
    model = dit(256, width)
    return step_of(model, examples_of(model, 2))


def by_batch(batch: int) -> Point:
    """A step on more images."""
    model = dit()
    return step_of(model, examples_of(model, batch))


def by_modalities(count: int) -> Point:
    """A step of Transfusion on documents of text and so many images of modalities of their own."""
    from unified_jax.data.packing import Documents
    from unified_jax.modalities.image import Image
    from unified_jax.modalities.text import Text
    from unified_jax.models.transfusion import Stream, Transfusion
    from unified_jax.networks.transfusion import Trunk

    streams = tuple(Stream(Image(16, 16, 4, patch=2, name=f"image_{i}")) for i in range(count))
    documents = Documents(per_row=1)
    model = Transfusion(Trunk(depth=4, width=192, heads=3), Text(16), streams, 32 + 72 * count, documents)
    return step_of(model, examples_of(model, 2))


def sample_of(steps: int, batch: int) -> Point:
    """Guided samples by Euler's method; the FLOPs are those of two forward passes a step."""
    import jax
    import jax.numpy as jnp
    import ours

    from unified_jax.training.flops import count_flops

    model = dit()
    params, labels = ours.make_params(model), np.zeros(batch, np.int32)
    run = ours.sampler(model, params, jax.random.split(jax.random.key(0), batch), labels, steps, 2.0)
    x, t = jnp.zeros((batch, *model.modality.shape)), jnp.full(batch, 0.5)
    return Point(run, 2 * steps * count_flops(lambda p: ours.output(model, p, x, t, jnp.asarray(labels)), params))


def by_length(length: int) -> Point:
    """Text of so many tokens by a Transfusion trunk, one token at a time, from its cache."""
    import jax
    import jax.numpy as jnp

    from unified_jax.data.packing import Documents
    from unified_jax.modalities.image import Image
    from unified_jax.modalities.text import Text
    from unified_jax.models.transfusion import Stream, Transfusion
    from unified_jax.networks.transfusion import Trunk
    from unified_jax.samplers.plan import SamplingPlan
    from unified_jax.training.flops import count_flops

    text, image = Text(length), Image(4, 4, 4, patch=2)
    model = Transfusion(Trunk(depth=4, width=192, heads=3), text, (Stream(image),), length + 16, Documents(per_row=1))
    params = jax.jit(model.init)(jax.random.key(0))
    given = {image.name: jnp.zeros((1, *image.shape))}
    keys = jax.random.split(jax.random.key(0), 1)
    write = functools.partial(model.generate, wanted=(text.name,), plan=SamplingPlan(steps=1))
    generate, flops = jax.jit(write), count_flops(lambda p: write(p, given, keys=keys), params)
    return Point(lambda: jax.block_until_ready(generate(params, given, keys=keys)), flops)


def by_records(count: int) -> Point:
    """4,096 reads in the shuffled order of an epoch, from that many records."""
    from unified_jax.data.pipeline import Pipeline
    from unified_jax.data.world.source import World
    from unified_jax.modalities.label import Label

    data = World(resolution=32, max_objects=1, examples=count)
    pipeline = Pipeline(data, "train", (Label("shape", 6),), 64, 0)
    return Point(lambda: [pipeline.batch(i) for i in range(64)])

"""Our side of the comparison with PyTorch: the public model, train step and sampler, called as `runs/loop.py` and
`models/sampling.py` call them; imports no torch."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unified_jax.modalities.image import Image
from unified_jax.modalities.label import Label
from unified_jax.models.diffusion import Diffusion
from unified_jax.networks.dit import DiT
from unified_jax.samplers.guidance import Guidance
from unified_jax.samplers.loop import START, normal_like
from unified_jax.samplers.plan import SamplingPlan
from unified_jax.training.balancing import FixedBalance
from unified_jax.training.ema import Ema
from unified_jax.training.optimizer import Optimization
from unified_jax.training.state import State
from unified_jax.training.step import Optimizer, train_step


def make_model(side: int, channels: int, patch: int, classes: int, network: dict[str, Any]) -> Diffusion:
    """DiT-S, rectified flow, with a class label that is dropped for guidance."""
    image = Image(side, side, channels, patch)
    return Diffusion(DiT().clone(**network), modality=image, conditions=(Label("label", classes),))


def make_params(model: Diffusion) -> Any:
    """Fresh parameters plus noise: no layer is zero, so that every difference would show."""
    rng = np.random.default_rng(0)
    params = jax.jit(model.init)(jax.random.key(0))
    return jax.tree.map(lambda p: p + 0.02 * rng.standard_normal(p.shape, np.float32), params)


def forward(
    model: Diffusion, params: Any, x: np.ndarray, t: np.ndarray, labels: np.ndarray
) -> Callable[[], np.ndarray]:
    """A call that gives the network's output."""
    apply = jax.jit(functools.partial(output, model))
    given = jax.device_put((x, t, labels))
    return lambda: np.asarray(apply(params, *given))


def output(model: Diffusion, params: Any, x: Any, t: Any, labels: Any) -> Any:
    """The network's output for x at time t of the model's process."""
    return model.apply(params, model.process, x, t, model.conditions_of(params, {"label": labels}, len(x)))[0]


def matmul(shape: tuple[int, int, int]) -> Callable[[], None]:
    """A call that multiplies `[m, k]` by `[k, n]`, float32."""
    m, k, n = shape
    multiply, x, w = jax.jit(jnp.matmul), jnp.ones((m, k)), jnp.ones((k, n))

    def call() -> None:
        jax.block_until_ready(multiply(x, w))

    return call


class Trainer:
    """The library's train step on one batch, state donated."""

    def __init__(self, model: Diffusion, params: Any, images: np.ndarray, labels: np.ndarray) -> None:
        optimizer, balance = Optimizer(Optimization(), (Ema(),), 1000), FixedBalance()
        first, average = (jax.tree.map(jnp.copy, params) for _ in range(2))  # donated, so nobody else may hold them
        opt_state = optimizer.transform.init(first)
        self.state = State(jnp.zeros((), jnp.int32), first, (average,), opt_state, {}, balance.init())
        self.batch = jax.device_put({"image": images, "label": labels, "slot": np.arange(len(images))})
        self.key = jax.random.key(0)
        self.call = jax.jit(functools.partial(train_step, model, optimizer, balance), donate_argnums=0)

    def step(self) -> dict[str, float]:
        """One step, finished, with its metrics."""
        self.state, metrics = self.call(self.state, {}, self.batch, self.key)
        jax.block_until_ready(self.state)
        return {name: float(metrics[name]) for name in ("loss", "grad_norm", "param_norm")}


def noise(model: Diffusion, keys: Any) -> np.ndarray:
    """The starting noise of the samples with these keys."""
    return np.asarray(normal_like(keys, START, jnp.zeros((len(keys), *model.modality.shape))))


def sampler(
    model: Diffusion, params: Any, keys: Any, labels: np.ndarray, steps: int, scale: float
) -> Callable[[], np.ndarray]:
    """A call that draws guided samples by Euler's method."""
    plan, given = SamplingPlan(steps=steps, guidance=Guidance(scale)), {"label": jnp.asarray(labels)}
    generate = jax.jit(model.generate, static_argnames=("wanted", "plan"))
    return lambda: np.asarray(generate(params, given, wanted=("image",), keys=keys, plan=plan)["image"])

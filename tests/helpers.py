"""Small experiments that train in seconds, and the denoiser that is known in closed form."""

import dataclasses
import functools
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from tests.plain import Plain
from unified_jax.data.pipeline import Pipeline
from unified_jax.data.world import World
from unified_jax.data.world.scene import COLOURS, SHAPES
from unified_jax.hosts import lay_rows, local_rows, make_key
from unified_jax.layers.form import ConditionInput, Form, NoisyInput
from unified_jax.modalities.conditions import ConditionForm
from unified_jax.modalities.image import Image
from unified_jax.modalities.label import Label
from unified_jax.models.diffusion import Diffusion
from unified_jax.networks.dit import DiT
from unified_jax.processes.interpolant import RectifiedFlow
from unified_jax.processes.targets import Prediction, expand
from unified_jax.runs import loop, opened
from unified_jax.samplers.choice import Euler
from unified_jax.samplers.guidance import Guidance
from unified_jax.samplers.plan import SamplingPlan
from unified_jax.sharding import make_mesh
from unified_jax.training.algorithms import AdamW
from unified_jax.training.ema import Ema
from unified_jax.training.experiment import Checkpointing, Experiment, Previews, Validation
from unified_jax.training.optimizer import Optimization
from unified_jax.training.program import assemble
from unified_jax.training.step import init_state

ROOT = Path(__file__).resolve().parents[1]

MODEL = Diffusion(
    network=DiT(depth=2, width=32, heads=4),
    process=RectifiedFlow(),
    modality=Image(16, 16, 3, patch=8),
    conditions=(Label("shape", 6, SHAPES), Label("colour", 8, COLOURS)),
    drop_some=0.2,
    flip=True,
)

EXPERIMENT = Experiment(
    model=MODEL,
    data=World(resolution=16, max_objects=1),
    optimizer=Optimization(AdamW(weight_decay=0.01), learning_rate=1e-3, warmup_steps=3, clip_norm=1.0),
    ema=(Ema(0.9), Ema(0.99)),
    steps=12,
    batch_size=8,
    log_every=1,
    checkpoint=Checkpointing(every=4),
    preview=Previews(every=6, count=4, plan=SamplingPlan(Euler(), steps=2, guidance=Guidance(2.0))),
    validation=Validation(every=6, batches=1),
)

TINY = dataclasses.replace(EXPERIMENT, model=dataclasses.replace(MODEL, network=Plain()))
"""The same with a network that is traced sooner; a fresh process opens its runs with --trust."""


def on_one_device(patch):
    """Runs of this process take the first of the fake devices, which compiles and starts sooner."""
    for module in (loop, opened):
        patch.setattr(module, "make_mesh", lambda shape: make_mesh(shape, jax.devices()[:1]))


def stirred(init, by=0.1):
    """The parameters that `init(key)` makes, with noise on each: nothing is zero, every part of a network matters."""
    fresh, noise = jax.jit(init)(jax.random.key(0)), np.random.default_rng(0)
    moved = jax.tree.map(lambda p: (p + noise.normal(0, by, p.shape)).astype(p.dtype), jax.device_get(fresh))
    return jax.device_put(moved)  # `jnp.asarray` compiles a program for each shape


RECIPE = """
import sys
sys.path.insert(0, {tests!r})
from helpers import {name}


def experiment():
    return {name}
"""


def experiment(**fields):
    """The small experiment with other fields."""
    return dataclasses.replace(EXPERIMENT, **fields)


def first_steps(e, devices, steps=20):
    """(losses, state) of an experiment's first steps on the first `devices` devices."""
    program = assemble(e, make_mesh(e.mesh, jax.devices()[:devices]))
    held = local_rows(program.batch_sharding, program.rows)
    pipeline = Pipeline(e.data, e.split, e.model.modalities, e.batch_size, e.seed, held, e.model.packer)
    make = functools.partial(init_state, e.model, program.optimizer, e.balance)
    losses = []
    with e.rules.active(program.mesh):
        key = make_key(e.seed, program.mesh)
        state = jax.jit(make, out_shardings=program.shardings)(key)
        for step in range(steps):
            arrays = pipeline.batch(step).arrays
            rows = {n: lay_rows(a, held, program.rows, program.batch_sharding) for n, a in arrays.items()}
            state, metrics = program.step(state, {}, rows, key)
            losses.append(float(metrics["loss"]))
    return losses, state


def write_recipe(folder: Path, name: str = "EXPERIMENT") -> Path:
    """A recipe file for the small experiment, or for another one of this file."""
    path = folder / "small.py"
    path.write_text(RECIPE.format(tests=str(ROOT / "tests"), name=name))
    return path


def environment(devices: int, cache: str = "", flags: str = "") -> dict[str, str]:
    """Of a process with so many fake devices; `cache` is where it keeps compiled programs, `flags` are XLA's."""
    return os.environ | {
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} {flags} --xla_force_host_platform_device_count={devices}",
        "PJRT_NPROC": str(16 * devices if devices > 1 else os.cpu_count()),
        "JAX_COMPILATION_CACHE_DIR": cache,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    }


def command(*arguments: object, devices: int = 1, **options) -> "subprocess.Popen[str]":
    """A script of the repository in its own process, its output caught."""
    variables = environment(devices, options.pop("cache", ""), options.pop("flags", ""))
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)], cwd=ROOT, env=variables, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options,
    )  # fmt: skip


def run(*arguments: object, **options) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of a script."""
    process = command(*arguments, **options)
    out, err = process.communicate(timeout=600)
    return process.returncode, out, err


def processes(count: int, *arguments: object, devices: int = 1, **options) -> "list[subprocess.Popen[str]]":
    """The same script as `count` processes of one run, `devices` fake devices each."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    hosts = ("--hosts.coordinator", f"localhost:{port}", "--hosts.count", count)
    return [
        command(*arguments, *hosts, "--hosts.index", index, devices=devices, **options.copy()) for index in range(count)
    ]


def finish(started: "list[subprocess.Popen[str]]", timeout: float = 600) -> list[tuple[int, str, str]]:
    """(exit code, stdout, stderr) of each; none is left behind."""
    try:
        ended = [process.communicate(timeout=timeout) for process in started]
    finally:
        for process in started:
            process.kill()
    return [(process.returncode, out, err) for process, (out, err) in zip(started, ended, strict=True)]


def gaussian_denoiser(process, mean, std):
    """E[x0 | x_t] for x0 ~ N(mean, std^2): the optimal denoiser, on any path."""

    def denoise(x, t):
        alpha, sigma = (expand(v, x) for v in process.alpha_sigma(t))
        x0 = mean + alpha * std**2 / (alpha**2 * std**2 + sigma**2) * (x - alpha * mean)
        return Prediction(x0, jnp.where(sigma > 0, (x - alpha * x0) / jnp.where(sigma > 0, sigma, 1.0), 0.0))

    return denoise


def call_of(image, x, t, labels=(), outputs=None):
    """(noisy, conditions) of a network's call: one image, and pairs (rows of a table, values)."""
    form = Form(image.name, image.shape, image.cut, outputs or image.channels)
    forms = [ConditionForm(f"y{i}", "label", rows) for i, (rows, _) in enumerate(labels)]
    return (NoisyInput(form, x, t),), tuple(
        ConditionInput(form, jnp.asarray(values, jnp.int32)) for form, (_, values) in zip(forms, labels, strict=True)
    )


@functools.cache
def keys_of(count, seed=0):
    """One key a sample, as `sample_keys` makes them."""
    return jax.vmap(lambda i: jax.random.fold_in(jax.random.key(seed), i))(jnp.arange(count))

"""The parts of `gpu_session.py`, each a process: `python benchmarks/gpu_session_parts.py PART FILE [--tiny]`.

Each writes its result, a dict, to FILE. `--tiny` tries it on whatever is there, in seconds to a minute.
"""

import argparse
import functools
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from unified_jax.runs.xla_flags import use_cublas

ROUNDS = 10
PINNED = "--xla_gpu_deterministic_ops=true --xla_gpu_autotune_level=0"
"""No choice by timing and no atomic additions."""


def tests(tiny: bool, chosen: str) -> dict[str, Any]:
    """`tests/gpu`, those whose names match."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "report.xml")
        command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "tests/gpu", "-m", "", "-k", chosen]
        code = subprocess.run([*command, f"--junitxml={file}", *["-x"] * tiny]).returncode
        cases = list(ElementTree.parse(file).iter("testcase"))
    outcomes = {}
    for case in cases:
        kinds = [child.tag for child in case if child.tag in ("failure", "error", "skipped")]
        outcomes[case.get("name")] = kinds[0] if kinds else "passed"
    return {"code": code, "tests": outcomes}


def throughput(tiny: bool, name: str) -> dict[str, Any]:
    """Whole training steps, beside PyTorch's (`train_throughput.py`)."""
    import train_throughput

    found = train_throughput.measure(name, False, False, 2 if tiny else ROUNDS, tiny)
    return found if not name.startswith("dit") else found | {"bound": sum_of_parts(name, tiny)}


def sum_of_parts(name: str, tiny: bool) -> dict[str, float]:
    """Milliseconds of a step's products and attention, each timed alone: what no step of these parts can beat."""
    import jax
    import jax.numpy as jnp
    import train_throughput

    from unified_jax.kernels import choice

    model, count = train_throughput.experiment(name, tiny)
    network, tokens = model.network, (train_throughput.CASES[name].side // 2) ** 2
    d, heads, rows = network.width, network.heads, count * tokens
    draw = functools.partial(jnp.ones, dtype=jnp.bfloat16)

    def milliseconds(run: Callable[..., Any], *given: Any) -> float:
        call = jax.jit(run)
        jax.block_until_ready(call(*given))
        taken = []
        for _ in range(2 if tiny else ROUNDS):
            begun = time.perf_counter()
            jax.block_until_ready([call(*given) for _ in range(5)])
            taken.append((time.perf_counter() - begun) / 5)
        return 1e3 * min(taken)

    found = {}
    for part, (k, n) in {"qkv": (d, 3 * d), "out": (d, d), "fc1": (d, 4 * d), "fc2": (4 * d, d)}.items():
        x, w, y = draw((rows, k)), draw((k, n)), draw((rows, n))
        three = (lambda a, b: a @ b, (x, w)), (lambda a, b: a @ b.T, (y, w)), (lambda a, b: a.T @ b, (x, y))
        found[part] = sum(milliseconds(run, *given) for run, given in three)
    heads_of = draw((count, tokens, heads, d // heads))

    def attention(q: Any, k: Any, v: Any) -> Any:
        return jnp.sum(choice.attend(q, k, v)[0].astype(jnp.float32))

    found["attention"] = milliseconds(jax.grad(attention, argnums=(0, 1, 2)), heads_of, heads_of, heads_of)
    found = {part: round(network.depth * value, 3) for part, value in found.items()}
    return found | {"sum_ms": round(sum(found.values()), 3)}


def kernels(tiny: bool, shape: str) -> dict[str, Any]:
    """A shape of the kernel table (`modulated_attention.py`)."""
    import modulated_attention as table

    if tiny:  # its contestants are other processes, which know the real shapes alone: the table is left out
        return {"shape": table.SHAPES[shape]._asdict(), "goal": table.GOALS[shape]}
    return table.measure(shape, ROUNDS)


def small_run(kind: str, tiny: bool, dtype: str = "float32", attention: str = "auto") -> tuple[list[float], Any, Any]:
    """(losses, samples, parameters) of a small DiT on a kind of device."""
    import jax
    import ours

    model = ours.make_model(
        16, 4, 2, 10, {"depth": 4, "width": 192, "heads": 3, "dtype": dtype, "attention": attention}
    )
    rng, steps = np.random.default_rng(0), 2 if tiny else 20
    labels = np.arange(8, dtype=np.int32)
    with jax.default_device(jax.devices(kind)[0]):
        params, keys = ours.make_params(model), jax.random.split(jax.random.key(1), 8)
        samples = ours.sampler(model, params, keys, labels, 2 if tiny else 20, 2.0)()
        trainer = ours.Trainer(model, params, rng.integers(0, 256, (8, 16, 16, 4), np.uint8), labels)
        losses = [trainer.step()["loss"] for _ in range(steps)]
        return losses, samples, jax.device_get(trainer.state.params)


def bits(tiny: bool) -> dict[str, Any]:
    """Two runs in bfloat16, each in a process of its own, with kernels chosen without timing: are they equal?"""
    found: dict[str, Any] = {"flags": PINNED}
    flags = {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {'' if tiny else PINNED}".strip()}
    for attention in ("xla",) if tiny else ("pallas", "xla", "cudnn"):
        command = [sys.executable, __file__, "one_run", attention, *["--tiny"] * tiny]
        said = [
            subprocess.run(command, env=os.environ | flags, stdout=subprocess.PIPE, text=True, check=True).stdout
            for _ in range(2)
        ]
        first, second = (json.loads(text.strip().split("\n")[-1]) for text in said)
        found[attention] = {"equal": first == second, "losses": first["losses"][:: len(first["losses"]) - 1]}
    return found


def one_run(attention: str, tiny: bool) -> dict[str, Any]:
    """The losses of a run of `bits`, and a hash of its parameters and samples."""
    import jax

    losses, samples, params = small_run(jax.default_backend(), tiny, "bfloat16", attention)
    digest = hashlib.sha256(samples.tobytes())
    for leaf in jax.tree.leaves(params):
        digest.update(np.asarray(leaf).tobytes())
    return {"losses": losses, "hash": digest.hexdigest()}


def beside_cpu(tiny: bool) -> dict[str, Any]:
    """The losses and samples of a small float32 run on this device and on a CPU."""
    import jax

    kinds = {"here": jax.default_backend(), "cpu": "cpu"}
    runs = {name: small_run(kind, tiny) for name, kind in kinds.items()}
    (a, x, _), (b, y, _) = runs["here"], runs["cpu"]
    return {
        "losses": {name: run[0] for name, run in runs.items()},
        "largest_relative_difference": float(np.max(np.abs(np.subtract(a, b)) / np.abs(b))),
        "samples_difference": float(np.abs(x - y).max() / np.abs(y).max()),
        "goals": "2e-5 and 1e-4",
    }


def quickstart(tiny: bool) -> dict[str, Any]:
    """The recipe's model, optimizer and batch, on 4,096 pictures of the world kept on the device; then its samples."""
    import runpy

    import jax
    import jax.numpy as jnp

    from unified_jax.data.world.read import read_image
    from unified_jax.evaluation.attributes import attribute_hits, sample_accuracy
    from unified_jax.training.balancing import FixedBalance
    from unified_jax.training.step import Optimizer, init_state, train_step

    recipe = runpy.run_path(str(Path(__file__).resolve().parent.parent / "configs/quickstart.py"))["experiment"]()
    model, steps, size = recipe.model, 3 if tiny else recipe.steps, 8 if tiny else recipe.batch_size
    names = [condition.name for condition in model.conditions]
    source, begun = recipe.data.source("train", ("image", *names)), time.perf_counter()
    rows = [source[i] for i in range(16 if tiny else 4096)]
    data = {name: jnp.asarray(np.stack([row[name] for row in rows])) for name in ("image", *names)}
    rendered, begun = time.perf_counter() - begun, time.perf_counter()
    optimizer, balance = Optimizer(recipe.optimizer, recipe.ema, steps), FixedBalance()
    state = jax.jit(functools.partial(init_state, model, optimizer, balance))(jax.random.key(0))

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state: Any, key: Any) -> Any:
        taken = jax.random.randint(jax.random.fold_in(key, state.step), (size,), 0, len(rows))
        batch = {name: value[taken] for name, value in data.items()} | {"slot": jnp.arange(size)}
        return train_step(model, optimizer, balance, state, {}, batch, key)

    state, metrics = jax.block_until_ready(step(state, jax.random.key(0)))
    first, at = time.perf_counter() - begun, time.perf_counter()
    for _ in range(steps - 1):
        state, metrics = step(state, jax.random.key(0))
    loss, trained = float(metrics["loss"]), time.perf_counter() - at
    count = 8 if tiny else recipe.evaluate
    asked = {name: data[name][:count] for name in names}
    generate = jax.jit(model.generate, static_argnames=("wanted", "plan"))
    keys = jax.random.split(jax.random.key(1), count)
    made = np.asarray(generate(state.ema[0], asked, wanted=("image",), keys=keys, plan=recipe.preview.plan)["image"])
    hits = attribute_hits(read_image(made), {name: np.asarray(value) for name, value in asked.items()})[1:]
    return {
        "steps": steps, "rendering_seconds": round(rendered, 1), "first_step_seconds": round(first, 1),
        "training_seconds": round(trained, 1), "loss": loss, "samples": count,
        "accuracy": round(float(sample_accuracy(*hits).mean()), 4),
    }  # fmt: skip


PARTS: dict[str, Callable[[bool], dict[str, Any]]] = {
    "tests_kernels": functools.partial(tests, chosen="attention or kernels or forward_mode or block or projections"),
    "tests_networks": functools.partial(tests, chosen="half or losses or samples or runs"),
    "dit_xl_256": functools.partial(throughput, name="dit_xl"),
    "dit_xl_1024": functools.partial(throughput, name="dit_xl_1024"),
    "transfusion_4096": functools.partial(throughput, name="transfusion_0.76b"),
    "kernels_transfusion_4096": functools.partial(kernels, shape="transfusion_4096"),
    "kernels_dit_xl_256": functools.partial(kernels, shape="dit_xl_256"),
    "kernels_dit_xl_1024": functools.partial(kernels, shape="dit_xl_1024"),
    "bits": bits,
    "beside_cpu": beside_cpu,
    "quickstart": quickstart,
}


def main() -> None:
    """Runs one part."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("part", choices=[*PARTS, "one_run"])
    parser.add_argument("file", help="for one_run, the implementation of attention")
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    use_cublas()
    if options.part == "one_run":
        print(json.dumps(one_run(options.file, options.tiny)))
        return
    found = PARTS[options.part](options.tiny)
    Path(options.file).write_text(json.dumps(found))


if __name__ == "__main__":
    main()

"""How cost grows: steps, samples, decoding, data and start-up against their sizes, with fitted slopes.

    python benchmarks/growth.py [--only tokens width ...] [--rounds 5] [--longest 4096] [--tiny]

Each axis times one thing at sizes that double, on whatever device is there: a training step against tokens, width,
batch and the number of modalities (time and memory); guided sampling against steps and batch; decoding with its cache
against length; reading shuffled data against the record count; import, first step cold and warm (with the compilation
cache filled), no axis. The slope is fitted by least squares through the logarithms, beside that of the counted FLOPs
(`training/flops.py`) at the same sizes: cost grows as it should where slope <= that + 0.1. Where nothing is counted
(data) the slope that is wanted is written with the axis.

A point is the minimum of its rounds. The first, small sizes are mostly fixed cost, which flattens a slope: it is fitted
to the upper half of the sizes too, and the steeper of both counts.

Writes benchmarks/results/growth.json after each axis (those of other axes are kept), then docs/figures/growth.png and
the table of docs/scaling.md. `--tiny` tries it, writes build/growth.json and says "not measured".
"""

import argparse
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from turns import RESULTS, provenance

ALLOWED = 0.1
"""How much steeper than the FLOPs a cost may grow."""
ROOT = RESULTS.parents[1]


@dataclass(frozen=True)
class Point:
    """What one size costs."""

    run: Callable[[], Any]
    """One call, finished."""
    flops: float | None = None
    memory: int | None = None
    """Bytes of temporaries that the compiler plans."""


@dataclass(frozen=True)
class Axis:
    """One thing that grows."""

    what: str
    sizes: tuple[int, ...]
    tiny: tuple[int, ...]
    build: Callable[[int], Point]
    wanted: float | None = None
    """The slope where no FLOPs are counted."""


def slope(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Of the line through (log size, log cost), or through their upper half if that is steeper."""
    x, y = np.log(np.asarray(sizes, float)), np.log(np.asarray(costs, float))
    half = len(x) // 2 if len(x) >= 4 else 0
    return max(float(np.polyfit(x[at:], y[at:], 1)[0]) for at in {0, half})


def judged(axis: Axis, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The rows with their slopes and whether they grow as wanted."""
    sizes = [row["size"] for row in rows]
    found: dict[str, Any] = {"what": axis.what, "rows": rows}
    flops = [row["flops"] for row in rows]
    found["wanted"] = axis.wanted if None in flops else round(slope(sizes, flops), 3)
    for cost in ("seconds", "memory"):
        values = [row[cost] for row in rows]
        found[f"slope_{cost}"] = None if None in values or min(values) <= 0 else round(slope(sizes, values), 3)
    found["holds"] = found["slope_seconds"] <= found["wanted"] + ALLOWED
    return found


def measure(axis: Axis, sizes: Sequence[int], rounds: int) -> dict[str, Any]:
    """Builds and times every size."""
    rows = []
    for size in sizes:
        point = axis.build(size)
        point.run()
        seconds = []
        for _ in range(rounds):
            begun = time.perf_counter()
            point.run()
            seconds.append(time.perf_counter() - begun)
        rows.append({"size": size, "seconds": min(seconds), "flops": point.flops, "memory": point.memory})
        print(f"{axis.what}, {size}: {1e3 * min(seconds):.1f} ms", flush=True)
    return judged(axis, rows)


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
    from unified_jax.samplers.plan import Plan
    from unified_jax.training.flops import count_flops

    text, image = Text(length, name="text"), Image(4, 4, 4, patch=2)
    model = Transfusion(Trunk(depth=4, width=192, heads=3), text, (Stream(image),), length + 16, Documents(per_row=1))
    params = jax.jit(model.init)(jax.random.key(0))
    given = {image.name: jnp.zeros((1, *image.shape))}
    keys = jax.random.split(jax.random.key(0), 1)
    write = functools.partial(model.generate, wanted=("text",), plan=Plan(steps=1))
    generate, flops = jax.jit(write), count_flops(lambda p: write(p, given, keys=keys), params)
    return Point(lambda: jax.block_until_ready(generate(params, given, keys=keys)), flops)


def by_records(count: int) -> Point:
    """4,096 reads in the shuffled order of an epoch, from that many records."""
    from unified_jax.data.pipeline import Pipeline
    from unified_jax.data.world.source import World
    from unified_jax.modalities.label import Label

    data = World(resolution=32, max_objects=1, examples=((("train", count)),))  # type: ignore[arg-type]
    pipeline = Pipeline(data, "train", (Label("shape", 6),), 64, 0)
    return Point(lambda: [pipeline.batch(i) for i in range(64)])


AXES = {
    "tokens": Axis("training step, tokens", (64, 256, 1024, 4096, 16384), (16, 64), by_tokens),
    "width": Axis("training step, width", (128, 256, 512, 1024), (64, 128), by_width),
    "batch": Axis("training step, batch", (1, 2, 4, 8, 16, 32, 64), (1, 2), by_batch),
    "modalities": Axis("training step, modalities", (1, 2, 4, 8), (1, 2), by_modalities),
    "steps": Axis("sampling, steps", (5, 10, 20, 40, 80), (1, 2), functools.partial(sample_of, batch=4)),
    "samples": Axis("sampling, batch", (1, 2, 4, 8, 16, 32), (1, 2), functools.partial(sample_of, 10)),
    "length": Axis("decoding with a cache, tokens", (64, 128, 256, 512, 1024), (16, 32), by_length),
    "records": Axis("reading, records", (10_000, 100_000, 1_000_000), (1000, 2000), by_records, 0.0),
}


COLD = """
import time; begun = time.perf_counter()
import unified_jax as uj
uj.DiT, uj.Diffusion
imported = time.perf_counter() - begun
import growth
model = growth.dit()
point = growth.step_of(model, growth.examples_of(model, 4))
point.run()
import json; print(json.dumps({"import": round(imported, 2), "first_step": round(time.perf_counter() - begun, 2)}))
"""


def start_up() -> dict[str, Any]:
    """Seconds until the library is imported and the first step is done, in new processes: cold, then warm.

    Warm finds the compiled programs in the cache that the cold one filled. Opening the device counts.
    """
    found = {}
    with tempfile.TemporaryDirectory() as cache:
        env = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "benchmarks")]), "JAX_COMPILATION_CACHE_DIR": cache,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }  # fmt: skip
        for name in ("cold", "warm"):
            ended = subprocess.run([sys.executable, "-c", COLD], env=env, stdout=subprocess.PIPE, text=True, check=True)
            found[name] = json.loads(ended.stdout.strip().split("\n")[-1])
            print(f"start-up, {name}: {found[name]}", flush=True)
    return found


def main() -> None:
    """Measures, writes, fills the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=[*AXES, "start_up"], default=[*AXES, "start_up"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--longest", type=int, help="tokens at most; default 4,096 on a CPU, else 16,384")
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    import jax

    longest = options.longest or (4096 if jax.default_backend() == "cpu" else 16384)
    path = ROOT / "build/growth.json" if options.tiny else RESULTS / "growth.json"
    path.parent.mkdir(exist_ok=True)
    held = json.loads(path.read_text()) if path.exists() else {"axes": {}}
    for name in options.only:
        if name == "start_up":
            held["start_up"] = start_up()
        else:
            axis = AXES[name]
            sizes = axis.tiny if options.tiny else tuple(n for n in axis.sizes if name != "tokens" or n <= longest)
            held["axes"][name] = provenance() | measure(axis, sizes, 2 if options.tiny else options.rounds)
        held["device"] = "not measured: tiny sizes" if options.tiny else jax.devices()[0].device_kind
        path.write_text(json.dumps(held, indent=1) + "\n")
    if not options.tiny:
        import pages

        pages.fill()
        pages.plot_growth()


if __name__ == "__main__":
    main()

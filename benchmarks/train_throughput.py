"""Times whole training steps on one accelerator, from batches that lie on the device, and the same network in PyTorch.

    python benchmarks/train_throughput.py [--models dit_xl dit_b transfusion_0.76b] [--others] [--rounds 20] [--tiny]

Ours is the library's train step: bfloat16 compute, float32 parameters, AdamW, average of the parameters, metrics. The
twin (`twin.py`) is compiled, with scaled_dot_product_attention and bfloat16 autocast, AdamW fused. They take turns,
each in a process of its own. TFLOP/s count the products of forward and backward once (nothing that is computed again),
and are put beside the data sheet's peak and the best rate of a plain product in the same run. Also: seconds until the
first step is done, and with `--pause` by how much a checkpoint's start holds up the steps.

Without a GPU or TPU it says "not measured" and writes nothing, nor does `--tiny`, which runs small shapes on whatever
is there, to try the script. Writes benchmarks/results/train_throughput.json. Nobody has run it to its end on an
accelerator yet: see docs/kernels.md.
"""

import argparse
import importlib.util
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from turns import Contestant, alternate, table, write

from unified_jax.runs.xla_flags import use_cublas

STEPS = 5
"""Steps of one measurement."""


class Case(NamedTuple):
    """A network and its batch, which fits into 80 GB together with the twin's."""

    size: str
    batch: int
    goal: str
    transfusion: bool = False
    side: int = 32
    """Of the latents; patches are 2 x 2."""


CASES = {
    "dit_xl": Case("XL", 32, ">= 627 images/s on one H200, and >= 1.2 x the twin"),
    "dit_xl_1024": Case("XL", 8, "46 % of the data sheet's rate, aim 50 %", side=64),
    "dit_b": Case("B", 64, ">= 1.2 x the twin"),
    "transfusion_0.76b": Case("0.76B", 8, "none stated", transfusion=True),
}


VARIANTS: dict[str, dict[str, Any]] = {
    "ours": {"remat": "none"},
    "ours, four blocks a step of the scan": {"remat": "none", "unroll": 4},
    "ours, products kept": {"remat": "dots"},
    "ours, xla": {"remat": "none", "attention": "xla"},
    "ours, cudnn": {"remat": "none", "attention": "cudnn"},
    "ours, pallas": {"remat": "none", "attention": "pallas"},
}
"""Fields of the network; the first is compared with the twin, `--others` times the rest."""


def experiment(name: str, tiny: bool, variant: str = "ours") -> Any:
    """(model, examples a step) of a case."""
    from unified_jax.data.packing import Documents
    from unified_jax.modalities.image import Image
    from unified_jax.modalities.label import Label
    from unified_jax.modalities.text import Text
    from unified_jax.models.diffusion import Diffusion
    from unified_jax.models.transfusion import Stream, Transfusion
    from unified_jax.networks import dit, transfusion

    case = CASES[name]
    if not case.transfusion:
        network = dit.dit_preset(case.size, "bfloat16")  # type: ignore[arg-type]
        network = network.clone(depth=4, width=64, heads=2) if tiny else network
        network = network.clone(**VARIANTS[variant])
        return Diffusion(
            network, modality=Image(case.side, case.side, 4, 2), conditions=(Label("label", 1000),)
        ), 2 if tiny else case.batch
    trunk = transfusion.trunk_preset(case.size)  # type: ignore[arg-type]
    trunk = trunk.clone(depth=2, width=64, heads=2) if tiny else trunk
    documents, text = Documents(per_row=1 if tiny else 8), Text(128)
    streams = (Stream(Image(32, 32, 8, patch=2)),)
    rows = 2 if tiny else case.batch
    return Transfusion(trunk, text, streams, 512 if tiny else 4096, documents), rows * documents.per_row


def batch_of(model: Any, count: int) -> dict[str, np.ndarray]:
    """A batch of random examples, packed as in training."""
    rng = np.random.default_rng(0)
    examples = []
    for _ in range(count):
        one = {m.name: rng.integers(0, 250, m.blank().shape).astype(m.blank().dtype) for m in model.modalities}
        examples.append(one)
    slots = np.arange(count, dtype=np.int32)
    if model.packer is not None:
        return model.packer.pack(examples, slots, 0, 0)
    stacked = {m.name: np.stack([e[m.name] for e in examples]) for m in model.modalities}
    return stacked | {"slot": slots}


def build_ours(name: str, variant: str, tiny: bool) -> dict[str, Any]:
    """Our step, a plain product, and what the device and the start-up took."""
    begun = time.perf_counter()
    import functools

    import jax
    import jax.numpy as jnp

    from unified_jax.training.balancing import FixedBalance
    from unified_jax.training.ema import Ema
    from unified_jax.training.flops import count_flops
    from unified_jax.training.optimizer import Optimization
    from unified_jax.training.step import Optimizer, init_state, train_step

    model, count = experiment(name, tiny, variant)
    optimizer, balance = Optimizer(Optimization(), (Ema(),), 1000), FixedBalance()
    state = jax.jit(functools.partial(init_state, model, optimizer, balance))(jax.random.key(0))
    batch, key = jax.device_put(batch_of(model, count)), jax.random.key(0)
    step = jax.jit(functools.partial(train_step, model, optimizer, balance), donate_argnums=0)
    held = [step(state, {}, batch, key)[0]]
    jax.block_until_ready(held)
    first = time.perf_counter() - begun

    def forward(params: Any) -> Any:
        return model.losses(params, {}, batch, key)[0]

    flops = 3 * count_flops(forward, held[0].params)

    def run() -> None:
        for _ in range(STEPS):
            held[0], _ = step(held[0], {}, batch, key)
        jax.block_until_ready(held)

    tasks: dict[str, Any] = {"step": run}
    if importlib.util.find_spec("orbax"):
        from unified_jax.runs.checkpoints import Checkpoints

        def pause() -> float:
            """Seconds that starting a save holds up the steps."""
            with tempfile.TemporaryDirectory() as folder, Checkpoints(Path(folder)) as checkpoints:
                begun = time.perf_counter()
                checkpoints.save(held[0], 1)
                return time.perf_counter() - begun

        tasks["pause"] = pause
    square = jnp.ones((256 if tiny else 8192,) * 2, jnp.bfloat16)
    multiply = jax.jit(jnp.matmul)
    tasks["matmul"] = lambda: jax.block_until_ready([multiply(square, square) for _ in range(STEPS)])
    tasks["facts"] = lambda: {
        "examples": count,
        "flops": flops,
        "first_step_seconds": round(first, 1),
        "product_flops": 2 * len(square) ** 3,
        "memory": (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use"),
    }
    return tasks


def build_twin(name: str, tiny: bool) -> dict[str, Any]:
    """PyTorch's step of a DiT."""
    import torch
    import twin

    from unified_jax.networks.dit import SIZES

    depth, width, heads = (4, 64, 2) if tiny else SIZES[CASES[name].size]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_default_device(device)
    side = CASES[name].side
    net = twin.Twin(twin.Shape(depth, width, heads, side, 4, 2, 1000))
    trainer = twin.Trainer(net, compiled=not tiny, bfloat16=True)
    count = 2 if tiny else CASES[name].batch
    images = torch.randint(0, 255, (count, side, side, 4), dtype=torch.uint8)
    labels = torch.randint(0, 1000, (count,))

    def run() -> None:
        for _ in range(STEPS):
            trainer.step(images, labels)
        if device == "cuda":
            torch.cuda.synchronize()

    memory = torch.cuda.max_memory_allocated if device == "cuda" else lambda: None
    return {"step": run, "memory": memory}


def measure(name: str, others: bool, pause: bool, rounds: int, tiny: bool) -> dict[str, Any]:
    """One network."""
    variants = list(VARIANTS) if others and not CASES[name].transfusion else ["ours"]
    variants = [v for v in variants if not tiny or "attention" not in VARIANTS[v]]
    twins = []
    if importlib.util.find_spec("torch") and not CASES[name].transfusion:
        twins = [Contestant("torch.compile", build_twin, name, tiny)]
        twins[0].begin("step")  # its compiler is slow, times nothing, and works beside ours
    contestants = []
    for variant in variants:
        contestants.append(Contestant(variant, build_ours, name, variant, tiny))
        assert contestants[-1].tasks  # one after the other: XLA chooses kernels by timing them
    for twin in twins:
        twin.finish()
    contestants += twins
    rows, facts = alternate(contestants, "step", rounds), contestants[0].result("facts")
    product = alternate(contestants[:1], "matmul", rounds)[0]["minimum_ms"] / STEPS
    peak = facts["product_flops"] / product / 1e9
    for row in rows:
        seconds = row["median_ms"] / STEPS / 1e3
        row["examples_per_second"] = round(facts["examples"] / seconds, 1)
        row["tflops"] = round(facts["flops"] / seconds / 1e12, 2)
        row["share_of_measured_peak"] = round(row["tflops"] / peak, 3)
    found = {"goal": CASES[name].goal, "step": rows, "measured_peak_tflops": round(peak, 2)} | facts
    if pause and "pause" in contestants[0].tasks:
        found["checkpoint_pause_seconds"] = round(contestants[0].result("pause"), 3)
    for twin in twins:
        found["twin_memory"] = twin.result("memory")
    for contestant in contestants:
        contestant.close()
    print(f"\n{name}: {facts}\n{table(rows)}", flush=True)
    return found


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--others", action="store_true", help="time the other variants of ours too")
    parser.add_argument("--pause", action="store_true", help="time how long a save holds up the steps")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--tiny", action="store_true", help="small shapes on any device; nothing is written")
    options = parser.parse_args()
    import jax

    use_cublas()
    device = jax.devices()[0]
    if options.tiny:
        for name in options.models:
            measure(name, options.others, options.pause, 2, tiny=True)
        return
    if device.platform == "cpu":
        print("not measured: no GPU or TPU here")
        return
    found: dict[str, Any] = {}
    for name in options.models:
        found[name] = measure(name, options.others, options.pause, options.rounds, tiny=False)
        write("train_throughput", {"device": device.device_kind, "rounds": options.rounds, "models": found})


if __name__ == "__main__":
    main()

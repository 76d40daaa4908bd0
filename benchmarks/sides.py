"""The two sides of `train_step.py` and `sampling.py`: builders that run in a worker and import one framework each.

Ours goes first and leaves its parameters and the samples' starting noise in a folder, from which the twins load them.
"""

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from turns import Contestant, Task

from unified_jax.cli.heap import keep_heap

ROWS, CLASSES, CHANNELS, PATCH = 8, 1000, 4, 2
SIDES = {64: 16, 256: 32}
"""Side of the image that has so many tokens: 256 are the 32 x 32 latents of the paper's DiT-S/2."""
SCALE = 4.0
"""Of guided sampling."""
MATMUL = (2048, 384, 1536)
"""(m, k, n) of the matrix product whose rate is taken for the machine's: the MLP's first at 256 tokens."""
CPU = {"remat": "none", "unroll": 12}
"""Fields of DiT as the CPU recipes set them: blocks one after the other and nothing computed twice, as PyTorch does."""
TOLERANCE = 1e-4
"""Largest difference between a twin's output and ours, as a share of the largest entry."""


def inputs(tokens: int) -> dict[str, np.ndarray]:
    """The batch of a training step, and the fixed input on which networks are compared and forward is timed."""
    rng, shape = np.random.default_rng(1), (ROWS, SIDES[tokens], SIDES[tokens], CHANNELS)
    return {
        "images": rng.integers(0, 256, shape, np.uint8),
        "labels": rng.integers(0, CLASSES, ROWS).astype(np.int32),
        "x": rng.standard_normal(shape, np.float32),
        "t": np.linspace(0.05, 0.95, ROWS, dtype=np.float32),
    }


def begin(kept: bool) -> None:
    """Sets the allocator as train.py does, before a framework is imported. AssertionError where that cannot be done."""
    assert not kept or keep_heap(), "the heap cannot be kept here: see unified_jax/cli/heap.py"


def our_tasks(tokens: int, network: dict[str, Any], steps: int, folder: str, kept: bool) -> dict[str, Task]:
    """Our step, forward and sample. `network` holds fields of DiT (remat, unroll); `kept`: as train.py begins."""
    begin(kept)
    import jax
    import ours

    given = inputs(tokens)
    model = ours.make_model(SIDES[tokens], CHANNELS, PATCH, CLASSES, network)
    params, keys = ours.make_params(model), jax.random.split(jax.random.key(0), ROWS)
    shared = Path(folder, f"{tokens}.pickle")
    if not shared.exists():
        shared.write_bytes(pickle.dumps({"params": jax.device_get(params), "noise": ours.noise(model, keys)}))
    return {
        "matmul": ours.matmul(MATMUL),
        "step": ours.Trainer(model, params, given["images"], given["labels"]).step,
        "forward": ours.forward(model, params, given["x"], given["t"], given["labels"]),
        "sample": ours.sampler(model, params, keys, given["labels"], steps, SCALE),
    }


def torch_tasks(tokens: int, compiled: bool, bfloat16: bool, steps: int, folder: str, kept: bool) -> dict[str, Task]:
    """The twin's; `kept`: the allocator set as ours has it."""
    begin(kept)
    import torch
    import twin

    torch.set_default_device("cuda" if torch.cuda.is_available() else "cpu")
    given = {name: torch.tensor(value) for name, value in inputs(tokens).items()}
    shared = pickle.loads(Path(folder, f"{tokens}.pickle").read_bytes())
    net = twin.load(twin.Shape(12, 384, 6, SIDES[tokens], CHANNELS, PATCH, CLASSES), shared["params"])
    trainer = twin.Trainer(twin.load(net.shape, shared["params"]), compiled, bfloat16)
    call, noise = torch.compile(net) if compiled else net, torch.tensor(shared["noise"])

    def forward() -> np.ndarray:
        with torch.no_grad(), torch.autocast(noise.device.type, torch.bfloat16, enabled=bfloat16):
            return call(given["x"], given["t"], given["labels"]).cpu().numpy()

    return {
        "matmul": twin.matmul(MATMUL),
        "step": lambda: trainer.step(given["images"], given["labels"]),
        "forward": forward,
        "sample": lambda: twin.sample(call, noise, given["labels"], CLASSES, steps, SCALE, bfloat16).cpu().numpy(),
    }


def enter(tokens: int, folder: str, compiled: bool, steps: int = 50, trains: bool = True) -> list[Contestant]:
    """Ours with the settings of the CPU recipes, our other rows, and the twins.

    train.py keeps the heap (`unified_jax/cli/heap.py`) and sample.py does not; the other row of ours, and one of the
    twin's, show what that does. Training has a row of the library's defaults too. The bfloat16 twins are left out where
    the processor has no instructions for it: a step then takes 20 times as long. GPUs are hidden from all of them.
    """
    os.environ |= {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    other = "ours, heap given back" if trains else "ours, heap kept"
    found = [Contestant("ours", our_tasks, tokens, CPU, steps, folder, trains)]
    assert found[0].tasks  # the others start from its weights
    found += [Contestant(other, our_tasks, tokens, CPU, steps, folder, not trains)]
    if trains:
        found += [Contestant("ours, defaults", our_tasks, tokens, {}, steps, folder, True)]
    for bfloat16, suffix in ((False, ""), (True, ", bfloat16")):
        if bfloat16 and not has_bfloat16():
            print("bfloat16 is left out: this processor has no instructions for it.", flush=True)
            continue
        found += [Contestant(f"torch eager{suffix}", torch_tasks, tokens, False, bfloat16, steps, folder, False)]
        if compiled:
            found += [Contestant(f"torch.compile{suffix}", torch_tasks, tokens, True, bfloat16, steps, folder, False)]
    return [*found, Contestant("torch eager, heap kept", torch_tasks, tokens, False, False, steps, folder, True)]


def has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16; True where that cannot be told."""
    info = Path("/proc/cpuinfo")
    return not info.exists() or any(name in info.read_text() for name in ("avx512_bf16", "amx_bf16", " bf16"))


def work(tokens: int) -> dict[str, float]:
    """GFLOP of our forward pass, of a training step that computes nothing twice, and of the product `MATMUL`."""
    import jax
    import ours

    from unified_jax.training.flops import count_flops

    given = inputs(tokens)
    model = ours.make_model(SIDES[tokens], CHANNELS, PATCH, CLASSES, {})
    params = jax.eval_shape(model.init, jax.random.key(0))
    forward = count_flops(lambda p: ours.output(model, p, given["x"], given["t"], given["labels"]), params) / 1e9
    m, k, n = MATMUL
    return {"forward": forward, "step": 3 * forward, "matmul": 2e-9 * m * k * n}


def differences(contestants: list[Contestant], task: str, tolerance: float = TOLERANCE) -> dict[str, float]:
    """Largest difference of each twin's answer from ours, as a share of ours' largest entry; float32 ones must agree.

    Raises AssertionError where a float32 twin differs by more than that.
    """
    ours = contestants[0].result(task)
    found = {}
    for twin in contestants[1:]:
        found[twin.name] = float(np.abs(twin.result(task) - ours).max() / np.abs(ours).max())
        assert "bfloat16" in twin.name or found[twin.name] <= tolerance, (twin.name, task, found[twin.name])
    return found

"""Times the attention half of a block on a Hopper GPU: ours against what a user would otherwise call, taking turns.

    python benchmarks/modulated_attention.py [--shapes dit_xl_256 ...] [--rounds 20]

Contestants: our Pallas kernels, plain XLA, XLA with cuDNN's attention, tokamax' attention where it is installed, and
PyTorch (torch.compile around scaled_dot_product_attention, or flex_attention where tokens see runs). Same shapes,
bfloat16; each in a process of its own (why: `turns.py`). Tasks: the half, or attention alone; forward and with
gradients of everything. TFLOP/s count the products of visible pairs only; the peak is the best rate of a plain matrix
product in the same run. Ratios are other / ours: above 1 ours is faster.

Without a GPU it says "not measured" and writes nothing. Writes benchmarks/results/modulated_attention.json, which keeps
the shapes measured before on the same device, and from which `unified_jax/kernels/measured.py` is filled by hand.
"""

import argparse
import importlib.util
import json
from typing import Any, NamedTuple

import numpy as np
from turns import RESULTS, Contestant, alternate, provenance, table, warm, write

CALLS = 10
"""Calls of one measurement, so that starting them costs little."""


class Shape(NamedTuple):
    """Sizes of one attention half."""

    batch: int
    tokens: int
    width: int
    heads: int
    runs: bool = False


SHAPES = {
    "dit_xl_256": Shape(64, 256, 1152, 16),
    "dit_xl_1024": Shape(64, 1024, 1152, 16),
    "n_4096_24x128": Shape(4, 4096, 3072, 24),
    "transfusion_4096": Shape(1, 4096, 4096, 32, runs=True),
}
GOALS = {
    "dit_xl_256": "forward >= 1.05 x XLA with cuDNN, forward and backward >= 1.0 x",
    "dit_xl_1024": "forward >= 1.0 x XLA with cuDNN, forward and backward >= 1.0 x",
    "n_4096_24x128": "attention forward >= 0.55 of the measured peak",
    "transfusion_4096": ">= 2 x cuDNN with bias, >= 1.0 x torch flex_attention",
}
HALF, ALONE = ("forward", "gradient"), ("attend", "attend_gradient")
TASKS = {"dit_xl_256": HALF, "dit_xl_1024": HALF, "n_4096_24x128": ALONE, "transfusion_4096": ALONE}


def packing(n: int) -> np.ndarray:
    """int32 `[n, 2]`: documents of 512 to 1,536 tokens, text with spans of 64 to 256 tokens that see themselves."""
    rng, runs, first = np.random.default_rng(0), np.zeros((n, 2), np.int32), 0
    while first < n:
        last = min(n, first + int(rng.integers(512, 1537)))
        runs[first:last, 0], runs[first:last, 1] = first, np.arange(first, last) + 1
        at = first + int(rng.integers(16, 64))
        while at < last:
            stop = min(last, at + int(rng.choice([64, 144, 256])))
            runs[at:stop, 1] = stop
            at = stop + int(rng.integers(16, 128))
        first = last
    return runs


def flops(shape: Shape, task: str) -> float:
    """Of one call: products of visible pairs, and of the projections for the half; gradients cost two more each."""
    b, n, d, _, runs = shape
    visible = packing(n)
    pairs = b * (int((visible[:, 1] - visible[:, 0]).sum()) if runs else n * n)
    attend, projections = 4.0 * pairs * d, 2.0 * b * n * 4 * d * d
    # With gradients: forward, then twice as much; attention computes its scores once more.
    return {
        "forward": attend + projections,
        "gradient": 3.5 * attend + 3 * projections,
        "attend": attend,
        "attend_gradient": 3.5 * attend,
    }[task]


def build_jax(attention: str, name: str) -> dict[str, Any]:
    """Tasks of one of our implementations; "tokamax" is XLA around tokamax' attention."""
    import jax
    import jax.numpy as jnp

    from unified_jax.kernels import choice
    from unified_jax.kernels.inputs import Modulation, OutWeights, QkvWeights

    shape = SHAPES[name]
    b, n, d, h = shape[:4]
    keys = iter(jax.random.split(jax.random.key(0), 12))

    def draw(*size: int, dtype: Any = jnp.bfloat16) -> Any:
        return (0.05 * jax.random.normal(next(keys), size)).astype(dtype)

    rows = Modulation(*(draw(b, 1, d, dtype=jnp.float32) for _ in range(3)))
    given = (draw(b, n, d), rows, QkvWeights(draw(d, h, 3, d // h)), OutWeights(draw(h, d // h, d)))
    q = tuple(draw(b, n, h, d // h) for _ in range(3))
    visible = jnp.broadcast_to(packing(n), (b, n, 2)) if shape.runs else None

    def attend(q: Any, k: Any, v: Any) -> Any:
        if attention == "tokamax":
            import tokamax  # type: ignore[import-not-found]

            return tokamax.dot_product_attention(q, k, v)
        return choice.attend(q, k, v, visible, attention=attention)[0]  # type: ignore[arg-type]

    def half(x: Any, m: Any, qkv: Any, out: Any) -> Any:
        parts = "xla" if attention in ("tokamax", "cudnn") else attention
        made = choice.modulated_qkv(x, m, qkv, attention=parts)  # type: ignore[arg-type]
        return choice.gated_out(x, attend(*made), out, m.gate, attention=parts)  # type: ignore[arg-type]

    def with_gradient(run: Any, given: Any) -> Any:
        return jax.grad(lambda g: jnp.sum(run(*g).astype(jnp.float32) ** 2))(given)

    calls = {
        "forward": (jax.jit(lambda g: half(*g)), given),
        "gradient": (jax.jit(lambda g: with_gradient(half, g)), given),
        "attend": (jax.jit(lambda g: attend(*g)), q),
        "attend_gradient": (jax.jit(lambda g: with_gradient(attend, g)), q),
    }
    square = draw(8192, 8192)
    calls["matmul"] = (jax.jit(lambda a: a @ a), square)

    def repeated(run: Any, on: Any) -> Any:
        def task() -> None:
            jax.block_until_ready([run(on) for _ in range(CALLS)])

        return task

    tasks = {task: repeated(*call) for task, call in calls.items()}
    tasks["memory"] = lambda: (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    return tasks


def build_torch(name: str) -> dict[str, Any]:
    """The same half in PyTorch, compiled, with SDPA or flex_attention."""
    import torch
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention  # type: ignore[import-not-found]
    from torch.nn.functional import layer_norm, scaled_dot_product_attention

    shape = SHAPES[name]
    b, n, d, h = shape[:4]
    draw = lambda *size, dtype=torch.bfloat16: (  # noqa: E731
        (0.05 * torch.randn(*size, device="cuda")).to(dtype).requires_grad_()
    )
    x, shift, scale, gate = draw(b, n, d), *(draw(b, 1, d, dtype=torch.float32) for _ in range(3))
    qkv, out = draw(3 * d, d), draw(d, d)
    block_mask = None
    if shape.runs:
        runs = torch.from_numpy(packing(n)).cuda()
        inside = lambda b, h, i, j: (j >= runs[i, 0]) & (j < runs[i, 1])  # noqa: E731
        block_mask = create_block_mask(inside, None, None, n, n, device="cuda")

    def attend(q: Any, k: Any, v: Any) -> Any:
        if block_mask is not None:
            return flex_attention(q, k, v, block_mask=block_mask)
        return scaled_dot_product_attention(q, k, v)

    def half(x: Any, shift: Any, scale: Any, gate: Any, qkv: Any, out: Any) -> Any:
        y = (layer_norm(x.float(), (d,), eps=1e-6) * (1 + scale) + shift).to(x.dtype)
        q, k, v = (y @ qkv.T).view(b, n, 3, h, d // h).permute(2, 0, 3, 1, 4)
        a = attend(q, k, v).transpose(1, 2).reshape(b, n, d)
        return x + (gate * (a @ out.T)).to(x.dtype)

    whole, alone = torch.compile(half), torch.compile(attend)
    given = (x, shift, scale, gate, qkv, out)
    heads = tuple(draw(b, h, n, d // h) for _ in range(3))

    def forward(run: Any, on: Any) -> Any:
        def task() -> None:
            with torch.no_grad():
                for _ in range(CALLS):
                    run(*on)
            torch.cuda.synchronize()

        return task

    def gradient(run: Any, on: Any) -> Any:
        def task() -> None:
            for _ in range(CALLS):
                torch.autograd.grad((run(*on).float() ** 2).sum(), on)
            torch.cuda.synchronize()

        return task

    return {
        "forward": forward(whole, given),
        "gradient": gradient(whole, given),
        "attend": forward(alone, heads),
        "attend_gradient": gradient(alone, heads),
        "memory": torch.cuda.max_memory_allocated,
    }


def measure(name: str, rounds: int) -> dict[str, Any]:
    """The tasks of one shape."""
    kinds = ["pallas", "xla", "cudnn"]
    if importlib.util.find_spec("tokamax") and not SHAPES[name].runs:
        kinds.append("tokamax")
    contestants = [Contestant(kind, build_jax, kind, name) for kind in kinds]
    if importlib.util.find_spec("torch"):
        contestants.append(Contestant("torch", build_torch, name))
    found: dict[str, Any] = {"shape": SHAPES[name]._asdict(), "goal": GOALS[name]}
    warm(contestants, TASKS[name])
    peak = alternate(contestants[:1], "matmul", rounds)[0]["minimum_ms"] / CALLS
    found["peak_tflops"] = round(2 * 8192**3 / peak / 1e9, 1)
    for task in TASKS[name]:
        rows = alternate(contestants, task, rounds)
        for row in rows:
            row["tflops"] = round(flops(SHAPES[name], task) / (row["median_ms"] / CALLS) / 1e9, 1)
            row["share_of_peak"] = round(row["tflops"] / found["peak_tflops"], 3)
        found[task] = rows
        print(f"\n{name}, {task}\n{table(rows)}", flush=True)
    found["peak_bytes"] = {c.name: c.result("memory") for c in contestants}
    for contestant in contestants:
        contestant.close()
    return found


def earlier(device: str) -> dict[str, Any]:
    """Shapes that the file holds already, of this device."""
    path = RESULTS / "modulated_attention.json"
    held = json.loads(path.read_text()) if path.exists() else {}
    return held["shapes"] if held.get("device") == device else {}


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    import jax

    device = jax.devices()[0]
    if device.platform != "gpu":
        print("not measured: no GPU here")
        return
    found = earlier(device.device_kind)
    for name in options.shapes:
        found[name] = provenance() | {"rounds": options.rounds} | measure(name, options.rounds)
        write("modulated_attention", {"device": device.device_kind, "shapes": found})


if __name__ == "__main__":
    main()

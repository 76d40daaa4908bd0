"""Times DiT-S on one GPU against the same network, weights and batch in PyTorch, taking turns: what `train_step.py`
and `sampling.py` time on a CPU.

    python benchmarks/gpu.py [--tokens 64 256] [--rounds 20] [--steps 50]

Batch 8: a training step (forward, backward, AdamW, the average of the weights, the norms, the metrics read back) and
guided sampling, in float32 and in bfloat16. Before anything is timed the float32 twins' outputs and samples must be
ours to 1e-3 of their largest entry (the file says how near they are): neither framework multiplies in TF32. Ratios are
PyTorch / ours: above 1 ours is faster. At this size a GPU waits for its host: CUDA graphs (torch.compile's mode
"reduce-overhead") were not tried.

Without a GPU it says "not measured" and writes nothing. Needs the extra `parity`. Writes benchmarks/results/gpu.json.
Nobody has run it to its end yet: see docs/kernels.md.
"""

import argparse
import tempfile
from typing import Any

from sides import CPU, ROWS, SCALE, differences, our_tasks, torch_tasks
from turns import Contestant, alternate, table, warm, write

from unified_jax.runs.xla_flags import use_cublas

TASKS = ("step", "forward", "sample")
TOLERANCE = 1e-3
"""Of `differences`: PyTorch's attention in float32 has a kernel of its own on a GPU."""


def enter(tokens: int, folder: str, steps: int) -> list[Contestant]:
    """Ours and the twins, in both precisions."""
    found = [Contestant("ours", our_tasks, tokens, CPU, steps, folder, False)]
    assert found[0].tasks  # the others start from its weights
    short = CPU | {"dtype": "bfloat16"}
    for name, attention in (
        ("ours, bfloat16", "auto"),
        ("ours, bfloat16, xla", "xla"),
        ("ours, bfloat16, cudnn", "cudnn"),
    ):
        fields = short | {"attention": attention}
        found += [Contestant(name, our_tasks, tokens, fields, steps, folder, False)]
    for bfloat16, suffix in ((False, ""), (True, ", bfloat16")):
        for compiled, kind in ((False, "torch eager"), (True, "torch.compile")):
            found += [Contestant(kind + suffix, torch_tasks, tokens, compiled, bfloat16, steps, folder, False)]
    return found


def measure(tokens: int, rounds: int, steps: int) -> dict[str, Any]:
    """The rows of all tasks for one sequence length; those in bfloat16 have ours in bfloat16 as their base."""
    with tempfile.TemporaryDirectory() as folder:
        contestants = enter(tokens, folder, steps)
        warm(contestants, TASKS)
        found: dict[str, Any] = {"tokens": tokens, "batch": ROWS, "steps": steps, "scale": SCALE}
        found["differences"] = {task: differences(contestants, task, TOLERANCE) for task in ("forward", "sample")}
        for task in TASKS:
            found[task] = []
            for short in (False, True):
                some = [c for c in contestants if ("bfloat16" in c.name) == short]
                found[task] += alternate(some, task, rounds if task != "sample" else max(3, rounds // 4))
            print(f"\n{task}, {tokens} tokens, batch {ROWS}\n{table(found[task])}", flush=True)
        for contestant in contestants:
            contestant.close()
    return found


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokens", type=int, nargs="+", default=[64, 256], choices=[64, 256])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--steps", type=int, default=50)
    options = parser.parse_args()
    import jax

    use_cublas()
    device, found = jax.devices()[0], []
    if device.platform != "gpu":
        print("not measured: no GPU here")
        return
    for tokens in options.tokens:
        found.append(measure(tokens, options.rounds, options.steps))
        write("gpu", {"device": device.device_kind, "rounds": options.rounds, "lengths": found})


if __name__ == "__main__":
    main()

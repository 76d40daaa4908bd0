"""Times a training step of DiT-S against the same network, weights and batch in PyTorch, taking turns step by step.

    python benchmarks/train_step.py [--tokens 64 256] [--rounds 15] [--no-compile] [--core 0]

A step is forward, backward, AdamW, the moving average of the weights, the norms of gradient and weights, and the
metrics read back: float32, batch 8. The bound is what no program could pass (see `bound`). Each contestant has a
process of its own (why: `turns.py`). Before anything is timed the twin's output on a fixed input must be ours to 1e-4
of its largest entry. Ratios are PyTorch / ours: above 1 ours is faster. The bfloat16 rows are PyTorch's autocast, which
uses the processor's bfloat16 instructions; ours computes in float32 here. Ours in bfloat16: `bf16_cpu.py`.

Needs the extra `parity`. Writes benchmarks/results/train_step.json.
"""

import argparse
import os
import tempfile
from typing import Any

from sides import ROWS, differences, enter, work
from turns import alternate, table, write


def measure(tokens: int, rounds: int, compiled: bool) -> dict[str, Any]:
    """The rows of `step` and `forward` for one sequence length."""
    with tempfile.TemporaryDirectory() as folder:
        contestants = enter(tokens, folder, compiled)
        found: dict[str, Any] = {"tokens": tokens, "batch": ROWS, "differences": differences(contestants, "forward")}
        found["matmul"] = alternate(contestants, "matmul", 40)
        found["step"] = alternate(contestants, "step", rounds, calls=3)
        found["forward"] = alternate(contestants, "forward", rounds)
        for contestant in contestants:
            contestant.close()
    found["gflop"] = work(tokens)
    found["bound"] = bound(found)
    for task in ("step", "forward"):
        print(f"\n{task}, {tokens} tokens, batch {ROWS}\n{table(found[task])}", flush=True)
        print(f"at matmul's rate, {found['bound']['gflops']:.0f} GFLOP/s: {found['bound'][task]:.2f}", flush=True)
    return found


def bound(found: dict[str, Any]) -> dict[str, float]:
    """The largest ratio PyTorch eager / ours that any program could reach here in float32.

    `gflops` is the best rate that either framework reached in a plain matrix product in this run; a program that did
    all its work at that rate, and nothing else, would take work / rate.
    """
    rate = found["gflop"]["matmul"] / min(row["minimum_ms"] for row in found["matmul"]) * 1e3
    eager = {
        task: row["minimum_ms"] for task in ("step", "forward") for row in found[task] if row["name"] == "torch eager"
    }
    return {"gflops": rate} | {task: ms / (found["gflop"][task] / rate * 1e3) for task, ms in eager.items()}


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokens", type=int, nargs="+", default=[64, 256], choices=[64, 256])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--core", type=int, help="use this core alone; the file's name then ends in _core")
    options = parser.parse_args()
    if options.core is not None:
        os.sched_setaffinity(0, {options.core})  # the workers inherit it, and both frameworks count their threads by it
    name, found = "train_step" + ("" if options.core is None else "_core"), []
    for tokens in options.tokens:
        found.append(measure(tokens, options.rounds, not options.no_compile))
        write(name, {"rounds": options.rounds, "lengths": found})


if __name__ == "__main__":
    main()

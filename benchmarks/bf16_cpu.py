"""bfloat16 on a CPU: whether a run ends as well as in float32, and how fast it is beside PyTorch's.

    python benchmarks/bf16_cpu.py quality [--recipe quickstart] [--seeds 5] [--steps N] [--runs runs/bf16_cpu]
    python benchmarks/bf16_cpu.py speed [--tokens 64 256] [--rounds 9] [--steps 50]

`quality` trains a recipe with every seed in both dtypes, else alike (data order, noise and initial parameters are a
seed's), and gives the paired difference of the validation loss at the end, as a share of float32's, with Student's
95 % interval. `speed` times DiT-S, batch 8: a training step and guided sampling, ours and PyTorch's in float32 and in
bfloat16 (PyTorch's by autocast), all taking turns, each in a process of its own (`turns.py`); rows are other / ours in
bfloat16, above 1 ours is faster. The goals stand beside what is found.

Where the processor has no instructions for bfloat16, `dtype="auto"` is float32: `speed` says so and times nothing,
unless --anyway. Each part writes results/bf16_cpu_PART.json. PyTorch needs the extra `parity`.
"""

import argparse
import dataclasses
import math
import tempfile
from pathlib import Path
from typing import Any

from sides import CPU, differences, our_tasks, torch_tasks
from turns import Contestant, alternate, table, write

from unified_jax.evaluation.statistics import student_mean
from unified_jax.precision import multiplies_bfloat16
from unified_jax.runs.loop import train
from unified_jax.runs.metrics import read_lines
from unified_jax.runs.recipe import load_recipe
from unified_jax.runs.start import Start
from unified_jax.training.compute import Dtype, settled

DTYPES: tuple[Dtype, Dtype] = ("float32", "bfloat16")
CALLS = {"step": 3, "sample": 1}
"""Of a turn, of which the last is timed."""
QUALITY = 0.005
"""Goal: the share of float32's validation loss by which bfloat16's may differ."""
GOALS = {"sample": {"torch eager": 1.7, "torch eager, bfloat16": 1.2}} | {
    "step": {"torch eager": 1.3, "torch eager, bfloat16": 0.95}
}
"""Goals of PyTorch's time over ours, at either length."""
AIMS = {"step": {"torch eager": 1.6, "torch eager, bfloat16": 1.1}, "sample": {}}
"""What is aimed at beyond them."""
NOT_USED = "no instructions for bfloat16: not used (dtype auto is float32)"


def loss_of(recipe: str, seed: int, dtype: Dtype, steps: int, runs: Path) -> float:
    """The validation loss at the end of a run."""
    found = load_recipe(recipe)
    validation = dataclasses.replace(found.validation, every=steps or found.steps)
    own = dataclasses.replace(
        found, seed=seed, steps=steps or found.steps, validation=validation, evaluate=0, dtype="auto",
        preview=dataclasses.replace(found.preview, every=0),
    )  # fmt: skip
    folder = runs / f"{Path(recipe).stem}_{dtype}_{seed}"
    train(settled(own, dtype), Start(folder))
    losses = [line["validation/loss"] for line in read_lines(folder / "metrics.jsonl") if "validation/loss" in line]
    return math.nan if losses[-1] is None else losses[-1]


def quality(options: argparse.Namespace) -> dict[str, Any]:
    """The losses, and their paired difference."""
    rows = []
    for seed in range(options.seeds):
        row = {dtype: loss_of(options.recipe, seed, dtype, options.steps, Path(options.runs)) for dtype in DTYPES}
        rows.append({"seed": seed} | row | {"difference": row["bfloat16"] / row["float32"] - 1})
        print(f"seed {seed}: {row['float32']:.5f} float32, {row['bfloat16']:.5f} bfloat16", flush=True)
    mean = student_mean([row["difference"] for row in rows])
    print(
        f"bfloat16 - float32, share of the validation loss: {mean.value:+.2%} ({mean.low:+.2%} .. {mean.high:+.2%}), "
        f"{mean.n} seeds; goal: within {QUALITY:.1%}"
    )
    ends = {end: value if math.isfinite(value) else None for end, value in (("low", mean.low), ("high", mean.high))}
    return {"recipe": options.recipe, "steps": options.steps, "rows": rows, "mean": mean.value, "goal": QUALITY} | ends


def enter(tokens: int, folder: str, steps: int) -> list[Contestant]:
    """Ours in bfloat16 first, from which the ratios are; then ours in float32 and PyTorch's two."""
    ours = [
        Contestant(f"ours, {dtype}", our_tasks, tokens, CPU | {"dtype": dtype}, steps, folder, True)
        for dtype in DTYPES[::-1]
    ]
    assert all(one.tasks for one in ours)  # the others start from their weights
    kinds = ((False, ""), (True, ", bfloat16"))
    return ours + [
        Contestant(f"torch eager{suffix}", torch_tasks, tokens, False, short, steps, folder, False)
        for short, suffix in kinds
    ]


def speed_of(tokens: int, rounds: int, steps: int) -> dict[str, Any]:
    """The rows of one length."""
    with tempfile.TemporaryDirectory() as folder:
        contestants = enter(tokens, folder, steps)
        exact = [contestants[1], *contestants[2:], contestants[0]]  # compared with ours in float32
        found: dict[str, Any] = {"tokens": tokens, "differences": differences(exact, "forward", tolerance=math.inf)}
        assert found["differences"]["torch eager"] <= 1e-4, found["differences"]
        for task in ("step", "sample"):
            found[task] = alternate(contestants, task, rounds, warm=1, calls=CALLS[task])
            print(f"\n{task}, {tokens} tokens, batch 8\n{table(found[task])}")
            for row in found[task]:
                if goal := GOALS[task].get(row["name"]):
                    aim = AIMS[task].get(row["name"])
                    said = f"goal {goal}" + (f", aim {aim}" if aim else "")
                    print(f"{row['name']} / ours: {row['ratio_paired']:.2f} ({said})", flush=True)
        for contestant in contestants:
            contestant.close()
    return found


def speed(options: argparse.Namespace) -> dict[str, Any]:
    """The rows of all lengths, or why there are none."""
    head = {"rounds": options.rounds, "steps": options.steps, "goals": GOALS, "aims": AIMS}
    if not multiplies_bfloat16() and not options.anyway:
        print(f"This processor has {NOT_USED}.")
        return head | {"lengths": [], "why": NOT_USED}
    return head | {"lengths": [speed_of(n, options.rounds, options.steps) for n in options.tokens]}


def main() -> None:
    """Measures one part and writes it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parts = parser.add_subparsers(dest="part", required=True)
    trained = parts.add_parser("quality")
    trained.add_argument("--recipe", default="quickstart")
    trained.add_argument("--seeds", type=int, default=5)
    trained.add_argument("--steps", type=int, default=0, help="0: the recipe's")
    trained.add_argument("--runs", default="runs/bf16_cpu")
    timed = parts.add_parser("speed")
    timed.add_argument("--tokens", type=int, nargs="+", default=[64, 256], choices=[64, 256])
    timed.add_argument("--rounds", type=int, default=9)
    timed.add_argument("--steps", type=int, default=50, help="of sampling")
    timed.add_argument("--anyway", action="store_true", help="also where the processor has no instructions")
    for part in (trained, timed):
        part.add_argument("--dry", action="store_true", help="write no file")
    options = parser.parse_args()
    found = {"quality": quality, "speed": speed}[options.part](options)
    if not options.dry:
        write(f"bf16_cpu_{options.part}", found)


if __name__ == "__main__":
    main()

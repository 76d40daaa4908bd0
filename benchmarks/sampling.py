"""Times 50 steps of guided sampling with DiT-S against the same network, weights and noise in PyTorch, taking turns.

    python benchmarks/sampling.py [--tokens 64 256] [--rounds 5] [--steps 50] [--no-compile] [--core 0]

Euler's method with classifier-free guidance, 8 samples, float32, from the same starting noise: the samples must agree
to 1e-4 of their largest entry before anything is timed. Ours is `model.generate`, which calls the network once for
each side of the guidance; the twin puts both sides into one batch, as the published DiT code does. Ratios are PyTorch
/ ours: above 1 ours is faster. What the columns mean, and why processes: `turns.py`; bfloat16: `train_step.py`.

Needs the extra `parity`. Writes benchmarks/results/sampling.json.
"""

import argparse
import os
import tempfile
from typing import Any

from sides import ROWS, SCALE, differences, enter
from turns import alternate, table, write


def measure(tokens: int, rounds: int, compiled: bool, steps: int) -> dict[str, Any]:
    """The rows for one sequence length."""
    with tempfile.TemporaryDirectory() as folder:
        contestants = enter(tokens, folder, compiled, steps, trains=False)
        apart = differences(contestants, "sample")
        rows = alternate(contestants, "sample", rounds, warm=0)  # the comparison has warmed everyone up
        for contestant in contestants:
            contestant.close()
    print(f"\n{steps} guided steps, {tokens} tokens, {ROWS} samples\n{table(rows)}", flush=True)
    return {"tokens": tokens, "samples": ROWS, "steps": steps, "scale": SCALE, "differences": apart, "sample": rows}


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokens", type=int, nargs="+", default=[64, 256], choices=[64, 256])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--core", type=int, help="use this core alone; the file's name then ends in _core")
    options = parser.parse_args()
    if options.core is not None:
        os.sched_setaffinity(0, {options.core})  # the workers inherit it, and both frameworks count their threads by it
    name, found = "sampling" + ("" if options.core is None else "_core"), []
    for tokens in options.tokens:
        found.append(measure(tokens, options.rounds, not options.no_compile, options.steps))
        write(name, {"rounds": options.rounds, "lengths": found})


if __name__ == "__main__":
    main()

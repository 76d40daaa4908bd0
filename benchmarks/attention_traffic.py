"""Counts what the attention half of DiT-XL moves and computes, fused and not, and what that allows on three chips.

    python benchmarks/attention_traffic.py

Nothing is measured. With T = batch x tokens, width d and n tokens a row, bfloat16, forward, a pass has bytes | FLOP:

    separate    norm, modulate      4 T d
                qkv                 8 T d + 6 d^2       | 6 T d^2
                attention           8 T d               | 4 T n d
                out                 4 T d + 2 d^2       | 2 T d^2
                gate, add           6 T d
    fused       norm, modulate, qkv 8 T d + 6 d^2       | 6 T d^2       (on Hopper the norm's statistics are a pass of
                attention           8 T d               | 4 T n d        their own before it, 2 T d)
                out, gate, add      6 T d + 2 d^2       | 2 T d^2

A pass takes the longer of its bytes and its products at the data sheet's rates: the roofline. Writes
benchmarks/results/attention_traffic.json.
"""

from typing import Any, NamedTuple

from turns import write


class Chip(NamedTuple):
    """Data-sheet rates."""

    tflops: float
    terabytes: float


CHIPS = {"H200": Chip(989.0, 4.8), "TPU v5p": Chip(459.0, 2.765), "TPU v6e": Chip(918.0, 1.64)}
WIDTH, HEADS, BATCH = 1152, 16, 64


def passes(tokens: int) -> dict[str, list[tuple[int, int]]]:
    """(bytes, FLOP) of each pass of each way."""
    td, d2 = BATCH * tokens * WIDTH, WIDTH**2
    qkv, attend, out = 6 * td * WIDTH, 4 * td * tokens, 2 * td * WIDTH
    fused = [(8 * td + 6 * d2, qkv), (8 * td, attend), (6 * td + 2 * d2, out)]
    return {
        "separate": [(4 * td, 0), (8 * td + 6 * d2, qkv), (8 * td, attend), (4 * td + 2 * d2, out), (6 * td, 0)],
        "fused": fused,
        "fused, Hopper": [(2 * td, 0), *fused],
    }


def roofline(ways: list[tuple[int, int]], chip: Chip) -> float:
    """Microseconds."""
    return 1e6 * sum(max(b / (chip.terabytes * 1e12), f / (chip.tflops * 1e12)) for b, f in ways)


def count(tokens: int) -> dict[str, Any]:
    """Bytes and products of one length, and the roofline of each way on each chip."""
    ways, chips = passes(tokens), {}
    for name, chip in CHIPS.items():
        separate = roofline(ways["separate"], chip)
        fused = roofline(ways["fused, Hopper" if name == "H200" else "fused"], chip)
        chips[name] = {"separate_us": round(separate), "fused_us": round(fused), "ratio": round(separate / fused, 2)}
    moved = {way: round(sum(b for b, _ in each) / 1e6, 1) for way, each in ways.items()}
    return {
        "tokens": tokens,
        "gflop": round(sum(f for _, f in ways["fused"]) / 1e9, 1),
        "megabytes": moved,
        "chips": chips,
    }


def main() -> None:
    """Counts, prints a table for docs/kernels.md, and writes."""
    found = [count(tokens) for tokens in (256, 1024)]
    for row in found:
        print(f"\n{row['tokens']} tokens, batch {BATCH}: {row['gflop']} GFLOP, MB moved {row['megabytes']}")
        for name, chip in row["chips"].items():
            print(f"| {name} | {' | '.join(str(v) for v in chip.values())} |")
    write("attention_traffic", {"width": WIDTH, "heads": HEADS, "batch": BATCH, "lengths": found})


if __name__ == "__main__":
    main()

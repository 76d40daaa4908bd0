r"""Collectives of a compiled program: the arrays it moves between devices, from its HLO text.

An instruction counts once per execution: bodies of loops by their known trip count. Its bytes are those that one
device sends by the ring algorithms, with n devices per group:

    all-gather, reduce-scatter    (n - 1) / n of the full array
    all-reduce                    twice that
    all-to-all                    (n - 1) / n of it,     collective-permute    all of it

The mesh axes of a group are those along which its devices differ.
"""

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
BITS = {"pred": 8, "bf16": 16, "f16": 16, "f32": 32, "f64": 64, "s32": 32, "u32": 32, "s8": 8, "u8": 8, "s64": 64}
FACTOR = {"all-gather": 1.0, "all-reduce": 2.0, "reduce-scatter": 1.0, "all-to-all": 1.0}


@dataclass(frozen=True)
class Moved:
    """The traffic of one kind over one set of mesh axes, per step and device."""

    axis: str
    kind: str
    bytes: float
    count: int


def collectives(text: str, axes: dict[str, int]) -> list[Moved]:
    """The traffic of a compiled module; `axes` are the mesh's names and sizes, in order."""
    computations = _computations(text)
    totals: dict[tuple[str, str], list[float]] = {}

    def visit(name: str, times: int) -> None:
        for line in computations.get(name, []):
            if (found := _collective(line, axes)) is not None:
                kind, axis, size = found
                entry = totals.setdefault((axis, kind), [0.0, 0])
                entry[0] += times * size
                entry[1] += times
            for called, trips in _calls(line, computations):
                visit(called, times * trips)

    visit("ENTRY", 1)
    return [Moved(axis, kind, size, int(count)) for (axis, kind), (size, count) in sorted(totals.items())]


def _computations(text: str) -> dict[str, list[str]]:
    """Name -> instructions; the entry is called ENTRY."""
    found: dict[str, list[str]] = {}
    name = None
    for line in text.splitlines():
        if head := re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line):
            name = "ENTRY" if head[1] else head[2]
            found[name] = []
        elif line.startswith("}"):
            name = None
        elif name is not None:
            found[name].append(line)
    return found


def _calls(line: str, computations: dict[str, list[str]]) -> list[tuple[str, int]]:
    """(computation, times) that an instruction runs."""
    if " while(" in line:
        body = re.search(r"body=%?([\w.\-]+)", line)
        return [(body[1], _trips(line, computations))] if body else []
    if " conditional(" in line:
        branches = re.search(r"branch_computations=\{([^}]*)\}", line)
        names = branches[1].replace("%", "").split(", ") if branches else re.findall(r"_computation=%?([\w.\-]+)", line)
        return [(name, 1) for name in names]
    found = re.search(r"(?:calls|to_apply)=%?([\w.\-]+)", line)
    return [(found[1], 1)] if found and (" call(" in line or " fusion(" in line or "async-start" in line) else []


def _trips(line: str, computations: dict[str, list[str]]) -> int:
    """Iterations of a loop: the compiler's annotation, else the bound of its condition, else 1."""
    if known := re.search(r'known_trip_count":\s*\{"n":"(\d+)"', line):
        return int(known[1])
    condition = re.search(r"condition=%?([\w.\-]+)", line)
    bounds = [
        int(found[1])
        for instruction in (computations.get(condition[1], []) if condition else [])
        if (found := re.search(r"s32\[\]\S* constant\((\d+)\)", instruction))
    ]
    return max(bounds, default=1)


def _collective(line: str, axes: dict[str, int]) -> tuple[str, str, float] | None:
    found = re.search(rf"= (.*?) ({'|'.join(KINDS)})(-start)?\(", line)
    if not found:
        return None
    kind, shapes = found[2], _sizes(found[1])
    if kind == "collective-permute":
        pairs = re.findall(r"\{(\d+),(\d+)\}", line.partition("source_target_pairs=")[2].partition("}}")[0] + "}")
        group = next(([int(a), int(b)] for a, b in pairs if a != b), [0])
        return kind, _axes_of(group, axes), max(shapes)
    group = _group(line, math.prod(axes.values()))
    n = len(group)
    whole = sum(shapes)
    if found[3] and kind in ("all-gather", "reduce-scatter"):  # operands and results: n parts, and the full array
        whole *= n / (n + 1)
    elif found[3] and kind == "all-to-all":
        whole /= 2
    elif kind == "reduce-scatter":  # its result is one part
        whole *= n
    return kind, _axes_of(group, axes), FACTOR[kind] * whole * (n - 1) / n


def _sizes(shapes: str) -> list[float]:
    found = re.findall(r"(\w+)\[([\d,]*)\]", shapes)
    sizes = [BITS.get(d, 32) / 8 * math.prod(int(n) for n in s.split(",") if n) for d, s in found if d != "token"]
    return sizes or [0.0]


def _group(line: str, devices: int) -> list[int]:
    """The devices of the first group."""
    if named := re.search(
        r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? \{([^}]*)\}", line
    ):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", named[1]))
        places = _places(named[2] or ",".join(sizes.values()), named[3]).reshape([int(n) for n in sizes.values()])
        along = re.findall(r"'(\w+)'", named[4])
        return [int(i) for i in places[tuple(slice(None) if name in along else 0 for name in sizes)].reshape(-1)]
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", line):
        return [int(i) for i in listed[1].split(",")]
    if iota := re.search(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", line):
        return [int(i) for i in _places(iota[3], iota[4]).reshape(int(iota[1]), int(iota[2]))[0]]
    return list(range(devices))


def _places(dims: str, order: str | None) -> np.ndarray:
    """0, 1, 2, ... as an array of these sizes, its axes then in this order."""
    sizes = [int(i) for i in dims.split(",")]
    places = np.arange(math.prod(sizes)).reshape(sizes)
    return places.transpose([int(i) for i in order.split(",")]) if order else places


def _axes_of(group: list[int], axes: dict[str, int]) -> str:
    """Names of the axes along which the devices of a group differ, joined by "x"."""
    places: Any = np.stack(np.unravel_index(np.asarray(group), tuple(axes.values())))
    return "x".join(name for name, row in zip(axes, places, strict=True) if len(set(row.tolist())) > 1) or "none"

"""Whether a state fits into memory: refused with a message before the system kills the process.

The count is a floor: parameters, optimizer, EMAs and one gradient, from shapes and shardings only. Activations and
workspace come on top (`python -m unified_jax.cli.plan` estimates them). On CPUs all devices of a process share what the
machine, or its container, has left; elsewhere a device says how much it has.
"""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from unified_jax.errors import UserError
from unified_jax.training.state import State

GIB = 1 << 30


def part_bytes(shapes: Any, shardings: Any) -> int:
    """Bytes of one device's part of a tree."""
    sizes = jax.tree.map(lambda s, cut: math.prod(cut.shard_shape(s.shape)) * s.dtype.itemsize, shapes, shardings)
    return sum(jax.tree.leaves(sizes))


def state_bytes(shapes: State, cuts: State, frozen: Any) -> dict[str, int]:
    """Bytes of a device's part of the state, by kind; `frozen`, shapes with shardings, are counted if there are any."""
    held = {
        "params": part_bytes(shapes.params, cuts.params),
        "optimizer": part_bytes(shapes.opt_state, cuts.opt_state),
        "ema": part_bytes(shapes.ema, cuts.ema),
    }
    return held | ({"frozen": _laid_out(frozen)} if frozen else {})


def check_state_fits(shapes: State, cuts: State, frozen: Any, devices: Iterable[Any]) -> None:
    """Raises UserError if training does not fit on this process's devices. `frozen`: shapes with shardings."""
    held = state_bytes(shapes, cuts, {})
    kinds = {"parameters": held["params"], "optimizer": held["optimizer"], "averages": held["ema"]}
    kinds |= {"gradient": held["params"], "frozen parameters": _laid_out(frozen)}
    refuse_too_large("This run", kinds, largest(shapes.params), devices)


def check_params_fit(like: Any, devices: Iterable[Any]) -> None:
    """The same for parameters that are only read; `like` holds shapes with shardings."""
    refuse_too_large("Reading this run", {"parameters and averages": _laid_out(like)}, largest(like), devices)


def refuse_too_large(what: str, kinds: dict[str, int], biggest: str, devices: Iterable[Any]) -> None:
    """Raises UserError if the bytes of a device, over all kinds, exceed its memory."""
    devices = list(devices)
    need, room, where = sum(kinds.values()), room_of(devices[0]), f"each {devices[0].device_kind} device has"
    if devices[0].platform == "cpu":
        need, where = need * len(devices), "this machine has"
        kinds = {kind: size * len(devices) for kind, size in kinds.items()}
    if room is None or need <= room:
        return
    parts = ", ".join(f"{kind} {size / GIB:.1f}" for kind, size in kinds.items() if size)
    raise UserError(
        f"{what} needs at least {need / GIB:.1f} GiB ({parts}) and {where} {room / GIB:.1f} GiB left; the largest "
        f"parameter is {biggest}. Shard it over more devices (--mesh.fsdp), choose a smaller model or fewer EMAs; "
        "`python -m unified_jax.cli.plan RECIPE --target CHIP:SHAPE` shows what fits where."
    )


def largest(params: Any) -> str:
    """The largest array of a tree of shapes, for a sentence."""
    path, leaf = max(jax.tree_util.tree_leaves_with_path(params), key=lambda found: math.prod(found[1].shape))
    size = math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize
    return f"{jax.tree_util.keystr(path, simple=True, separator='/')} {list(leaf.shape)}, {size / GIB:.2f} GiB"


def room_of(device: Any) -> int | None:
    """Bytes that a device (of the CPU: the machine) can still give; None if unknown."""
    if device.platform == "cpu":
        return machine_room(Path("/"))
    stats = device.memory_stats() or {}
    limit = stats.get("bytes_limit")
    return None if limit is None else int(limit) - int(stats.get("bytes_in_use", 0))


def machine_room(root: Path) -> int | None:
    """Bytes that Linux can still give to this process, swap included: the least of machine and container."""
    fields = dict(line.split(":", 1) for line in _read(root / "proc/meminfo").splitlines() if ":" in line)
    free = [int(fields[name].split()[0]) << 10 for name in ("MemAvailable", "SwapFree") if name in fields]
    limits = [sum(free)] if "MemAvailable" in fields else []
    for folder, limit, used in (
        ("sys/fs/cgroup", "memory.max", "memory.current"),
        ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        most, now = _read(root / folder / limit).strip(), _read(root / folder / used).strip()
        if most.isdigit() and now.isdigit():
            cached = dict(line.split() for line in _read(root / folder / "memory.stat").splitlines() if " " in line)
            limits.append(int(most) - int(now) + int(cached.get("inactive_file", 0)))
    return min(limits) if limits else None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _laid_out(like: Any) -> int:
    return part_bytes(like, jax.tree.map(lambda leaf: leaf.sharding, like))

"""What the strict reduction costs: its step against the fast one's, alternating, on 1 to 8 fake CPU devices.

    python benchmarks/strict.py [--rounds 15]

DiT of width 192 and depth 6, batch 32 at 64 tokens, 8 virtual shards. Fake devices share the machine's cores, so only
the ratio of a row means something. Writes benchmarks/results/strict.json and the table in docs/launch.md.
"""

import argparse
import dataclasses
import functools
import statistics
import time
from typing import Any

import jax
import pages
from turns import write

from unified_jax.cli.entry import use_fake_devices
from unified_jax.data.pipeline import Pipeline
from unified_jax.hosts import lay_rows, local_rows, make_key
from unified_jax.runs.recipe import load_recipe
from unified_jax.sharding import MeshShape, make_mesh
from unified_jax.training.program import assemble
from unified_jax.training.step import init_state


class Side:
    """One reduction on one mesh."""

    def __init__(self, reduction: Any, mesh: MeshShape, devices: int) -> None:
        recipe = load_recipe("quickstart")
        e = dataclasses.replace(recipe, reduction=reduction, mesh=mesh, batch_size=32)
        self.program = assemble(e, make_mesh(mesh, jax.devices()[:devices]))
        held = local_rows(self.program.batch_sharding, self.program.rows)
        arrays = Pipeline(e.data, e.split, e.model.modalities, 32, 0, held).batch(0).arrays
        cut, rows = self.program.batch_sharding, self.program.rows
        self.batch = {name: lay_rows(value, held, rows, cut) for name, value in arrays.items()}
        make = functools.partial(init_state, e.model, self.program.optimizer, e.balance)
        with e.rules.active(self.program.mesh):
            self.key = make_key(0, self.program.mesh)
            self.state = jax.jit(make, out_shardings=self.program.shardings)(self.key)

    def step(self) -> float:
        """Seconds."""
        with self.program.experiment.rules.active(self.program.mesh):
            before = time.perf_counter()
            self.state, _ = self.program.step(self.state, {}, self.batch, self.key)
            jax.block_until_ready(self.state)
            return time.perf_counter() - before


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    use_fake_devices(8)
    found = []
    for devices, mesh in ((1, MeshShape(1)), (2, MeshShape(2)), (4, MeshShape(4)), (8, MeshShape(8)),
                          (8, MeshShape(1, 8))):  # fmt: skip
        sides = [Side(reduction, mesh, devices) for reduction in ("fast", "strict")]
        for side in sides:
            side.step()
        seconds = [[side.step() for side in sides] for _ in range(rounds)]
        found.append({
            "devices": devices, "data": mesh.data, "fsdp": mesh.fsdp,
            "fast_seconds": statistics.median(s[0] for s in seconds),
            "strict_seconds": statistics.median(s[1] for s in seconds),
            "ratio": statistics.median(s[1] / s[0] for s in seconds),
        })  # fmt: skip
        print(found[-1], flush=True)
    write("strict", {"rounds": rounds, "rows": found})
    pages.fill()


if __name__ == "__main__":
    main()

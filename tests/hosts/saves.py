"""A process of several that saves its best and its rolling checkpoint of the same steps at once; prints what failed.

`python tests/hosts/saves.py FOLDER --hosts.coordinator HOST:PORT --hosts.count N --hosts.index I`
"""

import argparse
import random
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from unified_jax.runs import checkpoints

STEPS = 12


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    for name, kind in (("coordinator", str), ("count", int), ("index", int)):
        parser.add_argument(f"--hosts.{name}", dest=name, type=kind)
    told = parser.parse_args()
    jax.distributed.initialize(told.coordinator, told.count, told.index)
    mesh = Mesh(np.array(jax.devices()), ("data",))

    def lay(value, *axes):
        return jax.make_array_from_callback(
            value.shape, NamedSharding(mesh, PartitionSpec(*axes)), lambda part: value[part]
        )

    failed: list[str] = []
    checkpoints.say = failed.append
    params = {"x": lay(np.arange(8.0), "data")}
    with checkpoints.Checkpoints(told.folder) as kept:
        for step in range(1, STEPS + 1):
            state = SimpleNamespace(
                step=lay(np.int32(step)), params=params, ema={}, opt_state={}, aux={}, balance={}
            )  # fmt: skip
            kept.save_best(state, step, 100.0 - step)
            time.sleep(random.random() * 0.01)
            kept.save(state, step)
    print("failed:", failed)


if __name__ == "__main__":
    main()

"""Whether a ControlNet's picture follows its map, and only its map, where the caption is silent.

    python benchmarks/control.py RUN [--count 512]          (a run of world_control)

Scenes of one object from the split held_out; the caption names the colour alone. Samples are drawn by the run's own
plan with the scene's map, and with the map of another scene, the next one in the split. The readers say how often
shape, size and place are the scene's, and the colour the caption's; `agree` is how often the two scenes agree, which is
chance for the second. Writes benchmarks/results/control.json.
"""

from typing import Any

import numpy as np
from completed import open_asked
from turns import write

import unified_jax as uj
from unified_jax.data.world.caption import write_caption
from unified_jax.data.world.read import read_image
from unified_jax.evaluation.statistics import wilson_interval

SHOWN = ("shape", "size", "place")
"""What the map shows; the caption names the colour."""


def row(hits: np.ndarray) -> dict[str, float]:
    """The share of hits, with its 95 % interval."""
    low, high = wilson_interval(float(hits.mean()), len(hits))
    return {"value": round(float(hits.mean()), 4), "low": round(low, 4), "high": round(high, 4)}


def agreement(made: np.ndarray, scenes: list[Any]) -> dict[str, dict[str, float]]:
    """How often the pictures have each attribute of their scenes; one with another number of objects has none."""
    read = read_image(made)
    found = {
        name: row(
            (read.count == 1)
            & (np.asarray(getattr(read, name))[:, 0] == [getattr(scene.objects[0], name) for scene in scenes])
        )
        for name in (*SHOWN, "colour")
    }
    return found | {"one_object": row(read.count == 1)}


def main() -> None:
    """Draws, reads, writes."""
    run, count = open_asked(str(__doc__))
    world = uj.World(resolution=32, max_objects=1).source("held_out", ("mask",))
    scenes = [world.scene(i) for i in range(count)]
    captions = [write_caption(scene, i, ("colour",)) for i, scene in enumerate(scenes)]
    masks = np.stack([world[i]["mask"] for i in range(count)])
    after = np.roll(np.arange(count), -1)
    values = {name: np.asarray([getattr(scene.objects[0], name) for scene in scenes]) for name in SHOWN}
    agree = {name: round(float(np.mean(value == value[after])), 4) for name, value in values.items()}
    found = {}
    for name, shown in (("own", masks), ("another", masks[after])):
        made = np.asarray(run.sample({"caption": captions, "mask": shown}, count=count)["image"])
        found[name] = agreement(made, scenes)
        print(name, {key: one["value"] for key, one in found[name].items()}, flush=True)
    print("two scenes agree", agree)
    write("control", {"step": run.step, "count": count, "maps": found, "agree": agree})


if __name__ == "__main__":
    main()

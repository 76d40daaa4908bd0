"""Growth on paper: weak scaling from 8 to 512 chips, from programs compiled for TPUs that are not there.

    python benchmarks/scaling.py [--only 8,64]       needs jax[tpu], no TPU

For DiT-XL/2 (32 images a chip) and Transfusion 7B (rows of 4,096 tokens, one a chip), both on latents that are given,
the real train step is compiled for v5p slices that grow with the batch; the bytes of its collectives are counted in the
program. Writes benchmarks/results/scaling.json after each compile (what is there is kept), then the tables of
docs/scaling.md and docs/figures/scaling.png.

Estimates, all of them: the compiler's time for what a chip computes; the bytes that a chip gives away over its
data-sheet link rate.
"""

import argparse
import dataclasses
import json
import os
from typing import Any

import pages
from turns import RESULTS, provenance

SLICES = {8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4", 128: "4x4x8", 256: "4x8x8", 512: "8x8x8"}
PER_CHIP = {"dit_xl2_imagenet256": 32, "transfusion_7b": 8}
FSDP = {"dit_xl2_imagenet256": 8, "transfusion_7b": 64}
"""Parts of the parameters at most; beyond that, data parallel."""


def measure(recipe: str, chips: int) -> dict[str, Any]:
    """One forecast."""
    from unified_jax.planning.hardware import open_target
    from unified_jax.planning.plan import forecast
    from unified_jax.runs.recipe import load_recipe
    from unified_jax.sharding import MeshShape

    fsdp = min(chips, FSDP[recipe])
    experiment = dataclasses.replace(
        load_recipe(recipe), batch_size=PER_CHIP[recipe] * chips, mesh=MeshShape(chips // fsdp, fsdp)
    )
    experiment = dataclasses.replace(experiment, model=on_latents(experiment.model))
    return forecast(experiment, open_target(f"v5p:{SLICES[chips]}"))


def on_latents(model: Any) -> Any:
    """The model on latents that are given: its autoencoder is not in the program."""
    from unified_jax.modalities.image import Image

    (stream,) = model.streams
    given = {"modality": Image(*stream.shape, patch=stream.latents.patch), "latents": None}
    plain = {f.name for f in dataclasses.fields(model)} >= set(given)
    return dataclasses.replace(model, **given if plain else {"streams": (dataclasses.replace(stream, **given),)})


def row(recipe: str, found: dict[str, Any]) -> dict[str, Any]:
    """What the table shows of a forecast."""
    from unified_jax.planning.hardware import CHIPS

    chip = CHIPS["v5p"]
    computed = found["step_seconds"]["value"]
    given = sum(m["bytes"] for m in found["collectives"])
    sent = given / chip.links
    per_step = found["examples_per_second"] * computed
    return {
        "recipe": recipe, "chips": found["chips"], "mesh": found["mesh"], "gib": found["bytes"]["total"] / 2**30,
        "compute_seconds": computed, "collective_bytes": given, "link_seconds": sent,
        "share_of_peak": found["share_of_peak"], "examples_per_step": per_step, "fits": found["fits"],
        "parameters": found["parameters"], "collectives": found["collectives"],
    }  # fmt: skip


def collect(only: list[int]) -> list[dict[str, Any]]:
    """All rows; those of an earlier call are kept."""
    path = RESULTS / "scaling.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    for chips in only:
        for recipe in PER_CHIP:
            if any(r["recipe"] == recipe and r["chips"] == chips for r in rows):
                continue
            rows.append(row(recipe, measure(recipe, chips)))
            rows.sort(key=lambda r: (r["recipe"], r["chips"]))
            path.write_text(json.dumps(provenance() | {"rows": rows}, indent=1) + "\n")
            print(f"{recipe} on {chips} chips: done", flush=True)
    return rows


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default="8,32,64,256,512", help="numbers of chips")
    arguments = parser.parse_args()
    os.environ["JAX_PLATFORMS"] = "cpu"
    collect([int(n) for n in arguments.only.split(",")])
    pages.fill()
    pages.plot_scaling()


if __name__ == "__main__":
    main()

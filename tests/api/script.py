# pyright: standard
"""What a user writes, type-checked by `make types`; it runs on a finished quickstart."""

import dataclasses

import jax.numpy as jnp
import numpy as np

import unified_jax as uj


def main() -> None:
    """Trains a little, samples, looks inside, and uses the parts alone."""
    recipe: uj.Experiment = dataclasses.replace(uj.recipe("quickstart"), steps=200)
    run: uj.Run = uj.train(recipe, "runs/small", quiet=True)
    samples = run.sample({"shape": "star", "colour": ["red", "blue"]}, count=8, seed=0)
    images: np.ndarray = samples["image"]
    uj.show(samples).save("stars.png")
    uj.show(images, columns=4)
    denoise, process, grid, noise = run.sampling({"shape": "star"}, count=2, plan=run.plan(uj.Heun(), steps=9))
    x0 = denoise(noise, jnp.full(2, grid[0])).x0
    loss: float = run.loss(run.batch())["loss"]
    rows = uj.evaluate(run, count=64)
    print(x0.shape, process, loss, rows[0]["value"])
    model = uj.Diffusion(
        network=uj.DiT(depth=2, width=64, heads=4),
        process=uj.RectifiedFlow(path=uj.paths.Gvp(), target="x0"),
        modality=uj.Image(32, 32, 3, patch=4),
        conditions=(uj.Label("shape", 6),),
    )
    experiment = uj.Experiment(
        model=model, data=uj.World(), optimizer=uj.Optimization(uj.Muon()), ema=(uj.Ema(0.99),), steps=10
    )
    print(experiment.model, uj.plan(experiment, "v5e:2x4")["fits"])


if __name__ == "__main__":
    main()

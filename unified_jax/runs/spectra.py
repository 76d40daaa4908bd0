"""`probe spectrum`: DCT spectra of a run's pictures, of its latents, and of what its autoencoder makes of the pictures.

    unified-jax probe spectrum --run runs/world_autoencoder       an autoencoder
    unified-jax probe spectrum --run runs/latent_dit_emoji        a model of latents: those of its stage
    unified-jax probe spectrum --run runs/quickstart              a model of pixels: the pictures alone

RUN/probes/spectrum.json and .png. Blocks have the same number of samples a side in pictures and in latents.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from unified_jax.data.pipeline import Pipeline
from unified_jax.errors import UserError
from unified_jax.evaluation.probes.spectrum import Spectrum, block_energies, spectrum as spectrum_of, zigzag
from unified_jax.evaluation.reconstruction import psnr
from unified_jax.modalities.image import Image
from unified_jax.models.stages import Stage
from unified_jax.runs import directory as runs
from unified_jax.runs.folders import make_folder
from unified_jax.runs.latent_record import RECORD
from unified_jax.runs.latents import of_recipe, of_run
from unified_jax.runs.saved import loading
from unified_jax.runs.stages import read_stage
from unified_jax.sharding import MeshShape, make_mesh

NAMES: tuple[str, ...] = ("pictures", "latents", "reconstructions")


@dataclass(frozen=True)
class SpectrumCommand:
    """Spectra of pictures, of latents and of reconstructions, and the share of the upper third of frequencies."""

    run: str
    """Run directory: an autoencoder, a model of latents, or of pixels."""
    split: str = "test"
    """Split of the run's set."""
    count: int = 256
    """Pictures."""
    batch: int = 16
    """Pictures at a time."""
    block: int = 8
    """Side of a block; less where a latent is smaller."""
    seed: int = 0
    """Of the order of the pictures."""
    trust: bool = False
    """Import the custom code that the run keeps."""


def spectrum(command: SpectrumCommand) -> None:
    """Writes the spectra and prints the shares. Raises UserError for runs without images."""
    if command.count < 2 or command.batch < 1 or command.block < 2:
        raise UserError(
            "--count and --block are at least 2 and --batch at least 1; found "
            f"{command.count}, {command.block} and {command.batch}."
        )
    run_dir = Path(command.run)
    experiment = runs.load_experiment(run_dir, command.trust)
    stage, image = _parts(run_dir, command.trust, experiment)
    arrays, quality = _arrays(command, experiment, stage, image)
    block = min(command.block, *(side for x in arrays.values() for side in x.shape[1:3]))
    if block < 2:
        raise UserError(f"Latents of {list(arrays['latents'].shape[1:])} are too small for a spectrum.")
    try:
        found = {name: spectrum_of(block_energies(x, block)) for name, x in arrays.items()}
    except ValueError as error:
        raise UserError(f"{run_dir}: {error}") from error
    folder = run_dir / "probes"
    make_folder(folder)
    rows = {name: one._asdict() | {"energy": one.energy.tolist()} for name, one in found.items()}
    measured = {"spectra": rows, "block": block, "count": command.count, "split": command.split, "psnr": quality}
    runs.write_json(folder / "spectrum.json", measured | runs.provenance(experiment))
    _draw(found, block, folder / "spectrum.png")
    for name, one in found.items():
        print(f"{name:16s} upper third of frequencies {one.high:.3g} [{one.low_end:.3g}, {one.high_end:.3g}]")
    if quality is not None:
        print(f"PSNR of reconstructions {quality:.2f} dB: spectra of autoencoders compare within 0.5 dB")
    print(folder / "spectrum.png")


def _parts(run_dir: Path, trust: bool, experiment: Any) -> tuple[Stage | None, Image]:
    """(the autoencoder, or None; the pictures)."""
    streams = getattr(experiment.model, "streams", ())
    if any(one.latents is not None for one in streams):
        stage, image = of_recipe(experiment)
    elif streams:
        stage, image = None, streams[0].modality
    else:
        stage, image = of_run(run_dir, trust, experiment, (run_dir / RECORD).is_file())
    coder: Any = stage.model if stage else None
    if not isinstance(image, Image) or (coder is not None and len(coder.latent_shape()) != 3):
        raise UserError(f"Spectra are of images and latents with rows and columns; this run has {image.name!r}.")
    return stage, image.sized(image.height, image.width)  # of its own size alone, without buckets


def _arrays(
    command: SpectrumCommand, experiment: Any, stage: Stage | None, image: Image
) -> tuple[dict[str, np.ndarray], float | None]:
    """({what: arrays `[n, h, w, c]`}, mean PSNR of the reconstructions in decibels)."""
    pipeline = Pipeline(experiment.data, command.split, (image,), command.batch, command.seed)
    params: Any = None
    if stage is not None:
        mesh = make_mesh(MeshShape(), jax.devices()[:1])
        params, _ = read_stage(stage, experiment.model, loading(mesh, experiment.rules, trust=command.trust))
    model: Any = stage.model if stage else None

    @jax.jit
    def look(params: Any, raw: Any) -> Any:
        x = image.to_model(raw)
        if model is None:
            return (x,)
        z = model.normalised(model.moments(params, x).mean)
        return x, z, model.decode(params, z)

    parts = []
    with tqdm(total=command.count, unit="image", dynamic_ncols=True) as bar:
        for step in range(-(-command.count // command.batch)):
            parts.append(jax.device_get(look(params, pipeline.batch(step).arrays[image.name])))
            bar.update(min(command.batch, command.count - step * command.batch))
    whole = [np.concatenate(one)[: command.count] for one in zip(*parts, strict=True)]
    found: dict[str, np.ndarray] = dict(zip(NAMES, whole, strict=False))
    if model is None:
        return found, None
    truth, made = (image.from_model(found[name]) for name in ("pictures", "reconstructions"))
    return found, float(psnr(truth, made).mean())


def _draw(found: dict[str, Spectrum], block: int, path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6.0, 3.8), layout="constrained")
    order = zigzag(block)
    for (name, one), style in zip(found.items(), ("k-", "C0-", "C1--"), strict=False):
        axis.plot(one.energy.ravel()[order], style, label=f"{name}, upper third {one.high:.2g}")
    axis.set(xlabel=f"frequency, zig-zag order in blocks of {block}", ylabel="share of the energy", yscale="log")
    axis.grid(alpha=0.3)
    axis.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)

"""The files of `sample`: an image grid, one file per sample and modality, samples.npz, and ADM's adm.npz."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np

from unified_jax.errors import UserError
from unified_jax.modalities.image import Image
from unified_jax.modalities.label import Label
from unified_jax.modalities.sheets import show_samples
from unified_jax.runs.folders import REQUEST, new_folder

FORMATS = ("sheet", "files", "png", "mp4", "npz", "adm")


def is_video(modality: Any) -> bool:
    """Whether its files are videos, which MP4 can hold."""
    return getattr(modality, "suffix", "") == ".gif"


def check_formats(formats: tuple[str, ...], modalities: tuple[Any, ...], wanted: tuple[str, ...]) -> None:
    """Raises UserError for MP4 of a request without a video, or without PyAV."""
    if "adm" in formats:
        adm_image(modalities, wanted)
    if "mp4" not in formats:
        return
    if not any(is_video(m) for m in modalities if not wanted or m.name in wanted):
        raise UserError("--formats mp4 is for video; nothing of this request is one.")
    if importlib.util.find_spec("av") is None:
        raise UserError("--formats mp4 needs PyAV: install the extra 'film' (pip install 'unified_jax[film]').")


def adm_image(modalities: tuple[Any, ...], wanted: tuple[str, ...]) -> Image:
    """The image of an ADM batch. Raises UserError for a request that makes none, or several."""
    images = [m for m in modalities if isinstance(m, Image) and m.name in wanted and m.channels in (1, 3)]
    if len(images) != 1:
        raise UserError(
            f"--formats adm is one image a sample (arr_0); this request makes {', '.join(wanted) or 'none'}."
        )
    return images[0]


def adm_batch(
    modalities: tuple[Any, ...], given: dict[str, np.ndarray], made: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The arrays that ADM's evaluator reads: arr_0 uint8 [n, h, w, 3]; arr_1, the class, where one label is given."""
    images = made[adm_image(modalities, tuple(made)).name]
    found = {"arr_0": images if images.shape[-1] == 3 else np.repeat(images, 3, axis=-1)}
    labels = [given[m.name] for m in modalities if isinstance(m, Label) and m.name in given]
    return found | ({"arr_1": labels[0]} if len(labels) == 1 else {})


def write_samples(
    out: Path, modalities: tuple[Any, ...], given: dict[str, np.ndarray], made: dict[str, np.ndarray],
    formats: tuple[str, ...], request: Any,
) -> None:  # fmt: skip
    """`out` with sheet.png, NAMEs/NNNNNN.*, samples.npz (as requested) and request.json, and nothing else.

    `given` holds prepared arrays, `made` raw values. "png" writes images, "mp4" videos, "files" all. In free running
    only the modalities that each sample generated are written.
    """
    with new_folder(out) as folder:
        _write(folder, modalities, given, made, formats, request)


def _write(
    out: Path, modalities: tuple[Any, ...], given: dict[str, np.ndarray], made: dict[str, np.ndarray],
    formats: tuple[str, ...], request: Any,
) -> None:  # fmt: skip
    from unified_jax.runs.directory import write_json

    by_name = {m.name: m for m in modalities}
    chosen, first = request.get("made"), request.get("first", 0)
    if "sheet" in formats:
        show_samples(modalities, given, made, limit=1 << 20, chosen=chosen).save(out / "sheet.png")
    for name, examples in made.items():
        modality: Any = by_name[name]
        plain = "files" in formats or ("png" in formats and isinstance(modality, Image))
        suffixes = ([modality.suffix] if plain else []) + ([".mp4"] if "mp4" in formats and is_video(modality) else [])
        if suffixes:
            folder = out / (name if name.endswith("s") else f"{name}s")
            folder.mkdir(exist_ok=True)
            for i, example in enumerate(examples):
                if chosen is not None and name not in chosen[i]:
                    continue
                for suffix in suffixes:
                    modality.save(folder / f"{first + i:06d}{suffix}", example)
    if "npz" in formats:
        count = len(chosen if chosen is not None else next(iter(made.values())))
        arrays = (
            made
            | {"index": np.arange(first, first + count)}
            | {f"given/{name}": value for name, value in given.items()}
        )
        np.savez(out / "samples.npz", **arrays)  # type: ignore[arg-type]
    if "adm" in formats:
        np.savez(out / "adm.npz", **adm_batch(modalities, given, made))  # type: ignore[arg-type]
    folders = sorted(path.name for path in out.iterdir() if path.is_dir())
    write_json(out / REQUEST, json.loads(json.dumps(request | {"folders": folders})))

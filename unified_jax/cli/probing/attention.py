"""`probe attention`: the maps of every block and head while sampling."""

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unified_jax.cli.probing.opened import need_denoiser, open_for_probe, reads_documents
from unified_jax.errors import UserError, meant
from unified_jax.evaluation.finite import check_samples
from unified_jax.modalities.text import Text
from unified_jax.runs.folders import new_files
from unified_jax.runs.given import read_given


@dataclass(frozen=True)
class AttentionCommand:
    """Attention maps over the steps of one sample; conditions as in `sample`: --given.NAME VALUE."""

    run: str
    """Run directory."""
    steps: int = 10
    """Sampling steps, one video frame each."""
    query: tuple[int, int] | None = None
    """For Diffusion models: a patch (row, column) whose attention is drawn over the image."""
    wanted: str | None = None
    """For Transfusion models: the sampled modality; default: the first that is not given."""
    pair: tuple[str, str] | None = None
    """For Transfusion models: only the maps with queries of the first and keys of the second modality."""
    seed: int = 0
    """Seed of the noise."""
    trust: bool = False
    """Import the custom code that the run keeps."""
    step: int | None = None
    """The checkpoint of this step, of those that are kept; default the newest."""
    stage: tuple[str, ...] = ()
    """NAME=PATH: where a stage of the model is, if it is not in the run's folder (a run or a file)."""


def attention(command: AttentionCommand, given: dict[str, str]) -> None:
    """Writes the maps."""
    experiment, params, folder, _ = open_for_probe(command.run, command.trust, command.step, command.stage)
    if reads_documents(experiment.model):
        _of_document(command, given, experiment, params, folder)
    else:
        _of_picture(command, given, experiment, params, folder)


def _of_picture(command: AttentionCommand, given: dict[str, str], experiment: Any, params: Any, folder: Path) -> None:
    import jax

    from unified_jax.evaluation.probes.attention import map_grid, query_maps, trace_attention
    from unified_jax.modalities.image import to_pillow

    model = experiment.model
    need_denoiser(model)
    if command.wanted is not None or command.pair is not None:
        raise UserError("--wanted and --pair are for models of many modalities (Transfusion), not for Diffusion.")
    if model.streams[0].latents is not None:
        raise UserError("The maps are drawn over the pixels of a model of pixels; this one denoises latents.")
    rows = read_given(given, model, 1)
    plan = experiment.preview.plan.with_steps(command.steps, None)
    _check_captures(model, params, rows)
    trace = trace_attention(model, params, rows, plan, jax.random.key(command.seed))
    shown, name = trace.weights, "attention"
    if command.query is not None:
        try:
            size = model.modality.shape[0] // model.modality.patch, model.modality.shape[1] // model.modality.patch
            shown = np.stack([query_maps(maps, size, command.query) for maps in trace.weights])
        except ValueError as error:
            raise UserError(f"--query: {error}") from error
        name = f"attention_from_{command.query[0]}_{command.query[1]}"
    check_samples({f"{model.modality.name} over the steps": trace.x0})
    pictures = model.modality.from_model(trace.x0)
    frames = []
    for maps, picture, t in zip(shown, pictures, trace.t, strict=True):
        frames.append(_beside(to_pillow(picture), map_grid(maps), [f"t = {t:.2f}"]))
    _save(frames, folder, name)


def _check_captures(model: Any, params: Any, rows: Any) -> None:
    """Raises UserError for a network without attention, or one that does not show it; computes nothing."""
    import jax
    import jax.numpy as jnp

    def call() -> Any:
        x, t = jnp.zeros((1, *model.streams[0].shape)), model.process.draw_times(jax.random.key(0)[None])
        return model.apply(params, model.process, x, t, model.conditions_of(params, rows, 1), capture=("attention",))

    try:
        jax.eval_shape(call)
    except ValueError as error:
        raise UserError(f"The network {type(model.network).__name__} shows no attention: {error}") from error


def _of_document(command: AttentionCommand, given: dict[str, str], experiment: Any, params: Any, folder: Path) -> None:
    from unified_jax.evaluation.probes import transfusion_attention as probe
    from unified_jax.evaluation.probes.attention import map_grid
    from unified_jax.evaluation.probes.figures import draw_masses
    from unified_jax.models.sampling import sample_keys
    from unified_jax.runs.directory import provenance, write_json

    model = experiment.model
    wanted = _check_request(command, given, model)
    if any(s.latents is not None for s in model.streams if s.modality.name == wanted):
        raise UserError("The maps are drawn over the pixels of a model of pixels; this one denoises latents.")
    rows = read_given(given, model, 1)
    plan = experiment.preview.plan.with_steps(command.steps, None)
    trace = probe.trace_span(model, params, rows, wanted, plan, sample_keys(command.seed, 0, 1)[0])
    check_samples({f"{wanted} over the steps": trace.x0})
    names = [m.name for m in model.modalities]
    items = ["marks" if m < 0 else names[m] for m in probe.items_of(trace.owner)]
    sizes = dict(zip(items, (int((trace.owner == m).sum()) for m in probe.items_of(trace.owner)), strict=True))
    base = name = f"attention_{wanted}"
    shown, borders, cell, tops = trace.weights, _borders(trace.owner), 120, trace.weights.max(axis=(-2, -1))
    legend = ["rows: queries", "columns: keys", "in order:", "BOS"]
    legend += [f"begin, {item} x {sizes[item]}, end" for item in items[1:]] + ["EOS"]
    if command.pair is not None:
        queries, keys = (names.index(one) for one in command.pair)
        shown = probe.between(trace.weights, trace.owner, queries, keys)
        # Dark is the largest attention of these queries in the document, so that weak attention is pale.
        tops = trace.weights[..., trace.owner == queries, :].max(axis=(-2, -1))
        name, borders, cell = f"{base}_from_{command.pair[0]}_to_{command.pair[1]}", ((), ()), 96
        legend = _legend_of_pair(command.pair, sizes, model, rows)
    modality = model.modalities[names.index(wanted)]
    frames = []
    for maps, top, example, t in zip(shown, tops, modality.from_model(trace.x0), trace.t, strict=True):
        grid = map_grid(maps, cell, borders, top)
        frames.append(_beside(modality.picture(example), grid, [f"{wanted}, t = {t:.2f}", *legend]))
    kept = _save(frames, folder, name)
    masses, even = probe.pair_masses(trace.weights, trace.owner), probe.even_masses(trace.visible, trace.owner)
    found = {"wanted": wanted, "given": given, "items": items, "tokens": [sizes[item] for item in items]}
    found |= {"t": trace.t, "mass": masses.round(5).tolist(), "even": even.round(5).tolist()}
    with new_files(folder, frames_in(folder, f"{base}_masses"), f"{base}.json") as new:
        for i in kept:
            title = f"attention from (rows) to (columns), {wanted} at t = {trace.t[i]:.2f}"
            draw_masses(masses[i], even, items, title, new / f"{base}_masses_step_{i:03d}.png")
        write_json(new / f"{base}.json", found | {"sampling_seed": command.seed} | provenance(experiment))
    print(f"{folder / base}.json and _masses_step_*.png: what goes from one modality to another")


def _legend_of_pair(pair: tuple[str, str], sizes: dict[str, int], model: Any, rows: dict[str, np.ndarray]) -> list[str]:
    """Labels of rows and columns; of a text also its tokens, separated by bars."""
    lines = []
    for side, name in zip(("rows", "columns"), pair, strict=True):
        lines.append(f"{side}: {name} x {sizes[name]}")
        modality = next(m for m in model.modalities if m.name == name)
        if isinstance(modality, Text):
            words = "|".join(modality.decode(rows[name][0, i : i + 1]) for i in range(sizes[name]))
            lines += textwrap.wrap(words, 20)
    return [*lines, "dark: the most that", "a query spends"]


def _check_request(command: AttentionCommand, given: dict[str, str], model: Any) -> str:
    """The sampled modality. Raises UserError for a request that the model or the document does not support."""
    names = [m.name for m in model.modalities]
    streams = [stream.modality.name for stream in model.streams]
    free = [name for name in streams if name not in given]
    if command.query is not None:
        raise UserError("--query is for Diffusion models; of a Transfusion model --pair picks queries and keys.")
    if not given:
        raise UserError(f"Give a condition: --given.NAME VALUE with one of {', '.join(names)}.")
    if not free:
        raise UserError(f"Nothing is left to sample: {', '.join(streams)} are all given.")
    wanted = command.wanted or free[0]
    if wanted not in names:
        raise UserError(f"--wanted {wanted}: this model has {', '.join(names)}{meant(wanted, names)}")
    if wanted not in streams:
        raise UserError(f"--wanted {wanted} is written token by token, not denoised; choose one of {', '.join(free)}.")
    if wanted in given:
        raise UserError(f"--wanted {wanted} is given; choose one of {', '.join(free)}.")
    there = [name for name in names if name in given or name == wanted]
    for name in command.pair or ():
        if name not in there:
            raise UserError(f"--pair names {name}; this document holds {', '.join(there)}.")
    return wanted


def _borders(owner: np.ndarray) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(start, stop) of an item's content."""
    places = tuple(int(i) + 1 for i in np.flatnonzero(np.diff(owner)))
    return places, places


def _save(frames: list[Any], folder: Path, name: str) -> list[int]:
    """Writes the video and three of its frames; returns their paths."""
    kept = sorted({0, len(frames) // 2, len(frames) - 1})
    with new_files(folder, frames_in(folder, name), f"{name}.gif") as new:
        for i in kept:
            frames[i].save(new / f"{name}_step_{i:03d}.png")
        frames[0].save(new / f"{name}.gif", save_all=True, append_images=frames[1:], duration=400, loop=0)
    print(f"{folder / name}.gif and the first, middle and last of its {len(frames)} frames as PNG")
    return kept


def frames_in(folder: Path, name: str) -> list[str]:
    """The video frames in `folder`, so that an older video of other steps leaves none."""
    return [path.name for path in folder.iterdir() if re.fullmatch(rf"{re.escape(name)}_step_\d{{3,}}\.png", path.name)]


def _beside(picture: Any, grid: Any, lines: list[str]) -> Any:
    """The image under the first line, over the others, left of the grid."""
    from PIL import Image as Pillow, ImageDraw

    side, line = 128, 14
    canvas = Pillow.new("RGB", (side + 12 + grid.width, max(grid.height, side + 30 + line * len(lines[1:]))), "white")
    canvas.paste(picture.convert("RGB").resize((side, side), Pillow.Resampling.NEAREST), (4, 20))
    canvas.paste(grid, (side + 12, 0))
    draw = ImageDraw.Draw(canvas)
    draw.text((6, 4), lines[0], fill="black")
    for i, text in enumerate(lines[1:]):
        draw.text((6, side + 26 + line * i), text, fill="black")
    return canvas

"""Reading and writing videos, and drawing text.

A video is a GIF, WebP, APNG or TIFF of several pages (Pillow), or what PyAV reads. Where frames have durations, one
that lasts k times as long as the shortest counts k times: writers of GIF merge equal frames. A video that still has
too few frames is sampled by time, at `rate` frames per second.
"""

import textwrap
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from unified_jax.modalities.pictures import check_pixels, fit_levels, fit_picture, known_formats
from unified_jax.modalities.reading import open_file, told

LARGEST_FILM = 1 << 25
"""Most pixels, over all frames, that are decoded of a video."""
DEMUXERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,ogg,flv,asf,gif,m4v,h264,hevc,nut"
"""Formats that PyAV opens; no playlists, which name other files."""


def load_film(
    path: Path, frames: int, height: int, width: int, channels: int, rate: float = 16.0
) -> UInt8[np.ndarray, "f h w c"]:
    """The first frames of a video, or an image if one frame is wanted.

    Raises ValueError for a shorter one, or one that cannot be read.
    """
    return _load(path, frames, rate, lambda picture: fit_picture(picture, height, width, channels))


def load_levels(path: Path, frames: int, height: int, width: int, rate: float = 16.0) -> Float[np.ndarray, "f h w"]:
    """As `load_film`, in grey, in [0, 1], at the file's full bit depth."""
    return _load(path, frames, rate, lambda picture: fit_levels(picture, height, width))


def _load(path: Path, frames: int, rate: float, fit: Callable[[Any], np.ndarray]) -> np.ndarray:
    from PIL import UnidentifiedImageError

    with open_file(path), told("a video"):
        try:
            found, durations = _stored_frames(path, frames, fit)
        except UnidentifiedImageError:
            found = _film_frames(path, frames, fit)
            durations = [0.0] * len(found)
    counts = frame_counts(durations, frames, rate)
    if sum(counts) < frames:
        raise ValueError(f"expected at least {frames} frames, found {sum(counts)}")
    return np.stack([frame for frame, count in zip(found, counts, strict=True) for _ in range(count)][:frames])


def _stored_frames(path: Path, frames: int, fit: Callable[[Any], np.ndarray]) -> tuple[list[np.ndarray], list[float]]:
    """The first frames that an image file holds, and their durations in milliseconds (0: unknown)."""
    from PIL import Image as Pillow, ImageOps

    found: list[np.ndarray] = []
    durations: list[float] = []
    with Pillow.open(path, formats=known_formats()) as file:
        while len(found) < frames:
            try:
                file.seek(len(found))
            except EOFError:  # Pillow's end marker
                break
            check_pixels(file, LARGEST_FILM // frames)
            file.load()
            found.append(fit(ImageOps.exif_transpose(file)))
            durations.append(float(file.info.get("duration") or 0))
    return found, durations


def frame_counts(durations: list[float], frames: int, rate: float) -> list[int]:
    """Repetitions of each stored frame (see the module docstring); `durations` in milliseconds."""
    if not all(0 <= d < 1e9 for d in durations):
        raise ValueError("expected finite frame durations, found others")
    shortest = min((d for d in durations if d > 0), default=0.0)
    counts = [min(frames, max(1, round(d / shortest))) if shortest else 1 for d in durations]
    ends = np.rint(np.cumsum(durations) * min(rate, 1e6) / 1000).astype(np.int64)
    if sum(counts) < frames <= (ends[-1] if len(ends) else 0):
        counts = [min(frames, int(n)) for n in np.diff(ends, prepend=0)]
    return counts


def _film_frames(path: Path, frames: int, fit: Callable[[Any], np.ndarray]) -> list[np.ndarray]:
    try:
        import av
    except ImportError:
        raise ValueError(
            "it is not a GIF; other videos need PyAV: install the extra 'film' (pip install 'unified_jax[film]')"
        ) from None
    found: list[np.ndarray] = []
    with open_file(path) as file, av.open(file, "r", options={"format_whitelist": DEMUXERS}) as container:
        if not container.streams.video:
            raise ValueError("it cannot be read as a video (it has no frames)")
        for frame in container.decode(video=0):
            if frame.width * frame.height > LARGEST_FILM // frames:
                raise ValueError(f"it claims frames of {frame.width} x {frame.height} pixels, too many to read")
            found.append(fit(frame.to_image()))
            if len(found) == frames:
                break
    return found


def save_film(path: Path, frames: list[Any], rate: float) -> None:
    """Pillow images as a GIF that loops, `rate` frames per second; equal neighbours are not merged."""
    from PIL import GifImagePlugin, Image as Pillow

    timing = {"duration": 10 * max(1, round(100 / rate)), "disposal": 2}  # GIF counts hundredths of a second
    stored = [frame.convert("P", palette=Pillow.Palette.ADAPTIVE) for frame in frames]
    with path.open("wb") as file:
        for part in GifImagePlugin.getheader(stored[0], None, {"loop": 0, **timing})[0]:
            file.write(part)
        for i, frame in enumerate(stored):
            for part in GifImagePlugin.getdata(frame, (0, 0), include_color_table=i > 0, **timing):
                file.write(part)
        file.write(b";")


def draw_words(text: str) -> Any:
    """A text, wrapped, in black on white, as a Pillow image."""
    from PIL import Image as Pillow, ImageDraw

    canvas = Pillow.new("RGB", (96, 96), "white")
    draw = ImageDraw.Draw(canvas)
    for i, line in enumerate(textwrap.wrap(text, 15)[:7]):
        draw.text((2, 2 + 13 * i), line, fill="black")
    return canvas


def save_mp4(path: Path, frames: np.ndarray, rate: float) -> None:
    """Frames uint8 `[f, h, w, 1 or 3]` as H.264 in MP4, which slides and browsers play; odd sizes grow by a pixel.

    Raises ValueError where PyAV is not installed.
    """
    try:
        import av
    except ImportError:
        raise ValueError("MP4 needs PyAV: install the extra 'film' (pip install 'unified_jax[film]')") from None
    odd = [(0, size % 2) for size in frames.shape[1:3]]
    whole = np.pad(frames, ((0, 0), *odd, (0, 0)), mode="edge")
    whole = np.repeat(whole, 3, axis=-1) if whole.shape[-1] == 1 else whole
    with av.open(str(path), "w", format="mp4") as container:
        stream: Any = container.add_stream("libx264", rate=Fraction(rate).limit_denominator(1000))
        stream.height, stream.width, stream.pix_fmt = *whole.shape[1:3], "yuv420p"
        stream.options = {"crf": "10"}
        for frame in whole:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())

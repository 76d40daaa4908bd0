"""Frames of a video file at a rate, from its beginning or from anywhere.

The time of a frame is that which its file gives. Where it gives none (the pages of a TIFF), the frames follow each
other at the wanted rate. The frame at time t is the nearest one: the last that begins by t + d / 2, d the shortest
interval. GIF counts hundredths of a second, so an interval that rounds to the wanted one counts as equal to it.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from unified_jax.modalities.files import DEMUXERS
from unified_jax.modalities.fitting import Draw, Start, cut_start
from unified_jax.modalities.pictures import LARGEST, check_pixels, known_formats, upright
from unified_jax.modalities.reading import File, told

LARGEST_READ = 1 << 27
"""Most pixels, over all frames, of a video that is read at its own size."""
LONGEST = 1 << 16
"""Most frames of an animation."""


def read_frames(
    file: File, count: int, rate: float, decode: Callable[[Any], np.ndarray], start: Start, drawn: Draw | None,
    largest: int = LARGEST,
) -> np.ndarray:  # fmt: skip
    """At most `count` frames `[f, ...]`, `rate` a second, each a Pillow image that `decode` turns into an array.

    They begin as `start` says (`cut_start`), and have at most `largest` pixels as they are stored. Raises ValueError
    for a file that cannot be read or has no frames, and for frames of several sizes.
    """
    from PIL import Image as Pillow, UnidentifiedImageError

    with file.opened() as content, told("a video" if count > 1 else "an image"):
        try:
            with Pillow.open(content, formats=known_formats()) as film:
                times, step = _stored_times(film, rate)
                total = available(times[-1], step, rate)
                first = cut_start(total, count, start, drawn)
                which = chosen(times[:-1], step, np.arange(first, min(first + count, total)) / rate)
                shown = [decode(picture) for picture in _stored(film, which, largest)]
        except UnidentifiedImageError:
            content.seek(0)
            shown = [decode(picture) for picture in _decoded(content, count, rate, start, drawn, largest)]
    if not shown:
        raise ValueError("it cannot be read as a video (it has no frames)")
    if len(sizes := sorted({frame.shape for frame in shown})) > 1:
        raise ValueError(f"expected frames of one size, found {' and '.join(str(list(size)) for size in sizes[:2])}")
    return np.stack(shown)


def available(end: float, step: float, rate: float) -> int:
    """Frames at `rate` of a video that ends at `end` seconds, its own frames `step` apart."""
    return int(np.floor((end - step / 2) * rate + 1e-6)) + 1


def chosen(times: list[float], step: float, wanted: np.ndarray) -> list[int]:
    """Which of the frames that begin at `times` is shown at each wanted time."""
    return (np.searchsorted(times, wanted + step / 2 + 1e-6, side="right") - 1).clip(0).tolist()


def _stored_times(film: Any, rate: float) -> tuple[list[float], float]:
    """When each frame of an animation begins and when the last one ends, in seconds, and the interval d."""
    durations: list[float] = []
    while len(durations) < LONGEST:
        try:
            film.seek(len(durations))
        except EOFError:  # Pillow's end marker
            break
        check_pixels(film)
        if film.format == "WEBP":
            film.load()  # sets the duration
        durations.append(float(film.info.get("duration") or 0) / 1000)
    if not all(0 <= d < 1e6 for d in durations):
        raise ValueError("expected finite frame durations, found others")
    if film.format == "GIF":
        hundredths = max(1, round(100 / rate))
        durations = [1 / rate if round(100 * d) == hundredths else d for d in durations]
    step = min((d for d in durations if d > 0), default=1 / rate)
    return np.cumsum([0.0, *(d or step for d in durations)]).tolist(), min(step, 1 / rate)


def _stored(film: Any, which: list[int], largest: int) -> Iterator[Any]:
    """These frames of an animation, upright; the numbers do not fall."""
    for index in which:
        film.seek(index)
        check_pixels(film, largest)
        film.load()
        yield upright(film)


def _decoded(content: Any, count: int, rate: float, start: Start, drawn: Draw | None, largest: int) -> Iterator[Any]:
    """Frames of a video that PyAV reads, as Pillow images."""
    try:
        import av
        import av.error
    except ImportError:
        raise ValueError(
            "it is not a GIF; other videos need PyAV: install the extra 'film' (pip install 'unified_jax[film]')"
        ) from None
    try:
        with av.open(content, "r", options={"format_whitelist": DEMUXERS}) as container:
            yield from _of_container(container, count, rate, start, drawn, largest)
    except av.error.FFmpegError as error:  # many of them are ValueErrors
        raise ValueError(f"it cannot be read as a video ({error.strerror})") from None


def _of_container(
    container: Any, count: int, rate: float, start: Start, drawn: Draw | None, largest: int
) -> Iterator[Any]:
    if not container.streams.video:
        raise ValueError("it cannot be read as a video (it has no frames)")
    stream: Any = container.streams.video[0]
    interval = 1 / float(stream.average_rate or stream.guessed_rate or rate)
    step = min(interval, 1 / rate)
    length = _length(container, stream)
    first = 0 if length is None else cut_start(available(length, step, rate), count, start, drawn)
    origin = float((stream.start_time or 0) * stream.time_base)
    if first:
        container.seek(int((origin + first / rate) / stream.time_base), stream=stream)
    wanted = [k / rate for k in range(first, first + count)]
    for frame in _at(_timed(container.decode(stream), origin, interval), wanted, step, interval):
        if frame.width * frame.height > largest:
            raise ValueError(f"it claims frames of {frame.width} x {frame.height} pixels, too many to read")
        yield turned(frame)


def _length(container: Any, stream: Any) -> float | None:
    if stream.duration:
        return float(stream.duration * stream.time_base)
    return container.duration / 1e6 if container.duration else None


def _timed(frames: Any, origin: float, interval: float) -> Iterator[tuple[float, Any]]:
    for index, frame in enumerate(frames):
        yield (index * interval if frame.time is None else frame.time - origin), frame


def _at(frames: Iterator[tuple[float, Any]], wanted: list[float], step: float, interval: float) -> Iterator[Any]:
    """The nearest frame at each wanted time, in one pass; the last one lasts an interval."""
    before: tuple[float, Any] | None = None
    queue = list(wanted)
    for time, frame in frames:
        while queue and time > queue[0] + step / 2 + 1e-6:
            queue.pop(0)
            yield frame if before is None else before[1]
        before = (time, frame)
        if not queue:
            return
    while before is not None and queue and queue[0] <= before[0] + interval - step / 2 + 1e-6:
        queue.pop(0)
        yield before[1]


def turned(frame: Any) -> Any:
    """A frame as a Pillow image, turned as the file says (films of a phone held upright)."""
    from PIL import Image as Pillow

    turns = {90: Pillow.Transpose.ROTATE_90, 180: Pillow.Transpose.ROTATE_180, 270: Pillow.Transpose.ROTATE_270}
    turn = turns.get(getattr(frame, "rotation", 0) % 360)
    picture = frame.to_image()
    return picture if turn is None else picture.transpose(turn)

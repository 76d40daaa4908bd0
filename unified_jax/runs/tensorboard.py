"""Append-only files that survive a full disk with a delay only; and TensorBoard events as such a file.

TensorBoard's own writers keep a thread that dies at the first full disk and then blocks logging; so events are
written here directly, in the same bytes (one TFRecord each).
"""

import os
import re
import socket
import struct
import time
from pathlib import Path


class Appender:
    """Appends records to a file. A failed write is kept and tried again with the next record."""

    def __init__(self, path: Path) -> None:
        """Opens the file. Raises OSError."""
        self.path = path
        self.waiting: list[bytes] = []
        self.descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self.size = os.fstat(self.descriptor).st_size

    def append(self, piece: bytes) -> OSError | None:
        """Writes this record and pending ones; returns the error if the disk refused (none is truncated or lost)."""
        self.waiting.append(piece)
        data = memoryview(b"".join(self.waiting))
        written = 0
        try:
            while written < len(data):
                written += os.write(self.descriptor, data[written:])
        except OSError as error:
            if written:
                os.ftruncate(self.descriptor, self.size)
            return error
        self.size += written
        self.waiting.clear()
        return None

    def close(self) -> None:
        """Closes the file; pending records are lost."""
        os.close(self.descriptor)


class Board:
    """Scalars as TensorBoard events in a new file of `folder`; steps from `purge_step` on in older files are hidden.

    Files are numbered, not dated, so that their order does not depend on the clock.
    """

    def __init__(self, folder: Path, purge_step: int) -> None:
        """Raises OSError if the file cannot be created."""
        from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]

        folder.mkdir(parents=True, exist_ok=True)
        numbers = [int(n) for p in folder.iterdir() for n in re.findall(r"^events\.out\.tfevents\.(\d+)\.", p.name)]
        name = f"events.out.tfevents.{max(numbers, default=0) + 1:010d}.{socket.gethostname()}"
        self.file = Appender(folder / name)
        self._event(Event(wall_time=time.time(), file_version="brain.Event:2"))
        start = SessionLog(status=SessionLog.START)
        self._event(Event(wall_time=time.time(), step=purge_step, session_log=start))

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """One event with these scalars."""
        from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
        from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]

        values = [Summary.Value(tag=name, simple_value=value) for name, value in scalars.items()]
        self._event(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))

    def image(self, step: int, tag: str, path: Path) -> None:
        """A PNG file as an image."""
        from PIL import Image as Pillow
        from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
        from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]

        with Pillow.open(path) as picture:
            width, height = picture.size
        image = Summary.Image(width=width, height=height, colorspace=3, encoded_image_string=path.read_bytes())
        value = Summary.Value(tag=tag, image=image)
        self._event(Event(wall_time=time.time(), step=step, summary=Summary(value=[value])))

    def describe(self, config: str, fields: dict[str, bool | int | float | str], metrics: list[str]) -> None:
        """The configuration as text, and its fields as hyperparameters that runs are compared by."""
        from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
        from tensorboardX.summary import hparams, text

        lines = "".join(f"    {line}\n" for line in config.splitlines())
        for summary in (text("config", lines), *hparams(fields, dict.fromkeys(metrics, 0.0))):
            self._event(Event(wall_time=time.time(), step=0, summary=summary))

    def _event(self, event: object) -> None:
        from tensorboardX.record_writer import masked_crc32c

        data: bytes = event.SerializeToString()  # pyright: ignore[reportAttributeAccessIssue]
        header = struct.pack("<Q", len(data))
        crcs = [struct.pack("<I", masked_crc32c(part)) for part in (header, data)]
        self.file.append(header + crcs[0] + data + crcs[1])

    def close(self) -> None:
        """Closes the file."""
        self.file.close()

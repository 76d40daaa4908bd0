"""uj_spoken_digit: the Free Spoken Digit Dataset, ten digits by six speakers, as 16-bit samples at 8 kHz.

The split is the authors': the first five of the fifty recordings of each digit and speaker are the test set.
"""

import re
import tarfile
import wave
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from unified_jax.data.public.base import Original, PublicSet, Records, unreadable

RATE, TEST = 8000, 5
"""Samples a second, and recordings of each digit and speaker in the test set."""
RECORDING = re.compile(r".*/recordings/((\d)_([a-z]+)_(\d+))\.wav")
"""Digit, speaker and number."""
ARCHIVE = "free-spoken-digit-dataset-1.0.10.tar.gz"


def features() -> dict[str, Any]:
    """The sound, its digit and its speaker. TFDS needs TensorFlow to read its own feature of sounds."""
    import tensorflow_datasets as tfds

    return {
        "audio": tfds.features.Tensor(shape=(None,), dtype=np.int16),
        "label": tfds.features.ClassLabel(num_classes=10),
        "speaker": tfds.features.Text(),
    }


def splits(originals: Mapping[str, Path]) -> dict[str, Callable[[], Records]]:
    """Train and test by the number of the recording."""
    path = originals[ARCHIVE]

    def records(test: bool) -> Records:
        found = 0
        try:
            with tarfile.open(path) as archive:
                for member in archive:
                    named = RECORDING.fullmatch(member.name)
                    if named is None or (file := archive.extractfile(member)) is None:
                        continue
                    found += 1
                    key, digit, speaker, number = named.groups()
                    if (int(number) < TEST) == test:
                        yield key, {"audio": _samples(file, path, key), "label": int(digit), "speaker": speaker}
        except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
            raise unreadable(path, error) from None
        if not found:
            raise unreadable(path, "it holds no recordings/DIGIT_SPEAKER_NUMBER.wav")

    return {"train": lambda: records(False), "test": lambda: records(True)}


def _samples(file: Any, path: Path, key: str) -> np.ndarray:
    try:
        with wave.open(file) as sound:
            form = (sound.getnchannels(), sound.getsampwidth(), sound.getframerate())
            content = sound.readframes(sound.getnframes())
    except (wave.Error, EOFError) as error:
        raise unreadable(path, f"{key}.wav is broken ({error})") from None
    if form != (1, 2, RATE):
        raise unreadable(path, f"{key}.wav has {form[0]} channel(s) of {8 * form[1]} bits at {form[2]} Hz")
    return np.frombuffer(content, "<i2").astype(np.int16)


SPOKEN_DIGIT = PublicSet(
    name="uj_spoken_digit",
    short="spoken_digit",
    version="1.0.0",
    summary="spoken digits, 8 kHz, 10 classes, 6 speakers",
    records="2,700 train, 300 test",
    licence="CC BY-SA 4.0",
    licence_address="https://creativecommons.org/licenses/by-sa/4.0/",
    home="https://github.com/Jakobovski/free-spoken-digit-dataset",
    originals=(
        Original(
            ARCHIVE,
            "https://github.com/Jakobovski/free-spoken-digit-dataset/archive/v1.0.10.tar.gz",
            "feb479fad3a37883c3d21ed7f982281c2dd1c18d5aefd7e8a5d50f58023392aa",
            15_602_882,
        ),
    ),
    features=features,
    splits=splits,
)

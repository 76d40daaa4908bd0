"""Broken pictures, films, sounds, clouds, tables and texts end in a sentence, soon. See cases.py for running more."""

import io
import time
import warnings

import numpy as np
import pytest
import soundfile
import trimesh
from hypothesis import given, strategies as st
from PIL import Image as Pillow

from tests.fuzz.cases import cases, damaged
from unified_jax.modalities.action import Action
from unified_jax.modalities.audio import Audio
from unified_jax.modalities.depth import Depth
from unified_jax.modalities.image import Image
from unified_jax.modalities.mel import Mel
from unified_jax.modalities.points import Points
from unified_jax.modalities.text import Text
from unified_jax.modalities.video import Video

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (4, 12, 12, 3), np.uint8)
FRAMES = [Pillow.fromarray(frame) for frame in NOISE]
PICTURE, FILM, DEPTH, POINTS = Image(12, 12), Video(3, 12, 12), Depth(1, 12, 12), Points(32, 6, 8)
SOUND = Audio(600, Mel(rate=8000, n_fft=256, hop=64, mels=16), (2, 4))
SLOWEST = 5.0
"""Seconds of a file; they take milliseconds, on a busy machine more."""


def written(write, *arguments, **options):
    buffer = io.BytesIO()
    write(buffer, *arguments, **options)
    return buffer.getvalue()


def meshes():
    ball = trimesh.creation.icosphere(1)
    uv = RNG.random((len(ball.vertices), 2))
    material = trimesh.visual.material.PBRMaterial(baseColorTexture=FRAMES[0])
    yield (
        "glb",
        POINTS,
        trimesh.Trimesh(
            ball.vertices, ball.faces, visual=trimesh.visual.TextureVisuals(uv=uv, material=material)
        ).export(file_type="glb"),
    )
    cloud = trimesh.PointCloud(RNG.random((40, 3)), RNG.integers(0, 256, (40, 4), np.uint8))
    for kind in ("glb", "ply"):
        yield kind, POINTS, cloud.export(file_type=kind)
    for kind in ("ply", "stl", "off", "obj"):
        content = ball.export(file_type=kind)
        yield kind, POINTS, content if isinstance(content, bytes) else content.encode()
    yield "ply", POINTS, ball.export(file_type="ply", encoding="ascii")


def kinds():
    first, rest = FRAMES[0], {"save_all": True, "append_images": FRAMES[1:]}
    deep = Pillow.fromarray(RNG.integers(0, 65536, (12, 12)).astype(np.uint16))
    for kind in ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "GIF"):
        yield kind.lower(), PICTURE, written(first.save, kind)
    yield "png", DEPTH, written(deep.save, "PNG")
    yield "tif", DEPTH, written(Pillow.fromarray(RNG.random((12, 12)).astype(np.float32)).save, "TIFF")
    for kind in ("GIF", "WEBP", "TIFF", "PNG"):
        yield kind.lower(), FILM, written(first.save, kind, **rest, duration=60)
    wave = (0.3 * np.sin(np.arange(600) / 5)).astype(np.float32)
    for kind in ("WAV", "FLAC", "OGG"):
        yield kind.lower(), SOUND, written(soundfile.write, wave, 8000, format=kind)
    yield from meshes()
    yield "xyz", POINTS, "".join(f"{x:.3f} {y:.3f} {z:.3f} 255 0 0\n" for x, y, z in RNG.random((40, 3))).encode()
    yield "csv", Action(), written(np.savetxt, RNG.random((16, 2)), delimiter=",", fmt="%.5f")
    yield "txt", Text(), "ein grüner Ring 漢".encode("utf-16")


KINDS = tuple(kinds())
NAMES = [f"{i} {kind} {modality.name}" for i, (kind, modality, _) in enumerate(KINDS)]


def sentence(call):
    """What a modality says of a file, or nothing; any other exception fails the test."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            call()
        except ValueError as error:
            return str(error)
    return None


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("media")


@pytest.mark.parametrize("kind", KINDS, ids=NAMES)
def test_what_is_broken_below_is_whole(scratch, kind):
    suffix, modality, content = kind
    path = scratch / f"whole.{suffix}"
    path.write_bytes(content)
    assert modality.prepare(modality.load(path)).size


@pytest.mark.parametrize("kind", KINDS, ids=NAMES)
def test_broken_files_end_in_a_sentence(scratch, kind):
    suffix, modality, whole = kind
    path = scratch / f"broken.{suffix}"

    @cases(15)
    @given(content=damaged(whole), claim=st.one_of(st.none(), st.integers(0, len(whole))))
    def check(content, claim):
        if claim is not None:  # a size of two milliards, somewhere
            content = content[:claim] + b"\xff\xff\xff\x7f" + content[claim + 4 :]
        path.write_bytes(content)
        start = time.monotonic()
        said = sentence(lambda: modality.prepare(modality.load(path)))
        assert said is None or (0 < len(said) < 500 and "\n" not in said and "object at 0x" not in said)
        assert time.monotonic() - start < SLOWEST

    check()

"""Pictures and meshes as others write them, texts of other systems, and files that claim more than they hold."""

import io
import json
import struct
import zlib

import numpy as np
import pytest
import trimesh
from PIL import Image as Pillow, ImageCms

from unified_jax.modalities.action import Action
from unified_jax.modalities.audio import Audio
from unified_jax.modalities.depth import Depth
from unified_jax.modalities.image import Image
from unified_jax.modalities.label import Label
from unified_jax.modalities.meshes import read_cloud
from unified_jax.modalities.points import Points
from unified_jax.modalities.reading import File
from unified_jax.modalities.sounds import Sound, length_of, read_sound
from unified_jax.modalities.text import Text
from unified_jax.modalities.video import Video

RED = (200, 50, 25)
STORED = {
    2: Pillow.Transpose.FLIP_LEFT_RIGHT,
    3: Pillow.Transpose.ROTATE_180,
    4: Pillow.Transpose.FLIP_TOP_BOTTOM,
    5: Pillow.Transpose.TRANSPOSE,
    6: Pillow.Transpose.ROTATE_90,
    7: Pillow.Transpose.TRANSVERSE,
    8: Pillow.Transpose.ROTATE_270,
}
"""EXIF orientation -> how an upright picture lies in such a file."""


@pytest.mark.parametrize("orientation", [1, *STORED])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_pictures_are_turned_before_their_proportions_are_compared(tmp_path, orientation, suffix):
    upright = np.random.default_rng(0).integers(0, 256, (12, 8, 3), np.uint8)
    picture = Pillow.fromarray(upright)
    picture = picture.transpose(STORED[orientation]) if orientation > 1 else picture
    exif = Pillow.Exif()
    exif[0x112] = orientation
    picture.save(tmp_path / f"a{suffix}", exif=exif, **({"lossless": True} if suffix == ".webp" else {}))
    np.testing.assert_array_equal(Image(12, 8).load(tmp_path / f"a{suffix}"), upright)
    np.testing.assert_array_equal(Video(1, 12, 8).load(tmp_path / f"a{suffix}")[0], upright)


def palette(colour, **info):
    picture = Pillow.new("P", (8, 8), 1)
    picture.putpalette([0, 0, 0, *colour] + [0] * 762)
    picture.info |= info
    return picture


def lab():
    rgb = Pillow.new("RGB", (8, 8), RED)
    return ImageCms.profileToProfile(
        rgb, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )


def grey16(value):
    return Pillow.fromarray(np.full((8, 8), value, np.uint16))


GREY = (90, 90, 90)
MODES = {
    "1.png": (Pillow.new("1", (8, 8), 1), (255,) * 3),
    "L.jpg": (Pillow.new("L", (8, 8), 90), GREY),
    "LA.png": (Pillow.new("LA", (8, 8), (90, 255)), GREY),
    "LA half.png": (Pillow.new("LA", (8, 8), (0, 128)), (127,) * 3),
    "P.png": (palette(RED), RED),
    "P clear.png": (palette(RED, transparency=1), (255,) * 3),
    "PA.tif": (palette(RED).convert("PA"), RED),
    "RGB.bmp": (Pillow.new("RGB", (8, 8), RED), RED),
    "RGB.gif": (Pillow.new("RGB", (8, 8), RED), RED),
    "RGB.tif": (Pillow.new("RGB", (8, 8), RED), RED),
    "RGBA.webp": (Pillow.new("RGBA", (8, 8), (*RED, 0)), (255,) * 3),
    "RGBA.png": (Pillow.new("RGBA", (8, 8), (*RED, 255)), RED),
    "CMYK.jpg": (Pillow.new("CMYK", (8, 8), (0, 255, 255, 0)), (255, 0, 0)),
    "CMYK.tif": (Pillow.new("CMYK", (8, 8), (0, 255, 255, 0)), (255, 0, 0)),
    "YCbCr.jpg": (Pillow.new("RGB", (8, 8), RED).convert("YCbCr"), RED),
    "YCbCr.tif": (Pillow.new("RGB", (8, 8), RED).convert("YCbCr"), RED),
    "LAB.tif": (lab(), RED),
    "I;16.png": (grey16(90 * 257), GREY),
    "I;16.tif": (grey16(90 * 257), GREY),
    "I;16B.tif": (Pillow.frombytes("I;16B", (8, 8), np.full((8, 8), 90 * 257, ">u2").tobytes()), GREY),
    "I.tif": (Pillow.fromarray(np.full((8, 8), 90 * 257, np.int32)), GREY),
    "I;16.pgm": (grey16(90 * 257), GREY),
    "F unit.tif": (Pillow.fromarray(np.full((8, 8), 90 / 255, np.float32)), GREY),
    "F bytes.tif": (Pillow.fromarray(np.full((8, 8), 90, np.float32)), GREY),
}


@pytest.mark.parametrize("name", MODES)
def test_pictures_of_every_mode_and_depth(tmp_path, name):
    picture, colour = MODES[name]
    picture.save(tmp_path / name, **({"quality": 98} if name.endswith("jpg") else {}))
    for channels in (1, 3):
        wanted = np.asarray(colour if channels == 3 else [np.dot(colour, (0.299, 0.587, 0.114))])
        got = Image(16, 16, channels).load(tmp_path / name)  # twice the size: scaled too
        assert got.shape == (16, 16, channels)
        assert np.abs(got.astype(float) - wanted).max() <= 3, (got[8, 8], wanted)


def test_deep_grey_keeps_its_levels_and_odd_levels_are_refused(tmp_path):
    ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    Pillow.fromarray(ramp).save(tmp_path / "a.png")
    assert np.abs(Depth(1, 8, 8).load(tmp_path / "a.png")[0, ..., 0] - ramp / 65535).max() < 1e-6
    assert np.abs(Image(8, 8, 1).load(tmp_path / "a.png")[..., 0] - ramp / 257).max() <= 0.51
    Pillow.fromarray((ramp / 65535).astype(np.float32)).save(tmp_path / "a.tif")
    assert np.abs(Depth(1, 8, 8).load(tmp_path / "a.tif")[0, ..., 0] - ramp / 65535).max() < 1e-6
    for value, words in ((300.0, "in .0, 1. or .0, 255."), (-1.0, "found -1"), (np.nan, "finite")):
        Pillow.fromarray(np.full((8, 8), value, np.float32)).save(tmp_path / "odd.tif")
        with pytest.raises(ValueError, match=words):
            Image(8, 8).load(tmp_path / "odd.tif")
    assert Image(8, 8, 1).prepare(ramp)[..., 0].tolist() == np.rint(ramp / 257).tolist()


def square(**visual):
    mesh = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], [[0, 1, 2], [0, 2, 3]], process=False)
    if "material" in visual:
        mesh.visual = trimesh.visual.TextureVisuals(**visual)
    elif visual:
        mesh.visual = trimesh.visual.ColorVisuals(mesh, **visual)
    return mesh


UV = [[0, 0], [1, 0], [1, 1], [0, 1]]
PICTURE = Pillow.new("RGB", (8, 8), RED)
PBR, MTL = trimesh.visual.material.PBRMaterial, trimesh.visual.material.SimpleMaterial
MESHES = {
    "texture.glb": lambda: square(uv=UV, material=PBR(baseColorTexture=PICTURE)),
    "texture.obj": lambda: square(uv=UV, material=MTL(image=PICTURE)),
    "factor.glb": lambda: square(material=PBR(baseColorFactor=[*RED, 255])),
    "material.obj": lambda: square(uv=UV, material=MTL(diffuse=[*RED, 255])),
    "faces.ply": lambda: square(face_colors=[[*RED, 255]] * 2),
    "vertices.ply": lambda: square(vertex_colors=[[*RED, 255]] * 4),
    "vertices.glb": lambda: square(vertex_colors=[[*RED, 255]] * 4),
    "vertices.obj": lambda: square(vertex_colors=[[*RED, 255]] * 4),
    "cloud.ply": lambda: trimesh.PointCloud(np.random.default_rng(0).random((64, 3)), [[*RED, 255]] * 64),
    "cloud.glb": lambda: trimesh.PointCloud(np.random.default_rng(0).random((64, 3)), [[*RED, 255]] * 64),
}


@pytest.mark.parametrize("name", MESHES)
def test_colours_of_meshes_however_they_are_given(tmp_path, name):
    MESHES[name]().export(tmp_path / name)
    np.testing.assert_allclose(read_cloud(tmp_path / name, 64, True)[:, 3:] * 255, [RED] * 64, atol=1)


def test_a_texture_lies_where_its_coordinates_say(tmp_path):
    picture = Pillow.new("RGB", (8, 8), (255, 0, 0))
    picture.paste((0, 0, 255), (0, 0, 8, 4))
    left = square(uv=UV, material=PBR(baseColorTexture=picture))
    right = square(material=PBR(baseColorFactor=[0, 255, 0, 255]))
    right.apply_translation([2, 0, 0])
    trimesh.Scene([left, right]).export(tmp_path / "a.glb")
    cloud = read_cloud(tmp_path / "a.glb", 400, True)
    place, colour = cloud[:, :3] * 3, cloud[:, 3:]
    up = place[:, 1] - place[:, 1].min() > 0.5
    there = place[:, 0] > 1.5
    for where, wanted in ((~there & up, (0, 0, 1)), (~there & ~up, (1, 0, 0)), (there, (0, 1, 0))):
        assert where.sum() > 50
        np.testing.assert_allclose(colour[where], [wanted] * where.sum(), atol=0.01)


PROPERTIES = [
    (f"property {kind} {name}", row)
    for kind, row in (("uchar", "255 51 0"), ("float", "1 0.2 0"), ("ushort", "65535 13107 0"))
    for name in ("red green blue", "diffuse_red diffuse_green diffuse_blue", "r g b")
]


@pytest.mark.parametrize(("told", "row"), PROPERTIES)
@pytest.mark.parametrize("faces", [0, 1])
def test_colours_of_ply_by_every_name(tmp_path, told, row, faces):
    _, kind, *names = told.split()
    lines = ["ply", "format ascii 1.0", "element vertex 32", *(f"property float {axis}" for axis in "xyz")]
    lines += [f"property {kind} {name}" for name in names]
    lines += [f"element face {faces}", "property list uchar int vertex_indices"] if faces else []
    lines += ["end_header", *(f"{i % 2} {i // 2 % 2} 0 {row}" for i in range(32)), *(["3 0 1 2"] * faces)]
    (tmp_path / "a.ply").write_text("\n".join(lines) + "\n")
    np.testing.assert_allclose(read_cloud(tmp_path / "a.ply", 32, True)[:, 3:], [(1, 0.2, 0)] * 32, atol=1e-4)


@pytest.mark.parametrize("row", ["1 0.2 0", "255 51 0", "255 51 0 255"])
def test_clouds_as_xyz_and_obj(tmp_path, row):
    (tmp_path / "a.xyz").write_bytes("".join(f"{i / 32} 0 0.5 {row}\r\n" for i in range(32)).encode("utf-8-sig"))
    np.testing.assert_allclose(read_cloud(tmp_path / "a.xyz", 32, True)[:, 3:], [(1, 0.2, 0)] * 32, atol=1e-6)
    (tmp_path / "a.obj").write_text("".join(f"v {i / 32} 0 0.5 1 0.2 0\n" for i in range(32)))
    np.testing.assert_allclose(read_cloud(tmp_path / "a.obj", 32, True)[:, 3:], [(1, 0.2, 0)] * 32, atol=3e-3)


def test_formats_and_missing_colours_are_said(tmp_path):
    (tmp_path / "a.las").write_bytes(b"LASF")
    with pytest.raises(ValueError, match=r"ends in \.ply, .*\.xyz, found '\.las'"):
        Points().load(tmp_path / "a.las")
    (tmp_path / "a.obj").write_text("mtllib gone.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    with pytest.raises(ValueError, match=r"are in 'gone\.mtl', which is missing"):
        Points(8, 6, 4).load(tmp_path / "a.obj")
    assert Points(8, 3, 4).load(tmp_path / "a.obj").shape == (8, 3)
    (tmp_path / "gone.mtl").write_text("newmtl a\nmap_Kd -s 1 1 1 no such.png\n")
    with pytest.raises(ValueError, match=r"no such\.png', which is missing"):
        Points(8, 6, 4).load(tmp_path / "a.obj")


TEXT = "ein roter Ring, ø 漢\nzweite Zeile"


@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_texts_of_other_systems(tmp_path, codec, end):
    (tmp_path / "a.txt").write_bytes((TEXT + "\n").replace("\n", end).encode(codec))
    assert Text().load(tmp_path / "a.txt") == TEXT
    table = "".join(f"{i / 16},0.25{end}" for i in range(16))
    (tmp_path / "a.csv").write_bytes(table.encode(codec))
    np.testing.assert_array_equal(Action().load(tmp_path / "a.csv")[:, 0], np.arange(16) / 16)


def test_texts_that_are_none_name_themselves_and_the_place(tmp_path):
    for content, words in (
        ("ein größer".encode("latin-1"), "'a.txt' is not UTF-8: byte 0xf6 at offset 6"),
        (b"\xff\xfea\x00\x00\xd8", "'a.txt' is not UTF-16-LE: byte 0x00 at offset 4"),
        ("abc".encode("utf-16-le"), "a NUL at character 1.*save it as UTF-8"),
    ):
        (tmp_path / "a.txt").write_bytes(content)
        for modality in (Text(), Action()):
            with pytest.raises(ValueError, match=words):
                modality.load(tmp_path / "a.txt")


@pytest.mark.parametrize(
    "modality", [Image(), Video(), Depth(), Audio(), Points(), Action(), Text(), Label()], ids=lambda m: m.name
)
def test_paths_that_are_no_files_are_said(tmp_path, modality):
    (tmp_path / "folder.ply").mkdir()
    for path, words in (
        (tmp_path / "folder.ply", "it is a folder, expected a file"),
        (tmp_path / "gone.ply", "no such file"),
        (tmp_path / ("x" * 300 + ".ply"), "cannot be opened"),
        (tmp_path / "nul\0.ply", "cannot be opened"),
    ):
        with pytest.raises(ValueError, match=words):
            modality.load(path)


def glb(header, data=bytes(36)):
    text = json.dumps({"asset": {"version": "2.0"}, "buffers": [{"byteLength": len(data)}], **header}).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(data), b"BIN\0") + data
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


POSITION = {"bufferView": 0, "componentType": 5126, "count": 3, "type": "VEC3"}
TRIANGLE = {
    "bufferViews": [{"buffer": 0, "byteLength": 36}],
    "accessors": [POSITION],
    "meshes": [{"primitives": [{"attributes": {"POSITION": 0}}]}],
}
CHAIN = [{"mesh": 0, "children": [i + 1]} for i in range(3000)] + [{"mesh": 0}]
TREE = [{"children": [i + 1, i + 1]} for i in range(60)] + [{"mesh": 0}]


def claimed(kind):
    buffer = io.BytesIO()
    Pillow.new("L", (8, 8)).save(buffer, kind)
    content = bytearray(buffer.getvalue())
    if kind == "PNG":
        content[16:24] = (60000).to_bytes(4, "big") * 2
        content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    else:
        content[6:10] = (60000).to_bytes(2, "little") * 2
    return bytes(content)


@pytest.mark.parametrize(
    ("modality", "suffix", "content", "words"),
    [
        (Image(8, 8), ".png", claimed("PNG"), "claims 60000 x 60000 pixels|exceeds limit|decompression"),
        (Video(2, 8, 8), ".gif", claimed("GIF"), "claims 60000 x 60000 pixels|exceeds limit|decompression"),
        (Points(), ".glb", glb({**TRIANGLE, "accessors": [{**POSITION, "count": 4 * 10**9}]}), "claims more points"),
        (Points(), ".glb", glb({**TRIANGLE, "nodes": CHAIN, "scenes": [{"nodes": [0]}]}), "nested too deeply"),
        (Points(), ".glb", glb({**TRIANGLE, "nodes": TREE, "scenes": [{"nodes": [0]}]}), "nested too deeply"),
        (
            Points(),
            ".ply",
            b"ply\nformat ascii 1.0\nelement vertex 4000000000\nproperty float x\nend_header\n0\n",
            "read",
        ),
        (Audio(), ".wav", b"RIFF\xff\xff\xff\x7fWAVEfmt ", "cannot be read as audio"),
    ],
    ids=["png", "gif", "count", "chain", "tree", "ply", "wav"],
)
def test_claims_beyond_the_file_cost_no_time_or_memory(tmp_path, modality, suffix, content, words):
    (tmp_path / f"a{suffix}").write_bytes(content)
    with pytest.raises(ValueError, match=words):
        modality.load(tmp_path / f"a{suffix}")


def test_negative_indices_of_obj_count_back_from_the_face(tmp_path):
    """As exporters write them, between the vertices: two triangles, at z = 0 and z = 1."""
    corners = ("0 0", "1 0", "0 1")
    files = {"counted": ("f 1 2 3", "f 4 5 6"), "back": ("f -3 -2 -1", "f -3//-3 -2 -1")}
    found = {}
    for name, faces in files.items():
        lines = []
        for z, face in enumerate(faces):
            lines += [*(f"v {xy} {z}" for xy in corners), *("vn 0 0 1" for _ in corners), face]
        path = tmp_path / f"{name}.obj"
        path.write_text("\n".join(lines))
        found[name] = Points(64, 3).load(path)
    np.testing.assert_allclose(found["back"], found["counted"], atol=1e-6)
    assert set(np.round(found["back"][:, 2], 5)) == {0.0, 1.0}


def test_a_decoded_sound_that_overshoots_is_clipped_where_it_is_resampled(monkeypatch):
    """Compressed files do; an array beyond 1 has another unit, and is refused, as is a file that must be exact."""
    loud = np.asarray([0.5, 1.4, -1.3, 0.2] * 500, np.float32)
    monkeypatch.setattr(Audio, "_read", lambda self, raw, drawn: Sound(loud, self.mel.rate))
    heard = Audio(2000, fit="resample").prepare(File("loud.mp3"))
    np.testing.assert_array_equal(heard[:4], np.asarray([0.5, 1.0, -1.0, 0.2], np.float32))
    for audio, raw in ((Audio(2000, fit="resample"), loud), (Audio(2000), File("loud.wav"))):
        with pytest.raises(ValueError, match="values up to"):
            audio.prepare(raw)


def test_a_link_to_nothing_is_said(tmp_path):
    """And not taken for a file in another case."""
    (tmp_path / "a.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(ValueError, match=r"^it is a link to nothing$"):
        Image(8, 8, 3).load(tmp_path / "a.png")
    (tmp_path / "B.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"no such file; 'B\.png' is there, in another case"):
        Image(8, 8, 3).load(tmp_path / "b.png")


def wav(frames, announced=None, extra=b""):
    """16-bit mono at 16 kHz, with further chunks before the sound; `announced`: the size in its header."""
    body = np.arange(frames, dtype="<i2").tobytes()
    form = struct.pack("<HHIIHH", 1, 1, 16000, 32000, 2, 16)
    chunks = b"fmt " + struct.pack("<I", len(form)) + form + extra
    chunks += b"data" + struct.pack("<I", len(body) if announced is None else announced) + body
    return File("a.wav", stored=b"RIFF" + struct.pack("<I", len(chunks) + 4) + b"WAVE" + chunks)


def test_a_wav_file_that_is_cut_off_says_so():
    with pytest.raises(ValueError, match="it is cut off: 200 bytes of sound, of the 64000 that its header announces"):
        read_sound(wav(100, 64000))
    with pytest.raises(ValueError, match="it is cut off"):
        length_of(wav(100, 202, extra=b"LIST" + struct.pack("<I", 3) + b"abc\0"))


@pytest.mark.parametrize("announced", [None, 0xFFFFFFFF, 0x7FFFF000])
def test_whole_wav_files_and_those_of_a_stream_are_read(announced):
    extra = b"LIST" + struct.pack("<I", 3) + b"abc\0"  # an odd chunk, with its byte of padding
    found = read_sound(wav(100, announced, extra))
    assert found.rate == 16000
    np.testing.assert_allclose(found.wave[:, 0], np.arange(100) / 32768, atol=1e-7)

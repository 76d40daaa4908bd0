"""TFDS sets without TensorFlow: a small ArrayRecord set written here, and what goes wrong with such sets."""

import io
import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image as Pillow

from unified_jax.data.pipeline import Pipeline
from unified_jax.data.tfds import Tfds, decoded
from unified_jax.errors import RunError, UserError
from unified_jax.modalities.image import Image
from unified_jax.modalities.label import Label, named
from unified_jax.runs.directory import NAMES, read_names, write_json

MODALITIES = (Image(8, 8, 3, 4), Label("group", 3), Label("style", 2, ("ink", "oil")))
RENAME = (("group", "label"), ("image", "picture"))


def picture(i):
    return np.full((8, 8, 3), i, np.uint8)


class Drawings(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Twenty flat pictures."""

    VERSION = tfds.core.Version("1.0.0")
    name = "drawings"
    pkg_dir_path = None

    def _info(self):
        features = {"picture": tfds.features.Image(shape=(8, 8, 3)), "label": tfds.features.ClassLabel(num_classes=3)}
        features |= {"style": tfds.features.Text()}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for i in range(20):
            buffer = io.BytesIO()
            Pillow.fromarray(picture(i)).save(buffer, "PNG")
            yield i, {"picture": buffer.getvalue(), "label": i % 3, "style": ("ink", "oil")[i % 2]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("tfds")
    Drawings(data_dir=data_dir, file_format="array_record").download_and_prepare()
    return data_dir


def open_set(folder, modalities=MODALITIES, **fields):
    data = Tfds(**{"set": "drawings", "data_dir": str(folder), "rename": RENAME, **fields})
    return Pipeline(data, "train", modalities, 4, 0)


def test_records_arrive_under_the_models_names(folder):
    batch = open_set(folder).batch(0).arrays
    value = batch["image"][:, 0, 0, 0].astype(int)
    np.testing.assert_array_equal(batch["group"], value % 3)
    np.testing.assert_array_equal(batch["style"], value % 2)


@pytest.mark.parametrize(
    ("fields", "modalities", "words"),
    [
        ({"data_dir": "no/such/folder"}, MODALITIES, "the folder 'no/such/folder' does not exist"),
        ({"set": "paintings"}, MODALITIES, "'paintings' is not in .* which holds: .*drawings"),
        ({"rename": ()}, MODALITIES, "feature 'image' .* is missing; it has label, picture, style"),
        ({}, (Image(16, 16, 3, 4),), r"field 'image': expected uint8 \[16, 16, 3\], found uint8 \[8, 8, 3\]"),
        ({}, (Label("style", 2, ("ink", "chalk")),), "field 'style': expected one of .*, found 'oil'"),
    ],
)
def test_errors_name_set_and_field(folder, fields, modalities, words):
    with pytest.raises(UserError, match=words):
        pipeline = open_set(folder, modalities, **fields)
        for step in range(5):
            pipeline.batch(step)


def test_an_unknown_split_lists_what_there_is(folder):
    with pytest.raises(UserError, match="no split 'test'; it has: train"):
        Pipeline(Tfds("drawings", str(folder), RENAME), "test", MODALITIES, 4, 0)


def test_an_unreadable_record_names_itself(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    (path,) = (tmp_path / "copy").rglob("*array_record*")
    content = bytearray(path.read_bytes())
    filled = [i for i in range(200, len(content)) if content[i]]  # headers first, then the records, then padding
    for i in filled[: len(filled) // 2]:
        content[i] ^= 0xFF
    path.write_bytes(bytes(content))
    with pytest.raises((RunError, UserError), match=r"drawings'(, split 'train': record \d+ cannot| in .* cannot be)"):
        pipeline = open_set(tmp_path / "copy")
        for step in range(5):
            pipeline.batch(step)


def encoded(picture, kind, **told):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **told)
    return buffer.getvalue()


RED, GREY = (200, 50, 25), (90, 90, 90)
PALETTE = Pillow.new("RGB", (8, 8), RED).quantize(4)
LEVELS = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8, 1)
ODD = {
    "grey jpeg": (encoded(Pillow.new("L", (8, 8), 90), "JPEG"), GREY),
    "16-bit png": (encoded(Pillow.fromarray(np.full((8, 8), 90 * 257, np.uint16)), "PNG"), GREY),
    "1-bit png": (encoded(Pillow.new("1", (8, 8), 1), "PNG"), (255,) * 3),
    "palette png": (encoded(PALETTE, "PNG"), RED),
    "clear png": (encoded(Pillow.new("RGBA", (8, 8), (*RED, 0)), "PNG"), (255,) * 3),
    "cmyk jpeg": (encoded(Pillow.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=98), (255, 0, 0)),
    "gif": (encoded(PALETTE, "GIF"), RED),
    "bmp": (encoded(Pillow.new("RGB", (8, 8), RED), "BMP"), RED),
    "webp": (encoded(Pillow.new("RGB", (8, 8), RED), "WEBP", lossless=True), RED),
    "tiff": (encoded(Pillow.new("RGB", (8, 8), RED), "TIFF"), RED),
}


class Odd(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Pictures of every mode under every declaration."""

    VERSION = tfds.core.Version("1.0.0")
    name = "odd"
    pkg_dir_path = None

    def _info(self):
        image = tfds.features.Image
        features = {"rgb": image(shape=(None, None, 3)), "grey": image(shape=(None, None, 1))}
        features |= {"deep": image(shape=(8, 8, 1), dtype=np.uint16)}
        features |= {"film": tfds.features.Sequence(image(shape=(8, 8, 3)), length=2), "kind": tfds.features.Text()}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        deep = encoded(Pillow.fromarray(np.full((8, 8), 1000, np.uint16)), "PNG")
        for i, (kind, (content, _)) in enumerate(ODD.items()):
            pictures = {"rgb": content, "grey": content, "deep": deep, "film": [content, content]}
            yield i, pictures | {"kind": kind}


def test_pictures_have_the_channels_that_the_set_declares(tmp_path):
    Odd(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    fields = ("rgb", "grey", "deep", "film", "kind")
    ((_, _, source),) = Tfds("odd", str(tmp_path)).parts("train", fields)
    assert len(source) == len(ODD)
    for record in (source[i] for i in range(len(source))):
        wanted = np.asarray(ODD[record["kind"].decode()][1])
        luminance = np.dot(wanted, (0.299, 0.587, 0.114))
        for name, shape, value in (
            ("rgb", (8, 8, 3), wanted),
            ("grey", (8, 8, 1), luminance),
            ("film", (2, 8, 8, 3), wanted),
        ):
            assert record[name].shape == shape
            assert record[name].dtype == np.uint8
            assert np.abs(record[name] - value).max() <= 4, (record["kind"], name)
        np.testing.assert_array_equal(record["deep"], np.full((8, 8, 1), 1000, np.uint16))
    level = encoded(Pillow.fromarray(LEVELS.view(np.uint8)), "PNG")  # as TFDS stores floats
    np.testing.assert_array_equal(decoded(level, 1, "float32"), LEVELS)


def test_the_shared_sets_open(shared_data):
    data = Tfds("uj_emoji", str(shared_data), (("group", "label"),))
    labels = (Label("group", 9), Label("style", 2, ("noto", "twemoji")))
    batch = Pipeline(data, "train", (Image(64, 64, 3, 8), *labels), 4, 0).batch(0).arrays
    assert batch["image"].shape == (4, 64, 64, 3)


def test_class_names_of_the_set_are_kept_and_understood(shared_data, tmp_path):
    pipeline = Pipeline(Tfds("fashion_mnist", str(shared_data)), "test", (Label("label", 10),), 2, 0)
    names = pipeline.class_names()
    assert names["label"][:2] == ("T-shirt/top", "Trouser")
    write_json(tmp_path / NAMES, names)
    (label,) = named((Label("label", 10),), read_names(tmp_path))
    assert (label.parse("Trouser"), label.title(1)) == (1, "Trouser")
    own = Label("label", 2, ("yes", "no"))
    assert named((own, Label("label", 9)), names) == (
        own,
        Label("label", 9),
    )  # its own names stay

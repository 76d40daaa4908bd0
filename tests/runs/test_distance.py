"""Features of sets of pictures: folders, arrays and splits, in shards that a killed extraction goes on from."""

import dataclasses
import json
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image as Pillow

import unified_jax as uj
from tests.helpers import TINY
from unified_jax.cli import distance as cli, sample
from unified_jax.cli.entry import run_command
from unified_jax.evaluation.extractors import Encoded, Extractor, PooledPixels
from unified_jax.evaluation.preprocessing import as_rgb
from unified_jax.modalities.label import Label
from unified_jax.runs import extraction
from unified_jax.runs.distance import open_reference, reference_of
from unified_jax.runs.distance_flags import DistanceFlags
from unified_jax.runs.evaluate import EvaluateCommand, evaluate_run
from unified_jax.runs.extraction import extract, features_folder
from unified_jax.runs.loop import train
from unified_jax.runs.pictures import open_pictures
from unified_jax.runs.sampled import conditions_of
from unified_jax.runs.start import Start


@dataclass(frozen=True)
class Corner:
    """An extractor of one's own: a product of the picture's corner with a fixed matrix."""

    label: str = "corner"
    kinds: tuple[str, ...] = ("pool",)

    def load(self):
        return {"w": np.random.default_rng(0).normal(size=(48, 5)).astype(np.float32)}

    def prepare(self, image):
        canvas = np.zeros((4, 4, 3), np.uint8)
        part = as_rgb(image[None])[0][:4, :4]
        canvas[: len(part), : part.shape[1]] = part
        return canvas.reshape(-1).astype(np.float32) / 255

    def features(self, params, x):
        return {"pool": jnp.tanh(x @ params["w"])}


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path):
    """Pictures in colour and grey, of several sizes, with transparency, in two folders."""
    rng = np.random.default_rng(0)
    place = tmp_path / "set"
    (place / "more").mkdir(parents=True)
    for i in range(21):
        value = rng.integers(0, 256, (4 + i, 9, 4 if i == 7 else 3), np.uint8)
        picture = Pillow.fromarray(value).convert("L") if i % 4 == 3 and i != 7 else Pillow.fromarray(value)
        picture.save(place / ("more" if i % 2 else "") / f"{i:02d}.png")
    (place / "note.txt").write_text("no picture")
    return place


def test_batch_mesh_and_shards_do_not_change_features(folder, tmp_path, monkeypatch):
    pictures = open_pictures(str(folder))
    assert len(pictures) == 21
    assert isinstance(Corner(), Extractor)
    assert isinstance(PooledPixels(), Extractor)
    whole = extract(pictures, Corner(), tmp_path / "a", batch=64).arrays["pool"]  # on eight devices
    names = sorted(str(p) for p in folder.rglob("*.png"))
    plain = np.stack([Corner().prepare(np.asarray(Pillow.open(p).convert("RGB"))) for p in pictures.paths])
    assert sorted(str(p) for p in pictures.paths) == names
    np.testing.assert_allclose(whole, np.tanh(plain @ Corner().load()["w"]), atol=1e-6)
    monkeypatch.setattr(extraction, "SHARD", 6)
    one = extract(pictures, Corner(), tmp_path / "b", batch=1).arrays["pool"]
    np.testing.assert_allclose(one, whole, atol=1e-6)


def test_a_killed_extraction_goes_on_with_the_next_shard(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(extraction, "SHARD", 6)
    pictures, seen = open_pictures(str(folder)), []

    class Counted(Corner):
        limit = 13

        def prepare(self, image):
            seen.append(1)
            if len(seen) > self.limit:
                raise KeyboardInterrupt
            return super().prepare(image)

    monkeypatch.setattr(extraction.os, "cpu_count", lambda: 1)
    monkeypatch.setattr(extraction, "make_mesh", lambda shape: uj.sharding.make_mesh(shape, jax_devices()[:1]))
    with pytest.raises(KeyboardInterrupt):
        extract(pictures, Counted(), tmp_path, batch=6)
    shards = sorted(p.name for p in features_folder(tmp_path, pictures, Corner()).glob("*.npz"))
    assert shards == ["000000.npz", "000001.npz"]
    seen.clear()
    Counted.limit = 100
    found = extract(pictures, Counted(), tmp_path, batch=6)
    assert len(seen) == 12  # pictures 12 .. 17, then 18 .. 20 padded to a batch of 6
    np.testing.assert_array_equal(
        found.arrays["pool"], extract(pictures, Corner(), tmp_path / "again", batch=6).arrays["pool"]
    )
    (folder / "00.png").write_bytes((folder / "02.png").read_bytes())
    assert features_folder(tmp_path, open_pictures(str(folder)), Corner()) != features_folder(
        tmp_path, pictures, Corner()
    )  # a changed file is another set


@dataclass(frozen=True)
class Counting:
    """A set whose digest leaves out how many pictures it has, as samples of a run do."""

    count: int
    name: str = "counting"
    digest: str = "counting"

    def __len__(self):
        return self.count

    def rows(self, first, count):
        return [np.full((4, 4, 3), 7 * i, np.uint8) for i in range(first, first + count)]


@pytest.mark.parametrize(("before", "after"), [(8, 15), (15, 8), (12, 18)])
def test_an_extraction_of_another_number_goes_on_with_whole_shards(tmp_path, monkeypatch, before, after):
    monkeypatch.setattr(extraction, "SHARD", 6)
    extract(Counting(before), Corner(), tmp_path / "a")
    found = extract(Counting(after), Corner(), tmp_path / "a").arrays["pool"]
    np.testing.assert_array_equal(found, extract(Counting(after), Corner(), tmp_path / "b").arrays["pool"])


def test_balanced_conditions_of_several_labels_have_all_classes_in_a_part():
    labels = (Label("shape", 6), Label("size", 3), Label("place", 9))
    experiment = dataclasses.replace(TINY, model=dataclasses.replace(TINY.model, conditions=labels))
    part = conditions_of(experiment, "test", 40, 0, "balanced")
    whole = conditions_of(experiment, "test", 162, 0, "balanced")
    for label in labels:
        np.testing.assert_array_equal(whole[label.name][:40], part[label.name])
        counts = np.bincount(part[label.name], minlength=label.classes)
        assert np.ptp(counts) <= 2 and counts.min() > 0
    assert len(set(zip(*whole.values(), strict=True))) == 162  # every combination once
    one = dataclasses.replace(TINY, model=dataclasses.replace(TINY.model, conditions=labels[:1]))
    assert conditions_of(one, "test", 8, 0, "balanced")["shape"].tolist() == [0, 1, 2, 3, 4, 5, 0, 1]


def test_flags_without_an_effect_are_refused():
    for flags, words in (
        ({"bits": 9, "against": "test"}, "--bits scores examples"),
        ({"conditions": "balanced"}, "need --against"),
        ({"distance": DistanceFlags(inception="none.pth")}, "need --against"),
    ):
        with pytest.raises(uj.UserError, match=words):
            evaluate_run(EvaluateCommand("none", **flags))


def jax_devices():
    import jax

    return jax.devices()


def test_arrays_and_splits_are_sets_too(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (9, 5, 6, 3), np.uint8)
    np.savez(tmp_path / "a.npz", arr_0=images, label=np.arange(9))
    np.savez_compressed(tmp_path / "b.npz", image=images)
    np.save(tmp_path / "c.npy", images)
    for name in ("a.npz", "b.npz", "c.npy"):
        found = open_pictures(str(tmp_path / name))
        assert len(found) == 9
        np.testing.assert_array_equal(np.stack(list(found.rows(4, 3))), images[4:7])
    np.savez(tmp_path / "adm.npz", arr_0=images, mu=np.zeros(3), sigma=np.eye(3))
    reference = open_reference(str(tmp_path / "adm.npz"))
    assert reference.pictures is not None
    assert reference.published.known["pool"].mean.shape == (3,)
    np.savez(tmp_path / "none.npz", a=np.zeros(3))
    with pytest.raises(uj.UserError, match=r"holds a float64 \[3\]; expected images uint8"):
        open_pictures(str(tmp_path / "none.npz"))


def test_the_command_measures_writes_and_refuses(folder, tmp_path, capsys):
    def run(*words):
        return run_command(cli.main, [str(word) for word in words])

    assert run(folder, folder, "--out", tmp_path / "rows.json") == 0
    rows = {row["metric"]: row for row in json.loads((tmp_path / "rows.json").read_text())["rows"]}
    assert rows["frechet"]["value"] == pytest.approx(0, abs=1e-9)
    assert (rows["precision"]["value"], rows["recall"]["value"], rows["precision"]["n"]) == (1, 1, 21)
    assert run(folder, "--statistics", tmp_path / "s.npz") == 0
    assert run(tmp_path / "s.npz", folder, "--no-intervals") == 0
    assert "Frechet distances of 21 images are too large" in capsys.readouterr().out
    assert run(folder) == 2
    assert run(folder, folder, "--no-pixels") == 2
    assert run(folder, folder, "--inception", tmp_path / "none.pth") == 2
    assert run(folder, folder, "--metrics", "fid") == 2
    assert run(folder, tmp_path / "nowhere") == 2
    (folder / "08.png").write_bytes(b"broken")
    assert run(folder, folder) == 2
    said = capsys.readouterr().err
    for words in ("Name two sets", "Nothing would be compared", "does not exist", "Metrics are some of", "08.png"):
        assert words in said, words
    np.savez(tmp_path / "one.npz", arr_0=np.zeros((1, 8, 8, 3), np.uint8))
    assert run(tmp_path / "one.npz", tmp_path / "s.npz") == 2  # statistics are no samples
    assert run(tmp_path / "s.npz", tmp_path / "one.npz") == 2
    assert "needs at least two" in capsys.readouterr().err


@pytest.fixture(scope="module")
def run(tmp_path_factory, one_device):
    e = dataclasses.replace(
        TINY, steps=1, preview=dataclasses.replace(TINY.preview, every=0), validation=uj.Validation(every=0)
    )
    folder = tmp_path_factory.mktemp("distance") / "run"
    train(e, Start(folder, quiet=True))
    return folder


def test_a_run_is_measured_against_its_data_and_goes_on_where_it_was_killed(run, tmp_path, monkeypatch):
    monkeypatch.setattr(extraction, "SHARD", 8)
    np.savez(tmp_path / "real.npz", arr_0=np.random.default_rng(0).integers(0, 256, (24, 8, 8, 3), np.uint8))
    command = EvaluateCommand(
        str(run), str(tmp_path / "out"), count=20, batch=8, against=str(tmp_path / "real.npz"), trust=True
    )
    drawn, real = [], extraction._write

    def write(path, found):
        real(path, found)
        if "out" in path.parts:
            drawn.append(path.name)
            if len(drawn) == 2:
                raise KeyboardInterrupt

    monkeypatch.setattr(extraction, "_write", write)
    with pytest.raises(KeyboardInterrupt):
        evaluate_run(command, bars=False)
    rows = evaluate_run(command, bars=False)
    assert drawn == ["000000.npz", "000001.npz", "000002.npz"]  # of the samples, each once
    row = next(row for row in rows if row["metric"] == "frechet")
    assert (row["n"], row["extractor"], row["conditions"]) == (20, "pixels (4 x 4)", "data")
    written = json.loads((tmp_path / "out" / "distances.json").read_text())
    assert written["rows"] == rows
    assert not (tmp_path / "out" / "features").exists()
    monkeypatch.setattr(extraction, "_write", real)
    again = dataclasses.replace(command, batch=5, out=str(tmp_path / "again"))
    other = next(r for r in evaluate_run(again, bars=False) if r["metric"] == "frechet")
    assert other["value"] == pytest.approx(row["value"], rel=1e-3)  # another batch: at most 1 of 255 apart
    balanced = dataclasses.replace(command, conditions="balanced", out=str(tmp_path / "balanced"))
    assert evaluate_run(balanced, bars=False)[0]["conditions"] == "balanced"


def test_a_split_of_the_run_s_data_is_a_set_as_the_model_sees_it(run):
    e = uj.load(run, trust=True).experiment
    real = reference_of("test", e.data, e.model.modality)
    assert real.pictures is not None
    made = e.data.parts("test", ("image",))[0][2]
    assert len(real.pictures) == len(made)
    np.testing.assert_array_equal(real.pictures.rows(3, 1)[0], e.model.modality.prepare(made[3]["image"]))
    with pytest.raises(uj.UserError, match="neither a path nor a split"):
        reference_of("nosplit", e.data, e.model.modality)


def test_samples_are_written_as_adm_reads_them(run, tmp_path, capsys):
    arguments = ["--run", str(run), "--out", str(tmp_path / "out"), "--count", "3", "--formats", "adm", "--trust"]
    assert run_command(sample.main, arguments) == 0, capsys.readouterr().err
    with np.load(tmp_path / "out" / "adm.npz") as found:
        assert found["arr_0"].shape[0] == 3
        assert found["arr_0"].dtype == np.uint8
        assert found["arr_0"].shape[-1] == 3
    assert len(open_pictures(str(tmp_path / "out" / "adm.npz"))) == 3


def test_a_model_that_encodes_images_is_an_extractor():
    class Means:
        def encode(self, params, x, keys=None):
            return uj.Encoded(tokens=x.reshape(len(x), -1, 3) * params["scale"])

    image = uj.Image(4, 4, fit="center_crop")
    one = Encoded("means", Means(), image, {"scale": jnp.float32(2.0)})
    grey = np.full((9, 7, 1), 10, np.uint8)
    x = np.stack([one.prepare(grey), one.prepare(np.full((2, 3, 3), 30, np.uint8))])
    np.testing.assert_allclose(one.features(one.load(), jnp.asarray(x, jnp.float32))["pool"], [[20] * 3, [60] * 3])


def test_a_run_is_evaluated_on_another_data_set(run, tmp_path):
    """The conditions and the reference are those of the data set that is given, not of the run's own."""
    asked = []

    @dataclasses.dataclass(frozen=True)
    class Watched(type(TINY.data)):
        def parts(self, split, fields):
            asked.append(split)
            return super().parts(split, fields)

    command = EvaluateCommand(str(run), str(tmp_path / "out"), count=8, batch=8, against="test", trust=True)
    values = {f.name: getattr(TINY.data, f.name) for f in dataclasses.fields(TINY.data)}
    rows = evaluate_run(command, bars=False, data=Watched(**values))
    assert asked and set(asked) == {"test"}
    assert rows == evaluate_run(command, bars=False)  # of equal data the same figures

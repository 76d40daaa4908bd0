"""Aspect buckets: one size a batch, a function of (seed, step), and every record as often as any other."""

import dataclasses
from fractions import Fraction

import numpy as np
import pytest

from tests.helpers import TINY, on_one_device
from tests.models.small import Spy, spied_losses, spied_samples
from unified_jax.data.buckets import UNIT, Buckets, nearest
from unified_jax.data.pipeline import Pipeline
from unified_jax.errors import UserError
from unified_jax.modalities.crop import Crop
from unified_jax.modalities.depth import Depth
from unified_jax.modalities.image import Image
from unified_jax.modalities.label import Label
from unified_jax.models.diffusion import Diffusion
from unified_jax.models.sizes import of_size
from unified_jax.networks.uvit import UVit
from unified_jax.runs import loop
from unified_jax.runs.looking import bucket_lines
from unified_jax.runs.start import Start
from unified_jax.training.experiment import Checkpointing, Previews, Validation

IMAGE = Image(16, 16, 3, 4, fit="random_crop", flip=True, buckets=((8, 32), (32, 8)))


@dataclasses.dataclass(frozen=True)
class Album:
    """Square, wide and high pictures, 80 : 15 : 5 of a hundred."""

    count: int = 400
    name = "album"

    def parts(self, split, fields):
        return ((1.0, "album", self),)

    def __len__(self):
        return self.count

    def shape(self, index):
        kind = index % 20
        return (40, 40) if kind < 16 else (20, 90) if kind < 19 else (100, 30)

    def __getitem__(self, index):
        shown = np.random.default_rng(index).integers(0, 256, (*self.shape(index), 3), np.uint8)
        return {"image": shown, "shape": index % 6, "colour": index % 8}


def pipeline(image=IMAGE, batch=8, seed=0, **fields):
    return Pipeline(fields.pop("data", Album()), "train", (image, Label("shape", 6)), batch, seed, vary=True, **fields)


def test_turns_are_those_of_the_times_in_order():
    places = tuple(np.arange(n) for n in (700, 0, 31, 269))
    order = Buckets(places, 16, 5)
    starts = order._starts
    due = sorted(
        (Fraction((i * UNIT + starts[j]) * 1000, UNIT * len(places[j])), j, i)
        for j in (0, 2, 3) for i in range(300)
    )  # fmt: skip
    assert [order.turn(step) for step in range(250)] == [(j, i) for _, j, i in due[:250]]
    assert order.turn(10**7) == order.turn(10**7)
    counts = np.bincount([order.turn(step)[0] for step in range(200)], minlength=4)
    assert np.abs(counts - 0.2 * np.asarray([700, 0, 31, 269])).max() < 2 and counts[1] == 0


def test_a_record_goes_to_the_nearest_proportions():
    assert [nearest(size, IMAGE.sizes) for size in ((40, 40), (20, 90), (100, 30), (21, 40), (19, 40))] == [
        0,
        1,
        2,
        0,
        1,
    ]
    one = pipeline()
    sizes = set()
    for step in range(40):
        batch = one.batch(step)
        size = batch.arrays["image"].shape[1:3]
        sizes.add(size)
        assert {IMAGE.sizes[nearest(Album().shape(int(i)), IMAGE.sizes)] for i in batch.ids} == {size}
    assert sizes == set(IMAGE.sizes)


def test_a_step_is_pure_and_an_epoch_is_even():
    one, other = pipeline(), pipeline()
    for step in (33, 2, 71):
        a, b = one.batch(step), other.batch(step)
        np.testing.assert_array_equal(a.ids, b.ids)
        np.testing.assert_array_equal(a.arrays["image"], b.arrays["image"])
    cut = pipeline(rows=np.arange(4, 8, dtype=np.int32)).batch(2)
    np.testing.assert_array_equal(cut.arrays["image"], one.batch(2).arrays["image"][4:])
    seen = np.bincount(np.concatenate([one.batch(step).ids for step in range(150)]), minlength=400)
    assert seen.min() >= 2 and seen.max() <= 4  # three epochs
    assert not np.array_equal(pipeline(seed=1).batch(0).ids, one.batch(0).ids)
    assert one.buckets.imbalance() < 0.1
    *rows, last = bucket_lines(one, 8)
    assert rows[0] == "bucket 16 x 16: 320 records (80.0%)" and rows[2] == "bucket 32 x 8: 20 records (5.0%)"
    assert last.startswith("imbalance: ") and "repeated or left out" in last
    assert bucket_lines(Pipeline(Album(), "train", (IMAGE,), 8, 0), 8) == []


def test_every_bucket_of_a_skewed_set_has_its_share():
    rng = np.random.default_rng(0)
    for _ in range(5):
        counts = np.sort(rng.integers(1, 3000, 9) ** 2 // 3000 + 1)
        order = Buckets(tuple(np.arange(n) for n in counts), 32, 3)
        assert order.imbalance() < 0.2
        assert order.imbalance(2000) < 0.01


def test_the_model_trains_and_samples_at_each_size():
    crop = Crop(IMAGE)
    model = Diffusion(Spy(), modality=IMAGE, conditions=(crop,))
    batches = Pipeline(Album(), "train", (IMAGE, crop), 8, 0, vary=True)
    by_size = {batch["image"].shape[1:]: batch for batch in (batches.batch(step).arrays for step in range(30))}
    assert {shape[:2] for shape in by_size} == set(IMAGE.sizes)
    for shape in ((16, 16, 3), (8, 32, 3)):
        shown, _, terms, _ = spied_losses(model, by_size[shape])
        assert shown["image"].form.shape == shown["image"].x.shape[1:] == shape
        assert terms["mse"][0].shape == (8,)
    wide = of_size(model, (8, 32))
    (noisy, told), *_ = spied_samples(wide, {}, ("image",), 2, 1)[0]
    assert noisy["image"].x.shape == (2, 8, 32, 3)
    assert (np.asarray(told["crop"].value) == [1, 1, 0, 0]).all()
    with pytest.raises(UserError, match="--size: 'image' has the sizes 16 x 16, 8 x 32, 32 x 8; found 8 x 8"):
        of_size(model, (8, 8))


def test_what_cannot_follow_a_size_is_refused():
    with pytest.raises(ValueError, match="cuts or scales pictures"):
        dataclasses.replace(IMAGE, fit="pad")
    with pytest.raises(ValueError, match="other sizes than its own, each once"):
        dataclasses.replace(IMAGE, buckets=((16, 16),))
    with pytest.raises(ValueError, match="a table of positions for one size"):
        Diffusion(UVit(2, 16, 2), modality=IMAGE)
    assert Diffusion(UVit(2, 16, 2, grid=(4, 4)), modality=IMAGE)
    with pytest.raises(UserError, match="nothing else follows its sizes; found also depth"):
        Pipeline(Album(), "train", (IMAGE, Depth(1, 16, 16)), 8, 0, vary=True)


class Stop(BaseException):
    """What ends a run here."""


def losses_of_resuming(e, folder, last):
    """(the last loss of a run that stops after a step and goes on, that of one that does not stop)."""
    whole = loop.train(e, Start(folder / "whole", quiet=True))

    def report(step):
        if step == last:
            raise Stop

    with pytest.raises(Stop):
        loop.train(e, Start(folder / "cut", quiet=True, report=report))
    return loop.train(e, Start(folder / "cut", quiet=True))["loss"], whole["loss"]


@pytest.mark.nightly
def test_a_run_with_buckets_resumes_bit_for_bit(tmp_path, monkeypatch):
    on_one_device(monkeypatch)
    still = {"preview": Previews(every=0), "validation": Validation(every=0), "checkpoint": Checkpointing(every=3)}
    model = dataclasses.replace(TINY.model, modality=dataclasses.replace(IMAGE, flip=False))
    e = dataclasses.replace(TINY, model=model, data=Album(), steps=14, **still)
    resumed, whole = losses_of_resuming(e, tmp_path, 8)
    assert resumed == whole

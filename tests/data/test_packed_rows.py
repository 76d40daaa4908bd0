"""Packed rows on the host: nothing overflows, steps are pure, and shards are even on a skewed set."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from tests.data.test_buckets import Album, losses_of_resuming
from tests.helpers import TINY, on_one_device
from unified_jax.data.packed_rows import PackedRows, RowPacker, imbalance, patches_of, placed, roomiest
from unified_jax.data.pipeline import Pipeline
from unified_jax.errors import UserError
from unified_jax.modalities.grid import patchify
from unified_jax.modalities.image import Image
from unified_jax.modalities.label import Label
from unified_jax.networks.dit import DiT
from unified_jax.runs.full_rows import row_lines
from unified_jax.training.experiment import Checkpointing, Previews, Validation

IMAGE = Image(16, 16, 3, 4, fit="random_crop", flip=True, buckets=((8, 32), (32, 8), (32, 32)))
MODALITIES = (IMAGE, Label("shape", 6))


@dataclasses.dataclass(frozen=True)
class Skewed(Album):
    """Mostly small pictures; one of thirty is sixteen times as large."""

    count: int = 2000

    def shape(self, index):
        chance = np.random.default_rng(index).random()
        return (8, 8) if chance < 0.6 else (8, 16) if chance < 0.85 else (16, 24) if chance < 0.967 else (32, 32)

    def __getitem__(self, index):
        return {"image": np.zeros((*self.shape(index), 3), np.uint8), "shape": 0}


SMALL = Image(8, 8, 3, 4, fit="center_crop", buckets=((8, 16), (16, 24), (32, 32)))


ROWS, ALBUM = PackedRows(80, 4, 8), Album()


def pipeline(batch=16, seed=0, rows=ROWS, data=ALBUM, image=IMAGE, **fields):
    modalities = (image, MODALITIES[1])
    packer = RowPacker(modalities, image, rows)
    return Pipeline(data, "train", modalities, batch, seed, packer=packer, vary=True, **fields)


def test_no_row_overflows_and_what_fits_tightly_is_placed():
    rng = np.random.default_rng(0)
    for _ in range(60):
        tokens = rng.integers(1, 65, rng.integers(1, 60))
        rows, length, items = int(rng.integers(1, 9)), int(rng.integers(64, 200)), int(rng.integers(1, 12))
        row = placed(tokens, rows, length, items)
        there = row >= 0
        used = np.bincount(row[there], tokens[there], rows)
        assert used.max() <= length and np.bincount(row[there], minlength=rows).max() <= items
        count = np.bincount(row[there], minlength=rows)
        for lost in tokens[~there]:  # there was no place for it at the end either
            assert ((used + lost > length) | (count >= items)).all()
    # The emptiest row in falling order leaves a 2 out: [6 2 2], [5 3], first fit: [6 3], [5 2 2].
    assert sorted(np.bincount(placed(np.array([6, 5, 3, 2, 2]), 2, 10, 9), [6, 5, 3, 2, 2])) == [8, 10]
    assert (placed(np.array([6, 4, 3, 3, 2, 2]), 2, 10, 9) >= 0).all()  # 10 and 10
    assert placed(np.array([3, 3, 3]), 1, 100, 2).tolist() == [0, 0, -1]


def test_a_picture_has_the_nearest_proportions_and_is_not_enlarged_where_it_can_be_helped():
    sizes = ((32, 32), (16, 32), (64, 64), (32, 64))
    shown = ((100, 90), (50, 60), (33, 70), (31, 62), (8, 8), (300, 600))
    assert [sizes[roomiest(one, sizes)] for one in shown] == [
        (64, 64), (32, 32), (32, 64), (16, 32), (32, 32), (32, 64),
    ]  # fmt: skip


def test_rows_hold_the_pictures_patch_by_patch():
    one = pipeline()
    batch, seen = one.batch(5), 0
    sizes, _ = one.buckets.mixed(5, 16)
    for row in range(4):
        at = 0
        for place, slot in enumerate(np.flatnonzero(batch.rows == row)):
            example = one.example(int(batch.ids[slot]), (5, int(slot)), int(sizes[slot]))
            tokens = patchify(jnp.asarray(example["image"][None], jnp.float32), (4, 4))[0]
            stop = at + len(tokens)
            np.testing.assert_array_equal(batch.arrays["image"][row, at:stop].reshape(len(tokens), -1), tokens)
            assert (batch.arrays["rows.item"][row, at:stop] == place).all()
            assert batch.arrays["rows.position"][row, stop - 1].tolist() == [
                s // 4 - 1 for s in example["image"].shape[:2]
            ]
            assert batch.arrays["shape"][row, place] == example["shape"] and batch.arrays["slot"][row, place] == slot
            at, seen = stop, seen + 1
        assert (batch.arrays["rows.item"][row, at:] == -1).all()
    assert batch.arrays["rows.dropped"].tolist() == [16 - seen, 0, 0, 0] and seen < 16
    np.testing.assert_array_equal(
        patches_of(np.arange(24).reshape(4, 2, 3), (2, 2))[1], np.arange(12, 24).reshape(2, 2, 3)
    )


def test_a_step_is_pure_and_an_epoch_is_even():
    rows = PackedRows(200, 4, 8)
    one, other = pipeline(rows=rows), pipeline(rows=rows)
    for step in (33, 2, 71):
        a, b = one.batch(step), other.batch(step)
        assert a.arrays.keys() == b.arrays.keys()
        for name in a.arrays:
            np.testing.assert_array_equal(a.arrays[name], b.arrays[name])
    packer, held = RowPacker(MODALITIES, IMAGE, rows), np.arange(1, 3, dtype=np.int32)
    part = Pipeline(Album(), "train", MODALITIES, 16, 0, held, packer, vary=True)
    cut, whole = part.batch(2).arrays, one.batch(2).arrays
    for name in whole:
        np.testing.assert_array_equal(cut[name], whole[name][1:3])
    seen = np.bincount(np.concatenate([one.buckets.mixed(step, 16)[1] for step in range(50)]), minlength=400)
    assert seen.min() >= 1 and seen.max() <= 3  # two epochs
    assert not np.array_equal(pipeline(seed=1, rows=rows).batch(0).ids, one.batch(0).ids)


@pytest.mark.parametrize(("length", "full"), [(77, 0.96), (128, 0.55)], ids=["full", "half empty"])
def test_shards_of_a_skewed_set_are_even(length, full):
    """Two to sixteen shards in every step; cut as they come, the fullest of eight has a third more than their mean."""
    one = pipeline(256, rows=PackedRows(length, per_row=8, items=20), data=Skewed(), image=SMALL)
    size = np.asarray([roomiest(Skewed().shape(i), SMALL.sizes) for i in range(2000)])
    uneven, naive, used, lost = [], [], [], []
    for step in range(6):
        sizes = np.asarray([bucket for bucket, _ in one.buckets.shares(step, 256)])
        row, tokens = one.mixer.rows_of(sizes), one.mixer.tokens(sizes)
        there = row >= 0
        lost.append(np.mean(~there))
        used.append(np.bincount(row[there], tokens[there], 32).astype(np.int64))
        uneven += [imbalance(used[-1], shards) for shards in (2, 4, 8, 16)]
        naive.append(imbalance(one.mixer.tokens(size[[int(one.order[step * 256 + slot]) for slot in range(256)]]), 8))
    assert max(uneven) < 0.2 and np.mean(naive) > 0.3
    assert np.mean(used) / length > full and np.mean(lost) < 0.003
    *listed, last = row_lines(one)
    assert listed[0].startswith("size 8 x 8: 12") and last.startswith(f"32 rows of {length} tokens for 256 examples: ")
    with pytest.raises(UserError, match="32 rows are not divisible over 5 shards"):
        imbalance(used[0], 5)


@pytest.mark.nightly
def test_a_run_on_packed_rows_resumes_bit_for_bit(tmp_path, monkeypatch):
    on_one_device(monkeypatch)
    still = {"preview": Previews(every=0), "validation": Validation(every=4), "checkpoint": Checkpointing(every=3)}
    model = dataclasses.replace(
        TINY.model, network=DiT(2, 32, 4), modality=IMAGE, flip=False, conditions=MODALITIES[1:],
        rows=PackedRows(90, 2, 8),
    )  # fmt: skip
    e = dataclasses.replace(TINY, model=model, data=Album(), steps=10, **still)
    resumed, whole = losses_of_resuming(e, tmp_path, 8)
    assert resumed == whole

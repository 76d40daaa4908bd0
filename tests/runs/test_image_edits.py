"""Edits of images by a model that was trained for none: what is known stays, what is wrong is refused."""

import dataclasses

import jax
import numpy as np
import pytest

from tests.plain import Plain
from unified_jax.api.run import Run
from unified_jax.data.tfds import Tfds
from unified_jax.errors import UserError
from unified_jax.modalities.image import Image
from unified_jax.modalities.label import Label
from unified_jax.models.diffusion import Diffusion
from unified_jax.models.edited import SHARE
from unified_jax.models.streams import Stream
from unified_jax.models.transfusion import Transfusion
from unified_jax.runs.image_edits import EditFlags, check_edit, edit_of, edit_rows, read_mask
from unified_jax.samplers.choice import Dopri5, Euler
from unified_jax.samplers.plan import SamplingPlan
from unified_jax.training.experiment import Experiment, Previews

PLAN = SamplingPlan(Euler(), steps=4)
DRAW = np.random.default_rng(0)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose network knows nothing: what is kept does not come from it."""
    model = Diffusion(Plain(), modality=Image(8, 8, 3, 2), drop_all=0.0)
    experiment = Experiment(model=model, data=Tfds("unknown"), preview=Previews(plan=PLAN))
    return Run(tmp_path_factory.mktemp("run"), experiment, model.init(jax.random.key(0)), 0)


@pytest.fixture
def images():
    return DRAW.integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)


def test_a_strength_of_0_returns_the_image_and_of_1_a_plain_sample(run, images):
    assert np.array_equal(run.edit(images, strength=0.0)["image"], images)
    assert np.array_equal(run.edit(images, strength=1.0)["image"], run.sample(count=2, plan=PLAN)["image"])


def test_what_is_known_stays_and_the_rest_is_drawn(run, images):
    mask = np.zeros((8, 8))
    mask[:, 5:] = 1
    made = run.edit(images, mode="inpaint", mask=mask)["image"]
    assert np.array_equal(made[:, :, :5], images[:, :, :5])
    assert not np.array_equal(made[:, :, 5:], images[:, :, 5:])
    assert np.array_equal(run.edit(images, mode="inpaint", mask=np.zeros((8, 8)))["image"], images)
    small = images[:, 2:6, 1:7]
    around = run.edit(list(small), mode="outpaint", at=(3, 0), repeats=2)["image"]
    assert np.array_equal(around[:, 3:7, :6], small)


def test_an_edit_does_not_depend_on_the_batch(run, images):
    whole = run.edit(images, mode="vary", count=4)["image"]
    assert np.array_equal(run.edit(images, mode="vary", count=4, batch=2)["image"], whole)
    assert not np.array_equal(whole[0], whole[2])  # variations of one image


def test_the_ends_of_an_interpolation_are_the_images(run, images):
    fine = dataclasses.replace(PLAN, steps=32)
    made = run.edit(images[0], mode="interpolate", other=images[1], count=3, iterations=12, plan=fine)["image"]
    for ours, given in ((made[0], images[0]), (made[2], images[1])):
        assert np.abs(ours.astype(int) - given).max() <= 2
    back = run.edit(images, mode="invert", iterations=12, plan=fine)["image"]
    assert np.abs(back.astype(int) - images).max() <= 2


def test_what_an_image_shows_may_be_a_class_by_its_name(tmp_path, images):
    """Names of classes are the data set's, for `given` and for `source` alike."""
    (tmp_path / "names.json").write_text('{"label": ["cat", "dog"]}')
    model = Diffusion(Plain(), modality=Image(8, 8, 3, 2), conditions=(Label("label", 2),))
    run = Run(tmp_path, Experiment(model=model, data=Tfds("unknown")), model.init(jax.random.key(0)), 0)
    made = [run.edit(images[0], {"label": one}, mode="invert", source={"label": other}, plan=PLAN)["image"]
            for one, other in (("cat", "dog"), (0, 1))]  # fmt: skip
    assert np.array_equal(*made)


def test_masks_and_images_come_from_files_and_white_is_filled(tmp_path, images):
    from PIL import Image as Pillow

    white = np.zeros((8, 8), np.uint8)
    white[2] = 255
    Pillow.fromarray(white).save(tmp_path / "mask.png")
    Pillow.fromarray(images[0]).save(tmp_path / "image.png")
    model = Diffusion(Plain(), modality=Image(8, 8, 3, 2))
    flags = EditFlags("inpaint", str(tmp_path / "image.png"), str(tmp_path / "mask.png"))
    edit, rows = flags.read(model, PLAN, range(3))
    assert edit is not None
    assert edit.strength == 1.0
    assert np.array_equal(rows["edit.fill"][1, ..., 0], white > 127)
    assert np.array_equal(rows["edit.image"][2], images[0])
    assert EditFlags().read(model, PLAN, range(3)) == (None, {})


def usual(mode):
    return edit_of(mode, None)


def flagged(**fields):
    return lambda model, _: EditFlags(**fields).read(model, PLAN, range(1))


CASES = {
    "an image without an edit": ("need --edit", flagged(image="a.png")),
    "an edit without an image": ("needs --image", flagged(edit="vary")),
    "a strength above 1": ("strength in", flagged(edit="vary", image="a.png", strength=2.0)),
    "a strength of no use": ("strength has no use", flagged(edit="invert", image="a.png", strength=0.5)),
    "repeats of no use": ("repeats has no use", flagged(edit="image", image="a.png", repeats=2)),
    "iterations of no use": ("iterations has no use", lambda m, i: edit_of("vary", None, iterations=1)),
    "no mask": ("needs mask", lambda m, i: edit_rows(usual("inpaint"), m, range(1), i)),
    "a mask of another size": ("mask has the sizes", lambda m, i: read_mask(np.ones((4, 4)), (8, 8))),
    "a mask of no use": ("no use", lambda m, i: edit_rows(usual("vary"), m, range(1), i, mask=np.ones((8, 8)))),
    "nothing to fill": ("room around", lambda m, i: edit_rows(usual("outpaint"), m, range(1), i)),
    "a file that is none": ("no such file", lambda m, i: read_mask("nothing.png", (8, 8))),
}


def test_shares_of_an_interpolation_go_on_where_the_first_samples_end(images):
    model = Diffusion(Plain(), modality=Image(8, 8, 3, 2))
    whole, last = (edit_rows(usual("interpolate"), model, which, images[0], other=images[1])
                   for which in (range(8), range(3, 8)))  # fmt: skip
    np.testing.assert_array_equal(last[SHARE], whole[SHARE][3:])
    assert (last[SHARE][0], last[SHARE][-1]) == (np.float32(3 / 7), 1)


@pytest.mark.parametrize("case", CASES)
def test_what_does_not_fit_is_refused(images, case):
    words, act = CASES[case]
    with pytest.raises(UserError, match=words):
        act(Diffusion(Plain(), modality=Image(8, 8, 3, 2)), images[0])


def test_solvers_that_choose_their_steps_begin_at_none_of_them(run, images):
    with pytest.raises(UserError, match="chooses its own"):
        run.edit(images, plan=dataclasses.replace(PLAN, sampler=Dopri5()))
    with pytest.raises(UserError, match="or repeats them"):
        mask = np.ones(images[0].shape[:2], np.uint8)
        run.edit(images, mode="inpaint", mask=mask, repeats=2, plan=dataclasses.replace(PLAN, sampler=Dopri5()))


def test_an_edit_is_not_completed(run, images, monkeypatch):
    """Labels that are left out would be drawn for the sample and not for its noise: another picture."""
    monkeypatch.setattr("unified_jax.api.run.completed", None)
    plan = dataclasses.replace(PLAN, steps=32, complete=True)
    back = run.edit(images, mode="invert", iterations=12, plan=plan)["image"]
    assert np.abs(back.astype(int) - images).max() <= 2


def test_models_without_edits_are_refused():
    model = Transfusion(streams=(Stream(Image(8, 8, 3, 2)),))
    with pytest.raises(UserError, match="Edits are of Diffusion and JointDiffusion models; this one is a Transfusion"):
        check_edit(edit_of("vary", 0.5), model, PLAN)

"""A model with further modalities starts as the one without them: same samples, ids matched by meaning."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import stirred
from unified_jax.errors import UserError
from unified_jax.modalities.action import Action
from unified_jax.modalities.image import Image
from unified_jax.modalities.label import Label
from unified_jax.modalities.text import Text
from unified_jax.models.diffusion import Diffusion
from unified_jax.models.streams import Condition
from unified_jax.models.transfusion import Stream, Transfusion
from unified_jax.models.tuned import Tuning
from unified_jax.networks.transfusion import Trunk
from unified_jax.networks.unet.controlnet import Controlled, control_of
from unified_jax.networks.unet.levels import Level
from unified_jax.networks.unet.network import UNet
from unified_jax.runs.weight_transfer import plan_graft
from unified_jax.samplers.plan import SamplingPlan

TRUNK = Trunk(depth=2, width=32, heads=2, remat="none")
PICTURE = Stream(Image(16, 16, 3, 8))
OLD = Transfusion(TRUNK, Text(12), (PICTURE,), 80)
MORE = Transfusion(TRUNK, Text(12), (PICTURE, Stream(Action())), 120, written=(Label("shape", 6),))
EDITS = Transfusion(
    TRUNK, Text(12, name="instruction"), (PICTURE, Stream(Image(16, 16, 3, 8, name="edited"))), 120
)  # fmt: skip


@pytest.fixture(scope="module")
def old():
    return stirred(OLD.init, 0.15)


def test_samples_are_the_same_with_further_modalities(old):
    more = dataclasses.replace(MORE, written=())  # a modality keeps its number, and so its noise
    graft = plan_graft(OLD, more, Tuning())
    assert graft.fresh == ("action_in/bias", "action_in/kernel", "action_out/bias", "action_out/kernel")
    assert graft.left == ()
    assert "the rows that were there" in graft.tell()
    new = graft.apply(old, jax.jit(more.init)(jax.random.key(1)))
    given = {"caption": jnp.asarray([[*b"a red star", -1, -1]], jnp.int32)}
    key = jax.random.split(jax.random.key(2), 1)
    made = [
        jax.jit(model.generate, static_argnames=("wanted", "plan"))(
            params, given, wanted=("image",), keys=key, plan=SamplingPlan(steps=3)
        )["image"]
        for model, params in ((OLD, old), (more, new))
    ]
    shown = np.asarray(made[0])
    assert shown.std() > 0.1
    np.testing.assert_allclose(shown, np.asarray(made[1]), atol=1e-5)


def test_ids_are_matched_by_what_they_mean(old):
    fresh = jax.jit(MORE.init)(jax.random.key(1))
    new = plan_graft(OLD, MORE, Tuning()).apply(old, fresh)
    words, was = MORE.vocabulary, OLD.vocabulary
    assert words.bos != was.bos
    for mine, theirs in ((65, 65), (words.bos, was.bos), (words.eos, was.eos), (words.end(2), was.end(1))):
        np.testing.assert_array_equal(new["table"][mine], old["table"][theirs])
        np.testing.assert_array_equal(new["logits"]["kernel"][:, mine], old["logits"]["kernel"][:, theirs])
    for anew in (words.first[1], words.begin(1), words.begin(3)):
        np.testing.assert_array_equal(new["table"][anew], fresh["table"][anew])


def test_a_modality_may_start_as_another_one(old):
    tuning = Tuning(like=(("instruction", "caption"), ("edited", "image")))
    graft = plan_graft(OLD, EDITS, tuning)
    assert graft.fresh == ()
    new = graft.apply(old, jax.jit(EDITS.init)(jax.random.key(1)))
    words, was = EDITS.vocabulary, OLD.vocabulary
    for name in ("image", "edited"):
        np.testing.assert_array_equal(new[f"{name}_in"]["kernel"], old["image_in"]["kernel"])
        np.testing.assert_array_equal(new[f"{name}_out"]["bias"], old["image_out"]["bias"])
    for mine, theirs in ((words.begin(2), was.begin(1)), (words.end(0), was.end(0))):
        np.testing.assert_array_equal(new["table"][mine], old["table"][theirs])


def test_another_width_is_refused_with_every_name():
    wide = Transfusion(Trunk(depth=2, width=64, heads=2, remat="none"), Text(12), (PICTURE,), 80)
    with pytest.raises(
        UserError, match=r"these differ: .*image_in/kernel found.*table found \[262, 32\] expected"
    ) as e:
        plan_graft(OLD, wide, Tuning())
    assert "--tuning.fresh" in str(e.value)
    with pytest.raises(UserError, match="no parameter has the same name"):
        plan_graft(OLD, wide, Tuning(fresh=(".*",)))


def test_a_controlnet_and_its_u_net_both_start_from_the_u_net_alone():
    alone = UNet((Level(4, 1),), Level(4, 1), groups=2)
    hint = Condition(Image(8, 8, channels=1, name="mask"), "hint")
    plain = Diffusion(alone, modality=Image(4, 4, 3))
    both = Diffusion(Controlled(alone, control_of(alone, (2, 4))), modality=Image(4, 4, 3), conditions=(hint,))
    graft = plan_graft(plain, both, Tuning(train=("^control/",)))
    assert {path.split("/")[1] for path in graft.fresh} == {"hint", "zero_0", "zero_1", "zero_middle"}
    assert graft.left == ()
    trained = stirred(plain.init, 0.15)
    new = graft.apply(trained, jax.jit(both.init)(jax.random.key(1)))
    jax.tree.map(np.testing.assert_array_equal, new["base"], trained)
    jax.tree.map(np.testing.assert_array_equal, new["control"]["middle"], trained["middle"])
    again = plan_graft(both, both, Tuning(train=("^control/",)))  # from a run of both, each has its own
    assert again.fresh == () and again.left == ()

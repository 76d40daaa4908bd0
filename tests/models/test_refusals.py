"""What does not fit a model of streams, or cannot be asked of one, is a sentence before anything is compiled."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import keys_of
from tests.models.small import AUDIO, IMAGE, Spy, Words, joint
from unified_jax.errors import UserError
from unified_jax.modalities.conditions import ConditionForm
from unified_jax.modalities.image import Image
from unified_jax.modalities.label import Label
from unified_jax.modalities.numbers import Numbers
from unified_jax.modalities.text import Text
from unified_jax.models.base import check_plan
from unified_jax.models.diffusion import Diffusion
from unified_jax.models.joint import JointDiffusion
from unified_jax.models.streams import Condition, Stream
from unified_jax.models.transfusion import Transfusion
from unified_jax.networks.dit import DiT
from unified_jax.processes.edm import Edm
from unified_jax.processes.interpolant import RectifiedFlow
from unified_jax.samplers.choice import Dopri5, DpmFast, Euler
from unified_jax.samplers.guidance import Axis, Guidance
from unified_jax.samplers.plan import SamplingPlan

PLAN = SamplingPlan(Euler(), 2)
THREE = (Stream(IMAGE, name="again"), Stream(IMAGE), Stream(AUDIO))
FLOW = RectifiedFlow(reversed_time=True)
SENTENCES = {
    "network": (lambda: JointDiffusion(DiT(), THREE), "DiT denoises one array; the model has 3 streams"),
    "kind": (
        lambda: Diffusion(DiT(conditioning="cross"), conditions=(Numbers(),)),
        "takes conditions of kind label; .*'numbers' is a vec",
    ),
    "no streams": (lambda: JointDiffusion(Spy(), ()), "at least one stream"),
    "streams": (lambda: JointDiffusion(Spy(), (Stream(IMAGE), Stream(IMAGE))), "distinct names; image is used twice"),
    "conditions": (lambda: joint(conditions=(Label("audio", 2),)), "'audio' is read as"),
    "one name": (lambda: joint(conditions=(Condition(Label("shape", 2), "audio"),)), "audio is used twice"),
    "fields": (lambda: joint(conditions=(Condition(Image(8, 8), "low"),)), "'image' is read as"),
    "no clock": (lambda: joint(audio={"time": "video"}), "time 'video' is not a stream .*those are image"),
    "own clock": (lambda: joint(audio={"time": "audio"}), "time 'audio' is not a stream"),
    "circle": (
        lambda: joint(image={"time": "audio"}, audio={"time": "image"}),
        "with its own times; those are none",
    ),
    "processes": (lambda: joint(audio={"time": "image", "process": Edm()}), "process and ends must be equal"),
    "ends": (lambda: joint(audio={"ends": 1.5}), "must lie in"),
    "reversed": (lambda: joint(audio={"process": FLOW}), "time 0, which is noise"),
    "source": (lambda: joint(conditions=(Text(),)), "Text lacks condition_form, to_condition"),
    "no backbone": (
        lambda: joint(Label()),
        r'network is "Label.*expected Backbone .*layers.form.*lacks __call__, streams, takes',
    ),
    "drop": (lambda: joint(drop_some=2.0), "JointDiffusion.drop_some is a probability"),
    "own drop": (lambda: Condition(Label(), drop=-0.1), "Condition.drop is a probability"),
    "no null": (lambda: Condition(Words(null="none"), drop=0.1), "has no null, so it cannot be dropped"),
    "transfusion": (lambda: Transfusion(streams=(Stream(IMAGE, name="picture"),)), "Transfusion's streams .*picture"),
    "its clock": (lambda: Transfusion(streams=(Stream(IMAGE), Stream(AUDIO, time="image"))), "their modality's name"),
}


@pytest.mark.parametrize("name", SENTENCES)
def test_what_does_not_fit_is_a_sentence_when_the_model_is_made(name):
    make, words = SENTENCES[name]
    with pytest.raises(ValueError, match=words):
        make()


def test_what_cannot_be_asked_is_a_sentence():
    model = joint(conditions=(Words(null="none"),))
    words, keys = {"words": jnp.zeros((2, 3, 2))}, keys_of(2)
    for sampler in (Dopri5(), DpmFast()):
        with pytest.raises(UserError, match="choose another for several streams"):
            model.generate({}, words, ("image",), keys, SamplingPlan(sampler, 2))
    with pytest.raises(UserError, match="'words' has no null: give 'words'"):
        model.generate({}, {}, ("image",), keys, PLAN)
    with pytest.raises(UserError, match="generates image, audio; found 'video'"):
        model.generate({}, words, ("video",), keys, PLAN)
    with pytest.raises(UserError, match="both given and to be generated"):
        model.generate({}, words | {"image": jnp.zeros((2, 16, 16, 3), jnp.uint8)}, ("image",), keys, PLAN)
    strange = SamplingPlan(guidance=Guidance(axes=(Axis(("colour",)),)))
    with pytest.raises(UserError, match="axis names 'colour'; the model has words, image, audio"):
        check_plan(model, strange)  # before anything is compiled
    for axis in (Axis(("audio",)), Axis(("words",))):  # it is not given, has no null
        with pytest.raises(UserError, match=f"axis names '{axis.without[0]}'; what may be left out is nothing"):
            model.generate({}, words, ("image",), keys, SamplingPlan(guidance=Guidance(axes=(axis,))))


@dataclasses.dataclass(frozen=True)
class Odd:
    """A source whose form and arrays disagree."""

    kind: str = "vector"
    shape: tuple[int, ...] = ()
    name: str = "odd"

    def prepare(self, raw: Any) -> np.ndarray:
        return np.asarray(raw, np.float32)

    def blank(self) -> np.ndarray:
        return np.zeros(self.shape, np.float32)

    def condition_form(self) -> Any:
        return ConditionForm(self.name, self.kind, 2, 3, null="row" if self.kind == "label" else "zero")  # pyright: ignore[reportArgumentType]

    def to_condition(self, raw: Any) -> Any:
        return jnp.asarray(raw)


@pytest.mark.parametrize(
    ("kind", "right", "wrong"),
    [
        ("vector", (2,), ()),
        ("vector", (2,), (3,)),
        ("scalars", (2,), ()),
        ("tokens", (3, 2), (2, 3)),
        ("label", (), (2,)),
    ],
)
def test_sources_of_conditions_give_what_their_form_says(kind, right, wrong):
    Condition(Odd(kind, right)).shown({"odd": np.zeros((4, *right), np.float32)}, 4)
    with pytest.raises(UserError, match=f"Odd.to_condition gives .* kind '{kind}', says"):
        Condition(Odd(kind, wrong)).shown({"odd": np.zeros((4, *wrong), np.float32)}, 4)

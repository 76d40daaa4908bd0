"""Chains: a sample is that of the links' models, called one by one with folded keys; what does not fit is refused."""

import dataclasses
import functools
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import keys_of
from tests.models.small import AUDIO, IMAGE, Small, Words, close, joint, weights
from unified_jax.errors import UserError
from unified_jax.modalities.action import Action
from unified_jax.modalities.audio import Audio
from unified_jax.modalities.conditions import NEGATIVE
from unified_jax.modalities.depth import Depth
from unified_jax.modalities.image import Image
from unified_jax.modalities.label import Label
from unified_jax.modalities.points import Points
from unified_jax.modalities.text import Text
from unified_jax.modalities.video import Video
from unified_jax.models.base import Declared
from unified_jax.models.chain import Chain, Link
from unified_jax.models.diffusion import Diffusion
from unified_jax.models.stages import Stage, stage_shapes
from unified_jax.models.text_encoder import TextEncoder
from unified_jax.networks.bert import Bert
from unified_jax.processes.gaussian import DiscreteGaussian
from unified_jax.processes.interpolant import RectifiedFlow
from unified_jax.samplers.choice import Ddim, Euler
from unified_jax.samplers.plan import SamplingPlan

SHAPE = Label("shape", 6)
SMALL, LARGE, MASK = Image(4, 4, 3, patch=2), Image(6, 6, 3, patch=3, name="large"), Image(2, 2, 1, name="mask")
FLOW = RectifiedFlow()


@dataclasses.dataclass(frozen=True)
class Maker(Declared):
    """Draws a field as noise of its keys, shifted by its parameter, all that it is given and the number of steps."""

    makes: Any
    reads: tuple[Any, ...] = (SHAPE,)
    process: Any = FLOW

    @property
    def modalities(self):
        """See `Model`."""
        return (self.makes, *self.reads)

    @property
    def wantable(self):
        """See `Model`."""
        return (self.makes.name,)

    @property
    def givable(self):
        """See `Model`."""
        return tuple(one.name for one in self.reads)

    @property
    def processes(self):
        """See `Model`."""
        return (self.process,)

    def init(self, key):
        """See `Model`."""
        return {"shift": jnp.zeros(())}

    def axes(self):
        """See `Model`."""
        return {"shift": ()}

    def losses(self, params, aux, batch, key):
        """See `Model`."""
        raise NotImplementedError

    def generate(self, params, given, wanted, keys, plan):
        """See `Model`."""
        assert wanted == self.wantable
        noise = jax.vmap(lambda key: jax.random.uniform(key, self.makes.shape, minval=-0.5, maxval=0.5))(keys)
        by = jnp.full(len(keys), params["shift"] + 0.01 * plan.steps)
        for one in self.reads:
            for name, sign in ((one.name, 0.1), (NEGATIVE + one.name, -0.05)):
                if name in given:
                    value = one.to_condition(jnp.asarray(given[name])).reshape(len(keys), -1)
                    by = by + sign * value.astype(jnp.float32).mean(axis=1)
        return {self.makes.name: noise + by.reshape(-1, 1, 1, 1)}


BASE, UP, LAST = Maker(SMALL), Maker(LARGE, (dataclasses.replace(SMALL, patch=4), SHAPE)), Maker(MASK, (LARGE,))
PLAN, OWN = SamplingPlan(Euler(), steps=2), SamplingPlan(Euler(), steps=5)
GIVEN = {"shape": np.asarray([0, 5, 2], np.int32)}
PARAMS = {name: {"shift": jnp.asarray(shift)} for name, shift in (("base", 0.1), ("up", -0.2), ("last", 0.0))}


def link(name, model, plan=None, takes=()):
    return Link(Stage(name, model, "runs/some"), plan, takes)


CHAIN = Chain((link("base", BASE), link("up", UP)))


def params_of(*names):
    return {"stages": {name: PARAMS[name] for name in names}}


def folded(keys, *names):
    for name in names:
        keys = jax.vmap(jax.random.fold_in, (0, None))(keys, np.uint32(zlib.crc32(name.encode())))
    return keys


def made(model, params, given, wanted, keys=None, plan=PLAN):
    given = {name: jnp.asarray(value) for name, value in given.items()}
    return model.generate(params, given, wanted, keys_of(3) if keys is None else keys, plan)


def by_hand(keys=None, plans=(PLAN, PLAN), against=None):
    """The samples of both models; between them the first one's is a file."""
    keys, given = keys_of(3) if keys is None else keys, GIVEN | (against or {})
    found = made(BASE, PARAMS["base"], given, ("image",), folded(keys, "base"), plans[0])
    shown = given | {"image": np.stack([SMALL.prepare(one) for one in SMALL.from_model(found["image"])])}
    return found | made(UP, PARAMS["up"], shown, ("large",), folded(keys, "up"), plans[1])


def same(found, expected):
    assert set(found) == set(expected)
    for name, value in found.items():
        np.testing.assert_array_equal(value, expected[name])


def test_a_sample_is_that_of_the_models_one_by_one():
    assert (CHAIN.givable, CHAIN.wantable) == (("shape", "image", "large"), ("image", "large"))
    assert CHAIN.request((), ()) == (("shape",), ("large",))
    assert CHAIN.request(("shape",), ()) == (("shape",), ("large",))
    assert CHAIN.request(("shape", "large"), ()) == (("shape", "large"), ("image",))
    assert {m.name: m.blank().shape for m in CHAIN.modalities} == {"image": (4, 4, 3), "shape": (), "large": (6, 6, 3)}
    same(made(CHAIN, params_of("base", "up"), GIVEN, ("large", "image")), by_hand())


def test_so_it_is_for_networks():
    base = Diffusion(Small(), modality=IMAGE, conditions=(SHAPE,))
    up = Diffusion(Small(), modality=LARGE, conditions=(Image(16, 16, 3, patch=4), SHAPE))
    params = {"base": weights(base), "up": weights(up)}
    chain = Chain((link("base", base), link("up", up)))

    @functools.partial(jax.jit, static_argnums=(0, 3))
    def compiled(model, params, given, wanted, keys):
        return model.generate(params, given, wanted, keys, PLAN)

    found = compiled(chain, {"stages": params}, GIVEN, ("image", "large"), keys_of(3))
    assert set(found) == {"image", "large"}
    image = compiled(base, params["base"], GIVEN, ("image",), folded(keys_of(3), "base"))["image"]
    close(found["image"], image)
    shown = GIVEN | {"image": IMAGE.from_model(found["image"])}
    close(found["large"], compiled(up, params["up"], shown, ("large",), folded(keys_of(3), "up"))["large"])


def test_a_link_may_have_a_plan_of_its_own():
    chain = Chain((link("base", BASE, OWN), link("up", UP)))
    same(made(chain, params_of("base", "up"), GIVEN, ("image", "large")), by_hand(plans=(OWN, PLAN)))
    noised = Maker(SMALL, process=DiscreteGaussian())
    assert Chain((link("base", noised, SamplingPlan(Ddim(), 4)), link("up", UP))).processes == (FLOW,)
    assert Chain((link("base", noised), link("up", UP))).processes == (noised.process, FLOW)
    with pytest.raises(UserError, match="5000"):
        link("base", noised, SamplingPlan(Ddim(), 5000))


def test_labels_that_a_plan_completes_are_drawn_once_for_all_links():
    """As if they had been given; a null row is drawn too, a class that is given stays; without `complete` none is."""
    drawing = dataclasses.replace(OWN, complete=True)
    chain = Chain((link("base", BASE, drawing), link("up", UP)))
    params, both = params_of("base", "up"), ("image", "large")
    classes = np.asarray([jax.random.randint(key, (), 0, 6) for key in folded(keys_of(3), "shape")], np.int32)
    shown = made(chain, params, {"shape": classes}, both)
    same(made(chain, params, {}, both), shown)
    some = np.asarray([SHAPE.null, classes[1], (classes[2] + 1) % 6], np.int32)
    mixed = np.where(some == SHAPE.null, classes, some)
    same(made(chain, params, {"shape": some}, both), made(chain, params, {"shape": mixed}, both))
    plain = made(Chain((link("base", BASE, OWN), link("up", UP))), params, {}, both)
    assert np.abs(np.asarray(plain["image"]) - np.asarray(shown["image"])).max() > 1e-3


def test_only_the_links_that_are_needed_run():
    expected = by_hand()
    same(made(CHAIN, params_of("base"), GIVEN, ("image",)), {"image": expected["image"]})
    given = GIVEN | {"image": SMALL.from_model(expected["image"])}
    same(made(CHAIN, params_of("up"), given, ("large",)), {"large": expected["large"]})
    with pytest.raises(UserError, match="The parameters lack those of the stage 'base'"):
        made(CHAIN, params_of("up"), GIVEN, ("large",))
    with pytest.raises(UserError, match="image: both given and to be generated"):
        CHAIN.request(("image",), ("image", "large"))


def test_a_nested_chain_is_the_flat_one_but_for_its_keys():
    """The inner links' keys are folded by the inner chain's name first; what the outer link does is the same."""
    nested = Chain((link("two", CHAIN), link("last", LAST)))
    flat = Chain((*CHAIN.links, link("last", LAST)))
    assert (nested.givable, nested.wantable, nested.processes) == (flat.givable, flat.wantable, flat.processes)
    params = {"stages": {"two": params_of("base", "up"), "last": PARAMS["last"]}}
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(lambda leaf: leaf.shape, stage_shapes(nested))
    assert nested.stages[0].axes(nested) == {"stages": {"base": {"shift": ()}, "up": {"shift": ()}}}
    found = made(nested, params, GIVEN, ("image", "large", "mask"))
    inner = by_hand(folded(keys_of(3), "two"))
    same({name: found[name] for name in inner}, inner)
    given = GIVEN | {"large": LARGE.from_model(inner["large"])}
    same({"mask": found["mask"]}, made(flat, params_of("last"), given, ("mask",)))


def test_names_of_the_chain_are_not_those_of_the_links():
    up = Maker(dataclasses.replace(LARGE, name="image"), (dataclasses.replace(SMALL, name="low"), SHAPE))
    chain = Chain((link("base", BASE), link("up", up, takes=(("image", "low"), ("large", "image")))))
    assert (chain.givable, chain.wantable) == (("shape", "image", "large"), ("image", "large"))
    assert {m.name: m.blank().shape for m in chain.modalities} == {"image": (4, 4, 3), "shape": (), "large": (6, 6, 3)}
    same(made(chain, params_of("base", "up"), GIVEN, ("image", "large")), by_hand())
    style = Chain((link("base", BASE), link("up", UP, takes=(("style", "shape"),))))
    assert style.givable == ("shape", "image", "style", "large")


def test_a_model_that_reads_and_makes_a_field_reads_what_it_takes():
    base, both = Maker(IMAGE), joint(Small())
    with pytest.raises(ValueError, match=r"both make 'image'; rename .* or let it read the other's: takes=\(\('image'"):
        Chain((link("base", base), link("both", both)))
    chain = Chain((link("base", base), link("both", both, takes=(("image", "image"),))))
    assert (chain.wantable, chain.results) == (("image", "audio"), ("audio",))
    (first, second) = chain.turns(("shape",), ("audio",))
    assert (first.makes, second.makes, second.reads["image"]) == ({"image": "image"}, {"audio": "audio"}, "image")


def test_negatives_reach_the_links_that_read_the_field():
    against = {"negative.shape": np.asarray([1, 4, 1], np.int32)}
    found = made(CHAIN, params_of("base", "up"), GIVEN | against, ("image", "large"))
    same(found, by_hand(against=against))
    assert all(np.abs(found[name] - value).max() > 0.01 for name, value in by_hand().items())
    with pytest.raises(UserError, match=r"negative.image: the links of this request read shape, not 'image'"):
        CHAIN.request(("shape", "negative.image"), ("image",))


def test_what_is_not_finite_stays_so():
    params = {"stages": PARAMS | {"base": {"shift": jnp.asarray(jnp.nan)}}}
    assert np.isnan(made(CHAIN, params, GIVEN, ("large",))["large"]).all()


OTHER = dataclasses.replace(SMALL, name="low")
UNFIT = {
    "A chain needs links": (),
    "each with a name of its own; found a, a": (link("a", BASE), link("a", UP)),
    r"'a' and 'b' both make 'image'.*takes=\(\('image_2', 'image'\),\)\.": (link("a", BASE), link("b", BASE)),
    "'up' reads 'image', which 'base' makes after it.*put that one first": (link("up", UP), link("base", BASE)),
    "A cycle: the link 'a' reads 'mask', which 'c' makes of what 'a' makes": (
        link("a", Maker(SMALL, (MASK,))), link("b", UP), link("c", LAST)
    ),
    "'x' as 'imagee', which is no field of its model; did you mean image": (link("a", BASE, None, (("x", "imagee"),)),),
    "takes 'imag' as 'low', and no link has 'imag'; did you mean image": (
        link("a", BASE), link("b", Maker(LARGE, (OTHER,)), None, (("imag", "low"),))
    ),
    "has 'image' and 'shape' under one name of the chain, 'image'": (link("a", BASE, None, (("image", "shape"),)),),
    "The field 'image' is .*height=4.* and .*height=8": (link("a", BASE), link("b", Maker(LARGE, (Image(8, 8, 3),)))),
    "The field 'shape' is .*classes=6.* and .*classes=7": (
        link("a", BASE), link("b", Maker(LARGE, (Label("shape", 7),)))
    ),
    "The link 'b' reads 'words', which 'a' makes: Words needs a method to_prepared": (
        link("a", Maker(Words(), ())), link("b", Maker(LARGE, (Words(),)))
    ),
}  # fmt: skip


@pytest.mark.parametrize("words", UNFIT)
def test_links_that_do_not_fit_are_refused(words):
    with pytest.raises(ValueError, match=words):
        Chain(UNFIT[words])


def test_a_link_is_a_trained_model_that_generates():
    with pytest.raises(ValueError, match="The link 'a' needs a trained model"):
        Link(Stage("a"))
    encoder = TextEncoder(Bert(vocabulary=256, length=8, width=8, depth=1, heads=2, hidden=8), Text(8))
    with pytest.raises(ValueError, match="The link 'a' is no model that samples: TextEncoder lacks"):
        link("a", encoder)
    with pytest.raises(ValueError, match="takes 'image' twice"):
        link("a", BASE, None, (("image", "image"), ("image", "shape")))


def test_a_condition_that_nobody_gives_is_a_sentence():
    needy = Diffusion(Small(), modality=IMAGE, conditions=(Words(null="none"),))
    up = Maker(LARGE, (IMAGE, dataclasses.replace(Words(), length=2)))
    chain = Chain((link("base", needy, takes=(("text", "words"),)), link("up", up)))
    words = r"The link 'base': The condition 'words' has no null: give 'words'\. Its 'words' is the chain's 'text'\."
    params = {"stages": {"base": jax.eval_shape(needy.init, jax.random.key(0))}}
    with pytest.raises(UserError, match=words):
        jax.eval_shape(lambda params, keys: made(chain, params, {}, ("image",), keys), params, keys_of(1))


def test_a_chain_trains_nothing():
    assert CHAIN.init(jax.random.key(0)) == CHAIN.axes() == {}
    assert CHAIN.terms == ()
    with pytest.raises(UserError, match="A chain trains nothing"):
        CHAIN.losses({}, {}, {}, jax.random.key(0))


@pytest.mark.parametrize(
    "modality",
    [IMAGE, Video(2, 8, 8), Action(), Points(32), Depth(1, 8, 8), Audio(samples=800, mel=AUDIO.mel, iterations=2)],
    ids=lambda modality: modality.name,
)
def test_between_links_an_array_is_what_a_file_holds(modality):
    x = np.random.default_rng(0).uniform(-1.2 if modality.name != "action" else -1, 1, (2, *modality.shape))
    x = x.astype(np.float32)
    by_file = np.stack([modality.prepare(one) for one in modality.from_model(x)])
    found = modality.to_prepared(jnp.asarray(x))
    assert found.dtype == by_file.dtype == modality.blank().dtype
    np.testing.assert_array_equal(found, by_file)


def test_between_links_texts_and_labels_are_what_a_file_holds():
    text, ids = Text(5), np.asarray([[97, 98, -1, -1, -1], [99, 99, 99, 99, 99]])
    np.testing.assert_array_equal(text.to_prepared(ids), [text.prepare(one) for one in text.from_model(ids)])
    np.testing.assert_array_equal(SHAPE.to_prepared(jnp.asarray([[3], [-1]])), [3, SHAPE.null])

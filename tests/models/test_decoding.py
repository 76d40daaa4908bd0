"""Decoding against the training forward: what a span sees with and without its condition; which tokens are drawn."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import keys_of, stirred
from unified_jax.data.packing import Documents, Item
from unified_jax.data.world import World
from unified_jax.errors import UserError
from unified_jax.modalities.image import Image
from unified_jax.modalities.text import Text
from unified_jax.models.chain import Chain, Link
from unified_jax.models.decoding import choose_token
from unified_jax.models.diffusion import Diffusion
from unified_jax.models.stages import Stage
from unified_jax.models.transfusion import Stream, Transfusion
from unified_jax.networks.dit import DiT
from unified_jax.networks.transfusion import Trunk
from unified_jax.processes.interpolant import RectifiedFlow
from unified_jax.samplers.choice import Euler
from unified_jax.samplers.guidance import Guidance
from unified_jax.samplers.plan import SamplingPlan
from unified_jax.training.experiment import Experiment, Previews

X, TIME = np.random.default_rng(0).normal(size=(1, 4, 4, 3)).astype(np.float32), 0.6


@dataclass(frozen=True)
class Once(Euler):
    """A sampler that answers with x0 as it is predicted at X and TIME."""

    def __call__(self, denoise, process, x, grid, keys):
        return denoise(jnp.asarray(X), jnp.full(1, TIME)).x0


@pytest.mark.parametrize(("scale", "causal"), [(0.0, False), (1.0, True)], ids=["unconditional", "causal"])
def test_a_span_is_denoised_as_it_was_trained(scale, causal):
    """With guidance 0 as a span that sees nothing before its begin token; without it after the document's, causally."""
    alone = scale == 0
    network, streams = Trunk(depth=1, width=32, heads=2, remat="none"), (Stream(Image(4, 4, 3, 2)),)
    model = Transfusion(network, Text(6), streams, 16, Documents(causal=causal))
    params, arrays = stirred(model.init), model.packer.empty(1)
    model.packer.place(arrays, 0, 0, [Item(1, alone=alone)], 0)
    forward = jax.jit(model.forward)

    def trained(arrays):
        shown = ((jnp.asarray(X), jnp.full(1, 1000 * TIME)),)
        return X - TIME * forward(params, jax.tree.map(jnp.asarray, arrays), shown)[1]["image"][:, 0]

    draw = jax.jit(model.generate, static_argnames=("wanted", "plan"))
    found = draw(params, {}, wanted=("image",), keys=keys_of(1), plan=SamplingPlan(Once(), 1, Guidance(scale)))["image"]
    np.testing.assert_allclose(found, trained(arrays), atol=1e-5)
    content = arrays["start"][0, 0, 1] + np.arange(4)
    arrays["visible"][0, content, 0] += 1  # were the first token that it may see hidden, it would be another one
    assert np.abs(found - trained(arrays)).max() > 1e-3


def test_what_a_request_goes_through_is_made_first_and_read():
    """As if it had been asked for; drawn where nothing is given, and left out where the request has it."""
    streams = (Stream(Image(4, 4, 3, 2)), Stream(Image(4, 4, 3, 2, name="after")))
    model = Transfusion(Trunk(depth=1, width=32, heads=2, remat="none"), Text(6), streams, 32)
    params, keys = stirred(model.init), keys_of(3)
    draw = jax.jit(model.generate, static_argnames=("wanted", "plan"))
    given = {"image": jnp.asarray(np.random.default_rng(1).integers(0, 255, (3, 4, 4, 3)), jnp.uint8)}
    plain, through = SamplingPlan(steps=2), SamplingPlan(steps=2, through=("caption",))

    found = draw(params, given, wanted=("after",), keys=keys, plan=through)
    asked = draw(params, given, wanted=("caption", "after"), keys=keys, plan=plain)
    assert set(found) == {"after"}
    np.testing.assert_array_equal(found["after"], asked["after"])
    assert np.abs(found["after"] - draw(params, given, wanted=("after",), keys=keys, plan=plain)["after"]).max() > 1e-3

    alone = draw(params, {}, wanted=("after",), keys=keys, plan=through)["after"]
    drawn = draw(params, {}, wanted=("caption", "after"), keys=keys, plan=replace(plain, temperature=1.0))
    np.testing.assert_array_equal(alone, drawn["after"])
    assert len({tuple(row) for row in np.asarray(drawn["caption"]).tolist()}) > 1

    both = given | {"caption": jnp.asarray([[1, 2, -1, -1, -1, -1]] * 3)}
    same = [draw(params, both, wanted=("after",), keys=keys, plan=plan)["after"] for plan in (plain, through)]
    np.testing.assert_array_equal(*same)


def test_a_plan_goes_through_what_the_model_has():
    model = Transfusion(Trunk(depth=1, width=32, heads=2, remat="none"), Text(6), (Stream(Image(4, 4, 3, 2)),), 16)
    with pytest.raises(UserError, match="The plan goes through 'text'; the model has caption, image"):
        model.generate({}, {}, ("image",), keys_of(1), SamplingPlan(through=("text",)))
    denoiser = Diffusion(DiT(depth=1, width=32, heads=2), RectifiedFlow(), Image(8, 8, 3, 2))
    with pytest.raises(UserError, match="which only Transfusion can"):
        denoiser.generate({}, {}, ("image",), keys_of(1), SamplingPlan(through=("caption",)))


def nucleus(probabilities, share):
    """The fewest tokens, likeliest first, that hold this share."""
    kept, held = [], 0.0
    for token in np.argsort(-probabilities):
        if held >= share:
            break
        kept.append(int(token))
        held += probabilities[token]
    return set(kept)


def drawn(probabilities, temperature, top_p, count=400):
    """The tokens that are drawn."""
    logits = jnp.broadcast_to(jnp.log(jnp.asarray(probabilities)), (count, len(probabilities)))
    return np.asarray(jax.jit(choose_token, static_argnums=(2, 3))(logits, keys_of(count), temperature, top_p))


@pytest.mark.parametrize("top_p", [0.3, 0.6, 0.9, 1.0])
def test_text_is_drawn_among_the_fewest_tokens_that_hold_the_share(top_p):
    probabilities = np.asarray([0.1, 0.25, 0.05, 0.4, 0.2])
    assert set(drawn(probabilities, 1.0, top_p)) == nucleus(probabilities, top_p)


def test_a_share_that_is_held_exactly_needs_no_further_token():
    logits = jnp.log(jnp.asarray([0.25, 0.5, 0.25]))
    exact = np.asarray(jax.nn.softmax(logits)).tolist() == [0.25, 0.5, 0.25]
    assert exact
    assert set(drawn([0.25, 0.5, 0.25], 1.0, 0.5)) == {1}


def test_the_temperature_sharpens_before_the_share_is_taken():
    probabilities = np.asarray([0.5, 0.3, 0.2])
    sharp = probabilities**2 / (probabilities**2).sum()  # at temperature 1/2
    found = drawn(probabilities, 0.5, 1.0, 4000)
    np.testing.assert_allclose(np.bincount(found, minlength=3) / 4000, sharp, atol=0.03)
    assert nucleus(sharp, 0.85) == {0, 1} != nucleus(probabilities, 0.85)
    assert set(drawn(probabilities, 0.5, 0.85)) == {0, 1}
    assert set(drawn(probabilities, 0.0, 0.85)) == {0}


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        ({"through": ("captoin",)}, "goes through 'captoin'"),
        ({"guidance": Guidance(joint=2.0)}, "use one guidance scale"),
    ],
)
def test_a_plan_is_refused_before_anything_is_compiled(plan, words):
    """As part of an experiment, or of a chain's link; of clipped latents see test_transfusion_latents.py."""
    model = Transfusion(Trunk(depth=1, width=32, heads=2, remat="none"), Text(6), (Stream(Image(4, 4, 3, 2)),), 48)
    with pytest.raises(UserError, match=words):
        Experiment(model=model, data=World(resolution=16), preview=Previews(plan=SamplingPlan(**plan)))
    with pytest.raises(UserError, match=words):
        Link(Stage("base", model, "runs/some"), SamplingPlan(**plan))
    with pytest.raises(UserError, match=words):
        Chain((Link(Stage("base", model, "runs/some")),)).check_plan(SamplingPlan(**plan))

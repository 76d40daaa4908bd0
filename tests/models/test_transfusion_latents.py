"""Spans of a Transfusion that are latents: an autoencoder that changes nothing changes nothing, others are undone."""

import dataclasses
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import stirred
from unified_jax.data.packing import Documents
from unified_jax.errors import UserError
from unified_jax.evaluation.probes.documents import clean_inputs, lay_out
from unified_jax.modalities.image import Image
from unified_jax.modalities.text import Text
from unified_jax.models.latents import Latents
from unified_jax.models.sampling import sample_keys
from unified_jax.models.stages import Stage
from unified_jax.models.streams import Stream
from unified_jax.models.transfusion import Transfusion
from unified_jax.networks.transfusion import Trunk
from unified_jax.samplers.choice import Euler
from unified_jax.samplers.plan import SamplingPlan


class Point(NamedTuple):
    """A Gaussian without a width."""

    mean: jax.Array

    def draw(self, keys):
        """Its mean."""
        del keys
        return self.mean


@dataclass(frozen=True)
class Halving:
    """An autoencoder by the book: pixels of a square become channels, times a factor."""

    side: int = 1
    factor: float = 1.0

    def init(self, key):
        """One number that multiplies nothing."""
        del key
        return {"one": jnp.ones(())}

    def axes(self):
        """Its axes."""
        return {"one": ()}

    def latent_shape(self):
        """Of pictures of 8 x 8."""
        return 8 // self.side, 8 // self.side, 3 * self.side**2

    def moments(self, params, x):
        """Squares to channels."""
        b, h, w, c = x.shape
        s = self.side
        x = x.reshape(b, h // s, s, w // s, s, c).transpose(0, 1, 3, 2, 4, 5).reshape(b, h // s, w // s, s * s * c)
        return Point(x * params["one"])

    def normalised(self, z):
        """Times the factor."""
        return z * self.factor

    def decode(self, params, z):
        """Back."""
        b, h, w, c = z.shape
        s = self.side
        x = (z / self.factor).reshape(b, h, w, s, s, c // s**2).transpose(0, 1, 3, 2, 4, 5)
        return x.reshape(b, h * s, w * s, c // s**2) * params["one"]


def model(latents=None):
    """A caption and a picture of 8 x 8: sixteen tokens of 2 x 2 pixels."""
    streams = (Stream(Image(8, 8, 3, 2), latents=latents),)
    network = Trunk(depth=1, width=32, heads=2, remat="none")
    return Transfusion(network, Text(4), streams, 64, Documents(clean=0.4, per_row=2))


def latents(**fields):
    """Patches of as many tokens as the pixels' have."""
    side = fields.get("side", 1)
    return Latents(Stage("coder", Halving(**fields), "coder"), patch=2 // side)


PLAIN = model()
RECORDS = [
    {
        "caption": np.asarray([97 + i, 98, -1, -1]),
        "image": np.random.default_rng(i).integers(0, 256, (8, 8, 3), dtype=np.uint8),
    }
    for i in range(4)
]
STAGES = {"stages": {"coder": {"one": jnp.ones(())}}}


@pytest.fixture(scope="module")
def params():
    return stirred(PLAIN.init)


def loss_of(one, params):
    batch = jax.tree.map(jnp.asarray, one.packer.pack(RECORDS, np.arange(4, dtype=np.int32), 7, 3))
    return jax.jit(lambda p: one.losses(p, {}, batch, jax.random.key(2))[0])(params)


def test_an_identity_changes_neither_losses_nor_samples(params):
    other = model(latents())
    assert other.stages[0].name == "coder" and other.packer.content(1) == PLAIN.packer.content(1) == 16
    both = params | STAGES
    for name, (total, weight) in loss_of(PLAIN, params).items():
        found = loss_of(other, both)[name]
        np.testing.assert_allclose(found[0], total, rtol=1e-5)
        np.testing.assert_array_equal(found[1], weight)
    keys, plan = sample_keys(0, 0, 2), SamplingPlan(Euler(), steps=2)
    given = {"caption": jnp.asarray([r["caption"] for r in RECORDS[:2]])}
    wanted = PLAIN.generate(params, given, ("image",), keys, plan)["image"]
    np.testing.assert_allclose(other.generate(both, given, ("image",), keys, plan)["image"], wanted, atol=1e-5)
    back = {"image": jnp.asarray([r["image"] for r in RECORDS[:2]])}
    text = PLAIN.generate(params, back, ("caption",), keys, plan)["caption"]
    np.testing.assert_array_equal(other.generate(both, back, ("caption",), keys, plan)["caption"], text)


def test_a_span_has_a_token_for_each_patch_of_the_latent():
    """Two pixels a side become channels, so that patches of one hold what patches of two held."""
    other = model(latents(side=2, factor=0.5))
    assert other.packer.content(1) == 16 and other.streams[0].form.shape == (4, 4, 12)
    params = stirred(other.init) | STAGES
    keys, plan = sample_keys(0, 0, 2), SamplingPlan(Euler(), steps=2)
    made = other.generate(params, {}, ("image", "caption"), keys, plan)
    assert made["image"].shape == (2, 8, 8, 3)
    free = other.generate(params, {}, (), keys, plan)
    assert free["image"].shape == (2, 8, 8, 3)
    with pytest.raises(UserError, match="latents have no bounds"):
        other.generate(params, {}, ("image",), keys, dataclasses.replace(plan, clip=True))
    rows = jax.tree.map(jnp.asarray, lay_out(other, {"image": RECORDS[0]["image"][None]}))
    x0, _ = clean_inputs(other, params, rows)[0]
    np.testing.assert_allclose(x0[0, 0, 0, :3], 0.5 * (RECORDS[0]["image"][0, 0] / 127.5 - 1), atol=1e-6)
    half = model(latents(side=2, factor=0.5))
    slope = jax.grad(lambda p: sum(t.sum() for t, _ in half_loss(half, p)))(params)
    assert float(jnp.abs(slope["stages"]["coder"]["one"])) == 0


def half_loss(one, params):
    batch = jax.tree.map(jnp.asarray, one.packer.pack(RECORDS, np.arange(4, dtype=np.int32), 7, 3))
    return one.losses(params, {}, batch, jax.random.key(2))[0].values()


def test_cached_latents_are_refused():
    cached = dataclasses.replace(latents(), cached=True)
    with pytest.raises(ValueError, match="encodes its latents in every step; leave cached off for image"):
        model(cached)

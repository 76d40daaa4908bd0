"""What padding adds has no loss: terms, gradients, mirrored examples, and models that cannot leave it out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import keys_of
from tests.models.small import Small, weights
from unified_jax.modalities.audio import Audio
from unified_jax.modalities.image import Image
from unified_jax.modalities.mel import Mel
from unified_jax.models.diffusion import Diffusion
from unified_jax.models.inside import losses_inside
from unified_jax.models.streams import Stream
from unified_jax.models.transfusion import Transfusion
from unified_jax.processes.edm import Edm
from unified_jax.processes.gaussian import DiscreteGaussian
from unified_jax.processes.interpolant import Interpolant
from unified_jax.processes.targets import diffuse

PROCESSES = {
    "directions": Interpolant("x0", loss="velocity", direction_weight=1.0, data_end=1e-3),
    "score": Interpolant("score", noise_end=0.999),
    "learned variance": DiscreteGaussian(variance="learned_range"),
    "edm": Edm(),
}
BOUNDS = ((slice(2, 4), slice(1, 5)), (slice(3, 4), slice(0, 1)))


@pytest.mark.parametrize("name", PROCESSES)
def test_the_loss_is_that_of_the_part_alone_and_nothing_else_has_a_gradient(name):
    process, image = PROCESSES[name], Image(6, 5, 3, 2, fit="pad")
    rng = np.random.default_rng(0)
    channels = (3, 3, 3 * process.channels_per_output)
    x0, eps, output = (jnp.asarray(rng.uniform(-1, 1, (2, 6, 5, c)), jnp.float32) for c in channels)
    inside = np.asarray(image.inside(jnp.asarray([[(s.start, s.stop) for s in part] for part in BOUNDS])))
    assert inside.sum((1, 2, 3)).tolist() == [8, 1] and inside[0, 2:4, 1:5].all() and inside[1, 3, 0].all()

    t = process.draw_times(keys_of(2, 1))

    @jax.jit
    def both(output):
        arrays = (output, x0, eps, diffuse(process, x0, eps, t))
        found = losses_inside(process, *arrays, t, jnp.asarray(inside))
        alone = [process.losses(*(a[i, *part][None] for a in arrays), t[i : i + 1]) for i, part in enumerate(BOUNDS)]
        return sum(v.sum() for v in found.values()), (found, alone)

    slope, (found, alone) = jax.grad(both, has_aux=True)(output)
    for term, values in found.items():
        np.testing.assert_allclose(values, [one[term][0] for one in alone], rtol=5e-6)
    within = np.broadcast_to(inside, slope.shape)
    assert np.isfinite(slope).all() and not np.asarray(slope)[~within].any()
    assert (np.asarray(slope)[within] != 0).mean() > 0.9


def test_a_padded_batch_trains_inside_only():
    """Through a model: what lies outside changes the loss no more once the network cannot see it, also mirrored."""
    image = Image(8, 8, 1, 4, fit="pad")
    model = Diffusion(Small(), modality=image, flip=True)
    params = jax.tree.map(jnp.zeros_like, weights(model))  # it answers 0 whatever it sees
    rng = np.random.default_rng(0)
    made = [image.prepare(rng.integers(0, 256, (8, 3, 1), np.uint8)) for _ in range(4)]
    batch = {name: np.stack([one[name] for one in made]) for name in made[0]} | {"slot": np.arange(4, dtype=np.int32)}
    assert (batch["image.inside"] == [[0, 8], [2, 5]]).all()
    loss = jax.jit(lambda b: model.losses(params, {}, b, jax.random.key(1))[0]["mse"][0])
    spoilt = batch["image"].copy()
    spoilt[:, :, :2] = spoilt[:, :, 5:] = 255
    np.testing.assert_array_equal(loss(batch), loss(batch | {"image": spoilt}))
    other = batch["image"] ^ (np.arange(8) == 4)[:, None].astype(np.uint8) * 128
    assert (np.asarray(loss(batch)) != np.asarray(loss(batch | {"image": other}))).all()


def test_frames_of_silence_that_was_added_are_outside():
    audio = Audio(1000, Mel(rate=8000, n_fft=256, hop=100, mels=8), fit="pad")
    made = audio.prepare(np.full(420, 0.5, np.float32))
    assert made["audio.inside"].tolist() == [[0, 420]] and not made["audio"][420:].any()
    inside = np.asarray(audio.inside(jnp.asarray([[(0, 420)], [(0, 1000)], [(0, 3)]], np.int32)))
    assert inside.shape == (3, 11, 8, 1)
    assert inside[..., 0, 0].sum(1).tolist() == [audio.mel.frames(420), 11, 1]


def test_a_model_of_packed_spans_refuses_padding():
    with pytest.raises(ValueError, match="another fit than 'pad' for image"):
        Transfusion(streams=(Stream(Image(8, 8, 3, 4, fit="pad")),))

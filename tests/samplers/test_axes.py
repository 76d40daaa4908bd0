"""Several directions of guidance, against their formula e_0 + sum s_k (e_k - e_{k-1}) on denoisers that are linear."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unified_jax.errors import UserError
from unified_jax.processes.interpolant import RectifiedFlow
from unified_jax.samplers.guidance import Axis, Guidance, guided

FLOW = RectifiedFlow()
PROCESS = {"image": FLOW, "audio": FLOW}
NAMES = ("text", "picture", "label")
WEIGHT = {"text": 0.7, "picture": -0.4, "label": 0.2}
T = {"image": jnp.asarray([0.2, 0.5, 0.9]), "audio": jnp.asarray([0.6, 0.6, 0.6])}
X = {n: jax.random.normal(jax.random.key(i), (3, 2, 2, 3)) for i, n in enumerate(PROCESS)}
OFFSET = jax.random.normal(jax.random.key(7), (2, 2, 3))


def velocity(name, dropped):
    """What the network of a stream answers without these conditions: every condition adds a share of its own."""
    shown = [n for n in NAMES if n not in dropped]
    slope = 0.3 + sum(WEIGHT[n] for n in shown) + 0.5 * ("text" in shown) * ("picture" in shown)
    return (1 + slope) * X[name] + slope**2 * OFFSET


def denoisers(dropped):
    return lambda x, t: {n: FLOW.predict(velocity(n, dropped), x[n], t[n]) for n in PROCESS}


def found(*axes, **fields):
    return guided(denoisers, NAMES, PROCESS, Guidance(axes=axes, **fields))(X, T)


def check(prediction, name, expected):
    """The prediction is that of a velocity."""
    expected = FLOW.predict(expected, X[name], T[name])
    np.testing.assert_allclose(prediction[name].x0, expected.x0, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(prediction[name].eps, expected.eps, rtol=1e-4, atol=1e-5)


def nested(name, scales, steps=((), ("picture",), ("text", "picture"))):
    """The formula, spelled out; a scale is a number or one an example."""
    e = [velocity(name, {n for n in ("picture", "text") if n not in shown}) for shown in steps]
    scales = [jnp.broadcast_to(jnp.asarray(s, jnp.float32), (3,))[:, None, None, None] for s in scales]
    return e[0] + sum(s * (after - before) for s, before, after in zip(scales, e, e[1:], strict=False))


PICTURE, TEXT = Axis(("picture",), 1.6), Axis(("text",), 7.5)


def test_axes_are_nested_in_their_order():
    said = found(PICTURE, TEXT)
    for name in PROCESS:
        check(said, name, nested(name, (1.6, 7.5)))
    turned = found(TEXT, PICTURE)
    check(turned, "image", nested("image", (7.5, 1.6), ((), ("text",), ("text", "picture"))))
    assert not np.allclose(said["image"].x0, turned["image"].x0, atol=0.1)


def test_scales_of_one_are_no_guidance():
    check(found(Axis(("picture",)), Axis(("text",))), "image", velocity("image", ()))


def test_one_axis_over_everything_is_classifier_free_guidance():
    one = guided(denoisers, NAMES, PROCESS, Guidance(3.0, rescale=0.4, channels=2))(X, T)
    axis = found(Axis(NAMES, 3.0), rescale=0.4, channels=2)
    for name in PROCESS:
        np.testing.assert_allclose(axis[name].x0, one[name].x0, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(axis[name].eps, one[name].eps, rtol=1e-4, atol=1e-5)


def test_an_axis_guides_the_outputs_that_it_names():
    said = found(Axis(("picture",), 1.6, of=("audio",)), TEXT)
    check(said, "image", nested("image", (1.0, 7.5)))
    check(said, "audio", nested("audio", (1.6, 7.5)))


def test_each_axis_has_its_interval():
    said = found(Axis(("picture",), 1.6, low=0.3), Axis(("text",), 7.5, high=0.5))
    check(said, "image", nested("image", ([1.0, 1.6, 1.6], [7.5, 7.5, 1.0])))  # (low, high]
    check(said, "audio", nested("audio", (1.6, 1.0)))


def test_the_first_channels_are_guided():
    said = found(PICTURE, TEXT, channels=2)
    guided_, full = nested("image", (1.6, 7.5)), velocity("image", ())
    check(said, "image", jnp.concatenate([guided_[..., :2], full[..., 2:]], axis=-1))


def test_the_deviation_is_that_of_everything_shown():
    said = found(PICTURE, TEXT, rescale=1.0)["image"]
    full = FLOW.predict(velocity("image", ()), X["image"], T["image"])
    np.testing.assert_allclose(said.x0.std((1, 2, 3)), full.x0.std((1, 2, 3)), rtol=1e-3)
    t = T["image"][:, None, None, None]
    np.testing.assert_allclose((1 - t) * said.x0 + t * said.eps, X["image"], atol=1e-4)


@pytest.mark.parametrize(
    ("axis", "word"),
    [
        (Axis(("caption",), 2.0), "caption"),
        (Axis(("text",), 2.0, of=("video",)), "video"),
        (Axis(("image",), 2.0), "image"),  # it is sampled: there is nothing to leave out
        (Axis(("text",), 2.0, of=("picture",)), "picture"),  # it is a condition: there is nothing to guide
    ],
)
def test_names_that_mean_nothing_are_a_sentence(axis, word):
    with pytest.raises(UserError, match=f"axis names '{word}'; what may be left out is text, picture, label, what is"):
        found(axis)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Axis(()), "needs names to leave out"),
        (lambda: Axis(("text",), -1.0), "needs names to leave out, scale >= 0"),
        (lambda: Axis(("text",), low=0.6, high=0.5), "0 <= low <= high <= 1"),
        (lambda: Guidance(2.0, axes=(TEXT,)), "either one scale"),
        (lambda: Guidance(low=0.3, axes=(TEXT,)), "either one scale"),
        (lambda: Guidance(axes=(TEXT, Axis(("picture", "text")))), "text is in two"),
    ],
)
def test_axes_that_cannot_be_are_a_sentence(make, words):
    with pytest.raises(ValueError, match=words):
        make()

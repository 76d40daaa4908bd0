"""The probes of a Transfusion model from the command line, on a run; and what they refuse."""

import json

import numpy as np
import pytest
from PIL import Image as Pillow

from tests.helpers import EXPERIMENT, experiment, stirred
from unified_jax.cli import probe
from unified_jax.cli.entry import run_command
from unified_jax.data.packing import Documents
from unified_jax.data.world import World
from unified_jax.modalities.audio import Audio
from unified_jax.modalities.image import Image
from unified_jax.modalities.label import Label
from unified_jax.modalities.text import Text
from unified_jax.models.transfusion import Stream, Transfusion
from unified_jax.networks.transfusion import Trunk
from unified_jax.runs.adapters import write_run
from unified_jax.samplers.plan import SamplingPlan
from unified_jax.training.experiment import Previews

pytestmark = pytest.mark.usefixtures("one_device")

SMALL = experiment(
    model=Transfusion(
        Trunk(depth=2, width=32, heads=2, remat="none"), Text(112),
        (Stream(Image(16, 16, 3, 8)), Stream(Audio(patch=(11, 16)))), 200, Documents(),
        written=(Label("label", 48),),
    ),
    data=World(resolution=16, max_objects=1),
    preview=Previews(plan=SamplingPlan(steps=2)),
)  # fmt: skip
CAPTION = ("--given.caption", "a large red circle at the top left")


def ends(main, *arguments):
    """Exit code of a command run in this process."""
    return run_command(main, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("probes") / "run"
    write_run(folder, SMALL, stirred(SMALL.model.init), {})
    return folder


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    folder = tmp_path_factory.mktemp("other") / "run"
    write_run(folder, EXPERIMENT, stirred(EXPERIMENT.model.init), {})
    return folder


@pytest.mark.slow
def test_attention_is_drawn(run):
    """The film, three of its frames, the masses by item; then one pair of items of another document."""
    assert ends(probe.main, "attention", "--run", run, *CAPTION, "--wanted", "image", "--steps", "3") == 0
    folder = run / "probes"
    with Pillow.open(folder / "attention_image.gif") as film:
        assert film.n_frames == 3
        assert film.size[0] > 2 * 120
    for name in ("attention_image_step_000.png", "attention_image_step_002.png", "attention_image_masses_step_001.png"):
        assert (folder / name).exists(), name
    found = json.loads((folder / "attention_image.json").read_text())
    assert found["items"] == ["marks", "caption", "image"]
    assert found["tokens"] == [6, len(CAPTION[1]), 4]
    masses = np.asarray(found["mass"])
    assert masses.shape == (3, 2, 2, 3, 3)
    np.testing.assert_allclose(masses.sum(-1), 1.0, atol=1e-3)
    assert (masses[..., 1, 2] == 0).all()
    assert {"commit", "config_hash", "versions", "given", "even"} <= set(found)
    arguments = ("--wanted", "audio", "--steps", "1", "--pair", "audio", "caption")
    assert ends(probe.main, "attention", "--run", run, *CAPTION, "--given.label", "3", *arguments) == 0
    assert (folder / "attention_audio_from_audio_to_caption_step_000.png").exists()
    assert json.loads((folder / "attention_audio.json").read_text())["items"] == ["marks", "caption", "label", "audio"]


@pytest.mark.slow
def test_similarity_is_measured(run, capsys):
    flags = ("--examples", "24", "--batch", "16", "--shuffles", "6")
    assert ends(probe.main, "similarity", "--run", run, *flags) == 0
    out = capsys.readouterr().out
    assert "caption - image" in out and "image - audio" in out and "scenes shuffled" in out
    found = json.loads((run / "probes" / "similarity.json").read_text())
    assert found["modalities"] == ["caption", "label", "image", "audio"]
    for name in ("cka", "untrained", "biased", "shuffled_mean", "shuffled_low", "shuffled_high"):
        assert np.shape(found[name]) == (3, 4, 4), name
    np.testing.assert_allclose(np.diagonal(np.asarray(found["cka"], float), axis1=1, axis2=2), 1.0, atol=1e-4)
    apart = np.asarray(found["shuffled_mean"], float)[:, *np.triu_indices(4, 1)]
    assert np.abs(apart).max() < 0.3
    assert found["examples"] == 24 and "config_hash" in found
    with Pillow.open(run / "probes" / "similarity.png") as figure:
        assert figure.size[0] > 800


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("attention",), "Give a condition: --given.NAME VALUE with one of caption, label, image, audio"),
        (("attention", *CAPTION, "--wanted", "smell"), "--wanted smell: this model has caption, label, image, audio."),
        (("attention", *CAPTION, "--wanted", "label"), "is written token by token, not denoised"),
        (("attention", *CAPTION, "--given.image", "@x.png", "--wanted", "image"), "--wanted image is given"),
        (("attention", *CAPTION, "--given.image", "@x.png", "--given.audio", "@x.wav"), "Nothing is left to sample"),
        (
            ("attention", *CAPTION, "--pair", "image", "audio"),
            "--pair names audio; this document holds caption, image.",
        ),
        (("attention", *CAPTION, "--query", "0", "0"), "--query is for Diffusion models"),
        (
            ("attention", "--given.smell", "x"),
            "--given.smell: this model is conditioned on caption, label, image, audio",
        ),
        (("attention", *CAPTION, "--steps", "0"), "needs at least one step"),
        (("loss",), "This probe is for class-conditional models (Diffusion), not for Transfusion."),
        (("similarity", "--examples", "3"), "needs at least 8 examples"),
        (("similarity", "--split", "nowhere"), "has no split 'nowhere'"),
        (("similarity", *CAPTION), "--given belongs to the probe of attention"),
    ],
)
def test_mistakes(run, arguments, words, capsys):
    assert ends(probe.main, arguments[0], "--run", run, *arguments[1:]) == 2
    error = capsys.readouterr().err
    assert words in error and "Traceback" not in error


def test_a_diffusion_run_is_told_what_it_is_not(other, capsys):
    for arguments, words in (
        (("similarity",), "This probe is for models of many modalities (Transfusion), not for Diffusion."),
        (("attention", "--wanted", "image"), "--wanted and --pair are for models of many modalities"),
        (("attention", "--pair", "image", "shape"), "--wanted and --pair are for models of many modalities"),
    ):
        assert ends(probe.main, arguments[0], "--run", other, *arguments[1:]) == 2
        assert words in capsys.readouterr().err

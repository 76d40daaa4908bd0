"""A small Transfusion model from the command line: trained, killed and resumed, sampled, evaluated."""

import dataclasses
import functools
import json

import numpy as np
import pytest
from PIL import Image as Pillow

from unified_jax.cli import evaluate, sample, train
from unified_jax.cli.entry import run_command
from unified_jax.runs import bench, loop
from unified_jax.training.experiment import Previews, Validation
from unified_jax.training.program import assemble

pytestmark = pytest.mark.usefixtures("one_device")

RECIPE = """
from unified_jax.data.packing import Documents
from unified_jax.data.world import World
from unified_jax.modalities.audio import Audio
from unified_jax.modalities.image import Image
from unified_jax.modalities.text import Text
from unified_jax.samplers.plan import SamplingPlan
from unified_jax.models.transfusion import Stream, Transfusion
from unified_jax.networks.transfusion import Trunk
from unified_jax.training.experiment import Checkpointing
from unified_jax.training.experiment import Experiment, Previews, Validation


def experiment():
    return Experiment(
        model=Transfusion(
            Trunk(depth=1, width=32, heads=2, remat="none"), Text(112),
            (Stream(Image(16, 16, 3, 8)), Stream(Audio(patch=(11, 16)))), 300,
            Documents(per_row=2),
        ),
        data=World(resolution=16, max_objects=1),
        steps=4,
        batch_size=16,
        log_every=1,
        checkpoint=Checkpointing(every=2),
        preview=Previews(every=4, count=2, plan=SamplingPlan(steps=1)),
        validation=Validation(every=4, batches=1),
    )
"""


def ends(main, *arguments):
    """Exit code of a command run in this process."""
    return run_command(main, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def one_program():
    """The runs of this file, which differ in their last step and their reports alone, share one traced step."""
    kept = functools.cache(assemble)

    def shared(experiment, mesh):
        return kept(dataclasses.replace(experiment, steps=4, preview=Previews(), validation=Validation()), mesh)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "assemble", shared)
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory, one_program):
    folder = tmp_path_factory.mktemp("transfusion")
    (folder / "small.py").write_text(RECIPE)
    assert ends(train.main, folder / "small.py", "--run-dir", folder / "run") == 0
    return folder


def test_a_stopped_run_goes_on_as_the_same_run(trained):
    lines = [json.loads(line) for line in (trained / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {"loss/text", "loss/image", "loss/audio", "tokens/used"} <= set(lines[0])
    assert lines[0]["examples"][:2] == [0, 15]
    assert (trained / "run" / "previews" / "step_0000004.png").exists()
    half = trained / "half"
    quiet = ("--preview.every", "0", "--validation.every", "0")
    assert ends(train.main, trained / "small.py", "--run-dir", half, *quiet, "--steps", "2") == 0
    assert ends(train.main, trained / "small.py", "--run-dir", half, *quiet) == 0
    again = [json.loads(line) for line in (half / "metrics.jsonl").read_text().splitlines()]

    def plain(found):
        return [{k: v for k, v in line.items() if not k.startswith("time/")} for line in found if "loss" in line]

    assert plain(again) == plain(lines)


def test_a_step_is_replayed_row_by_row(trained, capsys):
    assert ends(train.main, trained / "small.py", "--run-dir", trained / "run", "--replay", "3") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("step 3: loss")
    assert sorted(int(line.split()[1]) for line in lines[1:]) == list(range(0, 16, 2))


def test_samples_of_any_modality_from_any(trained, tmp_path):
    common = ("--run", trained / "run", "--count", "2", "--steps", "1")
    caption = "a small red circle at the top left"
    assert (
        ends(sample.main, *common, "--given.caption", caption, "--out", tmp_path / "a", "--formats", "sheet,files,npz")
        == 0
    )
    for name in ("images/000001.png", "audios/000000.wav", "audios/000000.png", "sheet.png"):
        assert (tmp_path / "a" / name).exists(), name
    arrays = np.load(tmp_path / "a" / "samples.npz")
    assert arrays["image"].shape == (2, 16, 16, 3)
    assert arrays["audio"].shape == (2, 8000)
    assert json.loads((tmp_path / "a" / "request.json").read_text())["given"] == {"caption": caption}
    given = ("--given.image", f"@{tmp_path}/a/images/000000.png", "--given.audio", f"@{tmp_path}/a/audios/000000.wav")
    assert ends(sample.main, *common, *given, "--generate", "caption", "--out", tmp_path / "b") == 0
    assert (tmp_path / "b" / "captions" / "000001.txt").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--given.smell", "x"), "this model is conditioned on caption, image, audio"),
        (("--given.image", "cat"), "--given.image takes a file: --given.image @PATH"),
        (("--given.image", "@nowhere.png"), "no such file"),
        (("--given.caption", "a", "--generate", "caption"), "both given and to be generated"),
        (("--generate", "smell"), "--generate 'smell' is unknown"),
        (("--generate", "image,image"), "at most once"),
        (("--given.caption", "x" * 200), "at most 112 tokens, found 200"),
        (("--given.caption", "   "), "empty"),
        (("--temperature", "-1"), "temperature >= 0"),
        (("--sampler", "ddpm"), "needs a discrete process"),
        (("--through", "captoin"), "The plan goes through 'captoin'; the model has caption, image, audio"),
        (("--through", "caption", "caption"), "through names 'caption' twice"),
        (("--given.caption", "b", "--generate", "free", "--negative.caption", "a"), "found 'negative.caption'"),
    ],
)
def test_mistakes(trained, flags, words, capsys):
    assert ends(sample.main, "--run", trained / "run", "--count", "1", *flags) == 2
    assert words in capsys.readouterr().err


def test_a_picture_of_other_proportions_is_refused(trained, tmp_path, capsys):
    Pillow.new("RGB", (40, 20)).save(tmp_path / "wide.png")
    assert ends(sample.main, "--run", trained / "run", "--given.image", f"@{tmp_path}/wide.png") == 2
    assert "expected the proportions 16 : 16, found 40 x 20 pixels" in capsys.readouterr().err


def test_the_matrix(trained, capsys, monkeypatch):
    """What is asked of the model, for every request; its answers here are blank, and scored as such."""
    asked = []

    def generate(model, params, given, wanted, count, seed, plan, *others):
        asked.append((tuple(given), wanted, plan.guidance.scale))
        fields = {m.name: m for m in model.modalities}
        for name, rows in given.items():
            assert rows.shape == (count, *fields[name].blank().shape)
        blank = {"caption": np.full((count, 112), 32), "image": np.zeros((count, 16, 16, 3), np.float32)}
        blank["audio"] = np.zeros((count, *fields["audio"].shape), np.float32)
        return {name: blank[name] for name in wanted}

    monkeypatch.setattr(bench, "generate_many", generate)
    flags = ("--count", "4", "--steps", "1", "--splits", "test", "--guidance", "1.5")
    assert ends(evaluate.main, "--run", trained / "run", *flags) == 0
    names = ("caption", "image", "audio")
    others = {(tuple(n for n in names if n != one), (one,), 1.5) for one in names}
    pairs = {((a,), (b,), 1.5) for a in names for b in names if a != b}
    assert set(asked) == pairs | others | {((), names, 1.5)}
    out = capsys.readouterr().out
    assert "made together, readers agree" in out
    rows = json.loads((trained / "run" / "evaluation.json").read_text())["rows"]
    assert len(rows) == 3 * 2 + 3 + 3 * 2 // 2 + 1  # pairs, all others, agreement of every two, of all
    assert {"given", "wanted", "split", "metric", "value", "low", "high", "chance", "n"} <= set(rows[0])
    assert {row["value"] for row in rows} == {0.0}
    assert (trained / "run" / "matrix_test.png").exists()

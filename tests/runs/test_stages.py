"""Stages: frozen models beside a network, copied at a run's start, found again by checksum, never trained."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import EXPERIMENT, TINY
from tests.plain import Plain
from unified_jax.api.run import load
from unified_jax.cli.probing.noise import NoiseCommand, noise
from unified_jax.cli.probing.opened import open_for_probe
from unified_jax.errors import UserError
from unified_jax.interop import files
from unified_jax.interop.names import flatten
from unified_jax.modalities.label import Label
from unified_jax.modalities.text import Text
from unified_jax.models.base import Declared
from unified_jax.models.diffusion import Diffusion
from unified_jax.models.stages import Stage, own
from unified_jax.models.streams import Condition
from unified_jax.models.text_classifier import TextClassifier
from unified_jax.models.text_encoder import TextEncoder
from unified_jax.models.tuned import Tuning
from unified_jax.networks.bert import Bert
from unified_jax.networks.dit import DiT
from unified_jax.runs.adapters import export_adapter, import_adapter
from unified_jax.runs.directory import load_experiment
from unified_jax.runs.loop import train
from unified_jax.runs.opened import open_run
from unified_jax.runs.stages import stage
from unified_jax.runs.start import Start
from unified_jax.training.experiment import Previews, Validation

pytestmark = pytest.mark.usefixtures("one_device")
TEXT = Text(16, too_long="crop")
BERT = Bert(vocabulary=256, length=16, width=8, depth=1, heads=2, hidden=8)
ENCODER = TextClassifier(TextEncoder(BERT, TEXT), (Label("shape", 6),))
SMALL = dataclasses.replace(TINY, steps=2, preview=Previews(every=0), validation=Validation())


@dataclasses.dataclass(frozen=True)
class Anchored(Declared):
    """A model whose parameters are also drawn to those that the run starts from."""

    model: Diffusion
    anchor: Stage

    @property
    def modalities(self):
        """See `Model`."""
        return self.model.modalities

    @property
    def stages(self):
        """What it is drawn to."""
        return (self.anchor,)

    def init(self, key):
        """See `Model`."""
        return self.model.init(key)

    def axes(self):
        """See `Model`."""
        return self.model.axes()

    def losses(self, params, aux, batch, key):
        """The model's, and the squared distance."""
        terms, statistics, metrics = self.model.losses(params, aux, batch, key)
        apart = jax.tree.map(lambda a, b: jnp.sum((a - b) ** 2), own(params), params["stages"]["start"])
        ones = jnp.ones(len(batch["slot"]))
        return terms | {"distance": (sum(jax.tree.leaves(apart)) * ones, ones)}, statistics, metrics


def drawn_from(stages, **changes):
    """Pictures from texts: one condition for the tokens of the first stage, one for the vector of the last."""
    first, last = stages[0], stages[-1]
    model = dataclasses.replace(
        TINY.model,
        network=Plain(),
        conditions=(Condition(TEXT, encoder=first), Condition(TEXT, "vector", encoder=last, part="pooled")),
    )
    return dataclasses.replace(SMALL, model=model, **changes)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "encoder"
    train(dataclasses.replace(SMALL, model=ENCODER), Start(run, quiet=True))
    return run


@pytest.fixture(scope="module")
def drawer(encoder, tmp_path_factory):
    """A run with two equal stages."""
    run = tmp_path_factory.mktemp("runs") / "drawer"
    stages = stage("text", encoder), dataclasses.replace(stage("text", encoder), name="again")
    train(drawn_from(stages), Start(run, quiet=True))
    return run


def test_a_stage_is_the_ema_of_its_source_and_two_equal_ones_are_one(encoder, drawer):
    source, whole = open_run(encoder)[1], open_run(drawer)[1]
    jax.tree.map(np.testing.assert_array_equal, whole["stages"]["text"], source)
    pairs = zip(*(jax.tree.leaves(whole["stages"][name]) for name in ("text", "again")), strict=True)
    assert all(one is other for one, other in pairs)
    assert [path.name for path in (drawer / "stages").glob("*.safetensors")] == ["text.safetensors"]
    state = json.loads((drawer / "config.json").read_text())
    assert state["model"]["conditions"][0]["encoder"]["name"] == "text"


def test_a_run_opens_and_goes_on_without_the_source_and_a_changed_byte_is_seen(encoder, drawer, tmp_path):
    run, source = tmp_path / "drawer", tmp_path / "encoder"
    shutil.copytree(drawer, run)
    shutil.copytree(encoder, source)
    before = open_run(run)[1]
    stages = stage("text", source), dataclasses.replace(stage("text", source), name="again")
    shutil.rmtree(source)
    train(dataclasses.replace(drawn_from(stages, steps=3), optimizer=SMALL.optimizer), Start(run, quiet=True))
    after = open_run(run)[1]
    jax.tree.map(np.testing.assert_array_equal, after["stages"], before["stages"])
    assert not np.array_equal(after["final"]["kernel"], before["final"]["kernel"])
    held = run / "stages/text.safetensors"
    data = bytearray(held.read_bytes())
    data[-3] ^= 64
    held.write_bytes(bytes(data))
    with pytest.raises(UserError, match=r"does not hold the stage 'text' that this run began with"):
        open_run(run)
    assert load(run, stages={"text": encoder, "again": encoder}).step == 3
    held.unlink()
    with pytest.raises(UserError, match=r"say where it is with --stage text=PATH"):
        open_run(run)
    with pytest.raises(UserError, match=r"--stage other: this run has the stages text, again"):
        load(run, stages={"other": encoder})


def test_probes_find_a_stage_that_moved(encoder, drawer, tmp_path):
    run = tmp_path / "drawer"
    shutil.copytree(drawer, run)
    (run / "stages/text.safetensors").unlink()
    with pytest.raises(UserError, match=r"with --stage text=PATH"):
        noise(NoiseCommand(str(run)))
    places = (f"text={encoder}", f"again={encoder}")
    params = open_for_probe(str(run), stage=places)[1]
    jax.tree.map(np.testing.assert_array_equal, params["stages"], open_run(drawer)[1]["stages"])


def test_what_does_not_fit_is_refused_before_a_step(encoder, tmp_path):
    missing = Stage("text", ENCODER, str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"comes from '.*nowhere', which is neither a run nor a file"):
        train(drawn_from((missing,)), Start(tmp_path / "a", quiet=True))
    wide = dataclasses.replace(ENCODER, encoder=TextEncoder(dataclasses.replace(BERT, hidden=12), TEXT))
    with pytest.raises(
        UserError, match=r"The stage 'text' from 'encoder'.*fc1/kernel found \[1, 8, 8\] expected \[1, 8, 12\]"
    ):
        train(drawn_from((Stage("text", wide, str(encoder)),)), Start(tmp_path / "b", quiet=True))
    with pytest.raises(ValueError, match=r"two stages called 'text'"):
        drawn_from((Stage("text", wide, str(encoder)), Stage("text", ENCODER, str(encoder))))
    with pytest.raises(ValueError, match=r"The stage 'text' encodes nothing: .* lacks condition_form, encode"):
        drawn_from((Stage("text", EXPERIMENT.model, str(encoder)),))
    with pytest.raises(ValueError, match=r"takes conditions of kind label; the condition 'caption' is a tokens"):
        cross = dataclasses.replace(EXPERIMENT.model, network=DiT(depth=1, width=16, heads=2, conditioning="cross"))
        dataclasses.replace(cross, conditions=(Condition(TEXT, encoder=stage("text", encoder)),))


def test_a_reference_is_found_again_by_its_checksum(encoder, tmp_path):
    weights, run = tmp_path / "weights.safetensors", tmp_path / "run"
    files.write(weights, flatten(jax.device_get(open_run(encoder)[1])), {})
    referred = Stage("text", ENCODER, str(weights), dtype="bfloat16", keep="reference")
    train(drawn_from((referred,)), Start(run, quiet=True))
    assert not list((run / "stages").glob("*.safetensors"))
    held = open_run(run)[1]["stages"]["text"]
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(held)} == {"bfloat16"}
    moved = weights.rename(tmp_path / "moved.safetensors")
    with pytest.raises(UserError, match=r"is not at '.*weights.safetensors'; say where it is"):
        open_run(run)
    found = load(run, stages={"text": moved}).params["stages"]["text"]
    jax.tree.map(np.testing.assert_array_equal, found, held)


@pytest.fixture(scope="module")
def tuned(drawer, tmp_path_factory):
    """A run with low-rank updates of what reads the tokens."""
    run = tmp_path_factory.mktemp("runs") / "tuned"
    train(low_rank(drawer), Start(run, init_from=drawer, quiet=True))
    return run


def low_rank(drawer, **changes):
    """The drawer's experiment with low-rank updates."""
    before = load_experiment(drawer)
    tuning = Tuning(train=(), lora=("tokens_0/.*",), rank=2)
    return dataclasses.replace(before, tuning=tuning, **changes)


def test_updates_of_low_rank_are_beside_stages(drawer, tuned, tmp_path):
    whole, base = open_run(tuned)[1], open_run(drawer)[1]
    jax.tree.map(np.testing.assert_array_equal, whole["stages"], base["stages"])
    moved = {path for path, leaf in flatten(whole).items() if not np.array_equal(leaf, flatten(base)[path])}
    assert moved and all(path.startswith("tokens_0/") for path in moved)
    run = tmp_path / "longer"
    shutil.copytree(tuned, run)
    train(low_rank(drawer, steps=3), Start(run, quiet=True))
    assert load(run).step == 3
    wrong = dataclasses.replace(load_experiment(drawer), tuning=Tuning(train=(), lora=("stages/text",)))
    with pytest.raises(UserError, match="leave patterns that begin with stages/ out"):
        train(wrong, Start(tmp_path / "b", init_from=drawer, quiet=True))


def test_an_adapter_brings_its_stages_from_its_base(drawer, tuned, tmp_path):
    file, again = tmp_path / "adapter.safetensors", tmp_path / "again"
    export_adapter(tuned, file, "0", False)
    import_adapter(file, drawer, again, True)  # the network is the tests' own
    jax.tree.map(np.testing.assert_array_equal, open_run(again, trust=True)[1], open_run(tuned)[1])


def test_a_run_may_hold_what_it_started_from(tmp_path):
    model = Anchored(TINY.model, Stage("start"))
    run = tmp_path / "run"
    train(dataclasses.replace(SMALL, model=model), Start(run, quiet=True))
    held, fresh = open_run(run)[1], jax.jit(model.init)(jax.random.key(SMALL.seed))
    started = {path: np.asarray(leaf) for path, leaf in flatten(held["stages"]["start"]).items()}
    assert set(started) == set(flatten(fresh))
    assert not np.array_equal(started["final/kernel"], held["final"]["kernel"])
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    distances = [line["loss/distance"] for line in lines if "loss/distance" in line]
    assert distances[0] == 0 and distances[-1] > 0


def test_a_source_behind_a_symbolic_link_is_held_by_its_content(encoder, tmp_path):
    """As the caches of public models lie: the link is relative to its own folder."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    files.write(tmp_path / "blobs" / "a.safetensors", flatten(jax.device_get(open_run(encoder)[1])), {})
    link = tmp_path / "snapshot" / "model.safetensors"
    link.symlink_to("../blobs/a.safetensors")
    train(drawn_from((Stage("text", ENCODER, str(link)),)), Start(tmp_path / "run", quiet=True))
    shutil.rmtree(tmp_path / "blobs")
    assert not (tmp_path / "run" / "stages" / "text.safetensors").is_symlink()
    assert open_run(tmp_path / "run")[1]["stages"]["text"]


def test_a_run_that_starts_from_another_finds_its_moved_stage(encoder, tmp_path):
    weights, run = tmp_path / "weights.safetensors", tmp_path / "run"
    files.write(weights, flatten(jax.device_get(open_run(encoder)[1])), {})
    train(drawn_from((Stage("text", ENCODER, str(weights), keep="reference"),)), Start(run, quiet=True))
    moved = weights.rename(tmp_path / "moved.safetensors")
    with pytest.raises(UserError, match="say where it is"):
        train(low_rank(run), Start(tmp_path / "lost", init_from=run, quiet=True))
    train(low_rank(run), Start(tmp_path / "tuned", init_from=run, quiet=True, places={"text": moved}))
    assert load(tmp_path / "tuned", stages={"text": moved}).step == 2


def test_files_of_others_among_a_runs_stages_stay(encoder, tmp_path):
    kept, weights = tmp_path / "run" / "stages", tmp_path / "run" / "stages" / "mine.safetensors"
    kept.mkdir(parents=True)
    (kept / "notes.txt").write_text("mine")
    files.write(weights, flatten(jax.device_get(open_run(encoder)[1])), {})
    with pytest.raises(UserError, match="in the folder where the run keeps its stages"):
        train(drawn_from((Stage("text", ENCODER, str(weights)),)), Start(tmp_path / "run", quiet=True))
    train(drawn_from((stage("text", encoder),)), Start(tmp_path / "run", quiet=True))
    assert {path.name for path in kept.iterdir()} == {
        "notes.txt", "mine.safetensors", "text.safetensors", "stages.json",
    }  # fmt: skip

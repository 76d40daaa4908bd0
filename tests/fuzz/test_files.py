"""Broken files: goldens, configurations, pictures and metrics end in a sentence. See cases.py for running more."""

import io
import json
import sys

import numpy as np
import pytest
from hypothesis import given, strategies as st
from PIL import Image as Pillow
from safetensors.numpy import save

from tests.fuzz.cases import cases, complaint, damaged, mutated
from tests.helpers import EXPERIMENT
from unified_jax.certify.files import Row, certify, certify_file
from unified_jax.config import from_plain, to_plain
from unified_jax.data.tfds import TfdsSource, decoded
from unified_jax.errors import UserError
from unified_jax.runs.directory import load_experiment
from unified_jax.runs.metrics import cut_lines, read_lines
from unified_jax.runs.resume import check_same_run

VERDICTS = ("pass", "fail", "uncovered", "reference error")
BETAS = np.linspace(1e-4, 0.02, 50)
TENSORS = {"out/beta.linear": BETAS, "out/space.10.5": np.asarray([0, 2, 4, 7, 9]), "out/named.linear.50": 20 * BETAS}
GOLDEN = {"family": "beta_schedules", "cfg": {"b0": 1e-4, "b1": 0.02, "n": [50], "space": [[10, [5]], [10, "5"]]}}
CONFIG = to_plain(EXPERIMENT)
LINES = b"".join(
    json.dumps({"step": i, "loss": 1 / i, "examples": [8 * i, 8 * i + 7, 5]}).encode() + b"\n" for i in range(1, 9)
)


def golden(meta: object) -> bytes:
    return save(TENSORS, metadata={"golden": json.dumps(meta)})


def fine(path) -> bool:
    """Rows with a verdict, or a sentence."""
    rows: list[Row] = []
    said = complaint(lambda: rows.extend(certify_file(path, {})))
    if said:
        return "is not a golden file" in said
    return all(isinstance(row, Row) and row.verdict.startswith(VERDICTS) for row in rows)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


def test_the_golden_that_is_broken_below_is_good(scratch):
    (scratch / "whole.safetensors").write_bytes(golden(GOLDEN))
    verdicts = {row.output: row.verdict for row in certify(scratch, "whole")}
    assert verdicts["beta.linear"] == "pass"
    assert "fail: could not" not in "".join(verdicts.values())


@cases(270)
@given(content=damaged(golden(GOLDEN)))
def test_goldens_with_broken_bytes(scratch, content):
    (scratch / "bytes.safetensors").write_bytes(content)
    assert fine(scratch / "bytes.safetensors")


@cases(270)
@given(meta=mutated(GOLDEN))
def test_goldens_with_broken_metadata(scratch, meta):
    (scratch / "meta.safetensors").write_bytes(golden(meta))
    assert fine(scratch / "meta.safetensors")


@cases(170)
@given(
    content=damaged(json.dumps({"bytes": {"outputs": {"out/beta.linear": {"f32_minus_f64_maxabs": 1e-9}}}}).encode())
)
def test_broken_manifests(scratch, content):
    folder = scratch / "manifest"
    folder.mkdir(exist_ok=True)
    (folder / "bytes.safetensors").write_bytes(golden(GOLDEN))
    (folder / "manifest.json").write_bytes(content)
    rows: list[Row] = []
    said = complaint(lambda: rows.extend(certify(folder)))
    assert not said or "manifest.json is not valid JSON" in said
    assert all(row.tolerance >= 0 for row in rows)


@cases(170)
@given(content=damaged(json.dumps(CONFIG, indent=1).encode()))
def test_configurations_with_broken_bytes(scratch, content):
    (scratch / "config.json").write_bytes(content)
    built = []
    said = complaint(lambda: built.append(load_experiment(scratch)))
    assert said or built == [load_experiment(scratch)]
    complaint(lambda: check_same_run(EXPERIMENT, scratch))


@cases(170)
@given(plain=mutated(CONFIG))
def test_configurations_with_broken_values_are_read_and_compared_and_nothing_of_them_runs(scratch, plain):
    complaint(lambda: from_plain(plain))
    (scratch / "config.json").write_text(json.dumps(plain))
    said = complaint(lambda: check_same_run(EXPERIMENT, scratch))
    assert not said or "another --run-dir" in said or "does not describe" in said
    assert not {"antigravity", "this"} & set(sys.modules)


def test_deep_nesting_is_a_sentence(scratch):
    (scratch / "config.json").write_text('{"class": ' * 100_000)
    with pytest.raises(UserError, match="not valid JSON"):
        load_experiment(scratch)
    (scratch / "config.json").write_text(
        '{"class": "unified_jax.training.experiment.Experiment", "steps": ' + "9" * 5000
    )
    with pytest.raises(UserError, match="not valid JSON"):
        load_experiment(scratch)


def picture(kind: str) -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (12, 12, 3), np.uint8)
    Pillow.fromarray(noise).save(buffer, kind)
    return buffer.getvalue()


class Records:
    """A data source of one record."""

    def __init__(self, content):
        self.content = content

    def __getitem__(self, index):
        return {"picture": self.content}


@cases(200)
@given(content=st.one_of(damaged(picture("PNG")), damaged(picture("JPEG"))))
@pytest.mark.filterwarnings("ignore")
def test_broken_pictures(content):
    source = TfdsSource("drawings", "train", Records(content), (("image", "picture"),))
    said = complaint(lambda: source[7])
    assert not said or "'drawings', split 'train': record 7 cannot be read" in said


def test_a_picture_that_claims_too_much_is_not_decoded():
    content = bytearray(picture("PNG"))
    content[16:24] = (60000).to_bytes(4, "big") * 2
    with pytest.raises(ValueError, match="cannot be decoded"):
        decoded(bytes(content))


@cases(200)
@given(content=damaged(LINES), last=st.integers(0, 9))
def test_broken_metrics_are_cut_to_whole_lines(scratch, content, last):
    path = scratch / "metrics.jsonl"
    path.write_bytes(content)
    cut_lines(path, last)
    assert content.startswith(path.read_bytes())
    assert all(line["step"] <= last for line in read_lines(path))

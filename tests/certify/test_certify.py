"""Reference numbers: our own small set always, the shared set where it is present."""

from pathlib import Path

import pytest

from unified_jax.certify.files import certify as rows_of
from unified_jax.cli import certify
from unified_jax.cli.entry import run_command

SMALL = sorted(path.stem for path in (Path(__file__).parents[1] / "goldens").glob("*.safetensors"))
WIDE = {"encoders_dinov2", "encoders_siglip", "encoders_umt5", "transformers_unidiffuser", "unets_sd3", "unets_text"}
WIDE |= {"lightningdit_gated", "lightningdit_plain"}
WITHOUT_OUTPUTS = {"bert_small", "interop_small"}


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.nightly) if n in WIDE else n for n in SMALL])
def test_the_small_set(root, name):
    rows = rows_of(root / "tests" / "goldens", f"{name}.safetensors")
    assert bool(rows) == (name not in WITHOUT_OUTPUTS)
    assert [r for r in rows if r.verdict != "pass"] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "family",
    [
        *("beta_schedules", "gd_", "sched_", "sit_", "lightning_transport", "unidiffuser_dpm_solver_fast"),
        *("sd3_training_density", "dit_", "lightningdit", "ema", "frechet", "kid_pr_is", "r3gan_"),
    ],
)
def test_the_shared_set(shared_goldens, family):
    rows = rows_of(shared_goldens, family)
    assert rows
    assert [r for r in rows if not r.verdict.startswith(("pass", "reference error"))] == []


def test_a_difference_fails_and_an_empty_folder_is_a_sentence(root, tmp_path, capsys):
    from safetensors import safe_open
    from safetensors.numpy import load_file, save_file

    path = root / "tests" / "goldens" / "gd_small.safetensors"
    tensors = load_file(path)
    tensors["out/q_sample"] = tensors["out/q_sample"] + 1e-3
    with safe_open(path, "np") as opened:
        save_file(tensors, tmp_path / "gd_off.safetensors", metadata=opened.metadata())
    assert run_command(certify.main, [str(tmp_path), "--failures"]) == 1
    printed = capsys.readouterr()
    assert "q_sample" in printed.out
    assert "1 outputs differ" in printed.err
    (tmp_path / "gd_off.safetensors").write_bytes(b"nonsense")
    assert run_command(certify.main, [str(tmp_path)]) == 2
    assert "is not a golden file" in capsys.readouterr().err
    assert run_command(certify.main, [str(tmp_path), "--only", "zzz"]) == 2
    assert "holds no .safetensors file" in capsys.readouterr().err

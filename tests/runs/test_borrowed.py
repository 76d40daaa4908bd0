"""Somebody's weights: an autoencoder as a run that others start from, LPIPS as a stage of a loss."""

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

import unified_jax as uj
from tests.helpers import stirred
from unified_jax.errors import UserError
from unified_jax.interop import lpips, table
from unified_jax.interop.autoencoders import levels
from unified_jax.models.autoencoding import SD, Autoencoding
from unified_jax.models.tuned import Tuning
from unified_jax.networks.autoencoders.coder import Levels
from unified_jax.networks.autoencoders.kl import KlAutoencoder
from unified_jax.runs.saved import loading
from unified_jax.runs.stages import check_sources, read_stage
from unified_jax.runs.weight_transfer import plan_graft
from unified_jax.sharding import MeshShape, make_mesh

ae = uj.autoencoders
SMALL = Levels(widths=(32, 32), blocks=1, encoder_attention=(False, True), decoder_attention=(False, True))


@pytest.mark.nightly
def test_a_borrowed_autoencoder_is_a_stage_and_the_start_of_a_training_with_other_losses(tmp_path):
    params = stirred(Autoencoding(KlAutoencoder(SMALL), (16, 16, 3)).init)
    save_file(levels.write(params, "original"), tmp_path / "vae.safetensors")
    model = uj.borrow_autoencoder(tmp_path / "vae.safetensors", tmp_path / "run", SD, 16)
    stage = uj.stage("ae", tmp_path / "run")
    assert stage.model.scale == (0.18215,) and stage.model.network == KlAutoencoder(SMALL)
    mesh = make_mesh(MeshShape(), jax.devices()[:1])
    held, _ = read_stage(stage, None, loading(mesh, uj.Rules()))
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(held), jax.device_get(params))
    other = uj.Autoencoder(
        model.coder, model.modality, (ae.Pixels(), ae.Adversary(ae.PatchGan(4, 1))), views=ae.EqVae(scales=(0.5,))
    )
    graft = plan_graft(model, other, Tuning())
    assert graft.fresh and all(path.startswith("adversary/") for path in graft.fresh) and not graft.left
    with pytest.raises(UserError, match="exists already"):
        uj.borrow_autoencoder(tmp_path / "vae.safetensors", tmp_path / "run", SD, 16)


def test_the_weights_of_lpips_come_from_a_folder_with_the_files_of_both_packages(tmp_path):
    model = ae.LpipsDistance("alex")
    expected = jax.eval_shape(model.init, jax.random.key(0))
    ours = jax.tree.map(lambda s: np.full(s.shape, 0.5, np.float32), expected)
    theirs = table.write(ours, lpips.lines(expected))
    torchvision = {name: value for name, value in theirs.items() if name.startswith("features.")}
    folder = tmp_path / "lpips"
    folder.mkdir()
    save_file({**torchvision, "classifier.6.bias": np.zeros(3, np.float32)}, folder / "alexnet.safetensors")
    loss = ae.Perceptual(uj.Stage("lpips", model, str(folder)))
    assert (
        loss.label == "lpips_alex" and model.finds(str(folder)) and not model.finds(str(folder / "alexnet.safetensors"))
    )
    with pytest.raises(UserError, match=r"lin0\.model\.1\.weight"):
        model.read(str(folder))
    save_file({name: value for name, value in theirs.items() if name not in torchvision}, folder / "alex.safetensors")
    jax.tree.map(np.testing.assert_array_equal, model.read(str(folder)), ours)
    image = uj.Image(64, 64)
    coder = Autoencoding(KlAutoencoder(Levels(widths=(4, 4), groups=2, blocks=1)), (64, 64, 3))
    made = uj.Autoencoder(coder, image, (ae.Pixels(), loss))
    assert [stage.name for stage in made.stages] == ["lpips"] and made.terms == ("l1", "lpips_alex")
    check_sources(made, {})

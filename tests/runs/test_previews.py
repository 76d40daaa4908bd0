"""The validation loss: a mean over the examples that have a term; a term that none has counts as 0."""

import jax
import numpy as np
import pytest

from unified_jax.data.packing import Documents
from unified_jax.data.world import World
from unified_jax.modalities.action import Action
from unified_jax.modalities.image import Image
from unified_jax.modalities.text import Text
from unified_jax.models.streams import Stream
from unified_jax.models.transfusion import Transfusion
from unified_jax.networks.transfusion import Trunk
from unified_jax.runs.previews import Validator
from unified_jax.sharding import MeshShape, make_mesh
from unified_jax.training.balancing import FixedBalance
from unified_jax.training.experiment import Experiment, Validation


@pytest.mark.parametrize("always", [True, False])
def test_a_term_that_no_example_has_counts_as_nothing(always, one_device):
    documents = Documents(clean_of=(("image", 1.0),) if always else ())
    streams = (Stream(Image(16, 16, 3, 8)), Stream(Action()))
    trunk = Trunk(depth=1, width=16, heads=2, remat="none")
    e = Experiment(
        model=Transfusion(trunk, Text(112), streams, 200, documents), data=World(resolution=16, max_objects=1),
        balance=FixedBalance((("action", 3.0),)), batch_size=4, validation=Validation(batches=2),
    )  # fmt: skip
    validator, params = Validator(e), e.model.init(jax.random.key(0))
    with e.rules.active(make_mesh(MeshShape())):
        found = [validator.losses(params, {}, 0, batch, i) for i, batch in enumerate(validator.batches)]
        loss = validator.loss(params, {}, 0)
    sums = {name: np.sum([[float(x) for x in one[name]] for one in found], axis=0) for name in found[0]}
    assert set(sums) == {"text", "image", "action"} and (sums["image"][1] == 0) == always
    weights = {"text": 1.0, "image": 1.0, "action": 3.0}
    expected = sum(weights[name] * total / count for name, (total, count) in sums.items() if count)
    assert loss == pytest.approx(expected, rel=1e-6)

"""A sixth modality for transfusion_world: the path that an agent takes to the object.

    python train.py world_with_action --init-from runs/transfusion_world

Hardware: two CPU cores, 5 minutes. The trunk is frozen: what is trained are the action's embedder and head, and the
tokens (further ones begin and end an action). Low-rank updates of the trunk beside it, or all of it:

    ... --tuning.lora "blocks/(attention|mlp)" --tuning.rank 16
    ... --tuning.train ".*"

Figures of all three, and of what they forget: docs/finetuning.md.
"""

import dataclasses
import runpy
from pathlib import Path

from unified_jax.modalities.action import Action
from unified_jax.models.transfusion import Stream, Transfusion
from unified_jax.models.tuned import Tuning
from unified_jax.training.balancing import FixedBalance
from unified_jax.training.checkpoint import Checkpointing
from unified_jax.training.experiment import Experiment, Previews, Validation

BASE = Path(__file__).parent / "transfusion_world.py"


def experiment() -> Experiment:
    """transfusion_world and one more stream; actions are in most documents, the others as before."""
    base: Experiment = runpy.run_path(str(BASE))["experiment"]()
    assert isinstance(base.model, Transfusion)
    assert isinstance(base.balance, FixedBalance)
    documents = base.model.documents
    return dataclasses.replace(
        base,
        model=dataclasses.replace(
            base.model,
            streams=(*base.model.streams, Stream(Action(), base.model.streams[0].process)),
            documents=dataclasses.replace(documents, keep_of=(*documents.keep_of, ("action", 0.85))),
        ),
        tuning=Tuning(train=("^action_", "^table$", "^logits/")),
        optimizer=dataclasses.replace(base.optimizer, learning_rate=2e-3, warmup_steps=30),
        balance=FixedBalance((*base.balance.weights, ("action", 20.0))),
        steps=240,
        checkpoint=Checkpointing(every=240),
        preview=Previews(every=0, plan=base.preview.plan),
        validation=Validation(every=120, batches=2),
        evaluate=64,
    )

"""A sixth modality for transfusion_world: the path that an agent takes to the object.

    unified-jax train world_with_action --init-from runs/transfusion_world

Hardware: two CPU cores, 10 minutes. The trunk is frozen: what is trained are the action's embedder and head, and the
tokens (further ones begin and end an action). Low-rank updates of the trunk beside it, or all of it:

    ... --tuning.lora "blocks/(attention|mlp)" --tuning.rank 16
    ... --tuning.train ".*"

Figures of all three, and of what they forget: docs/finetuning.md.
"""

import dataclasses
import runpy
from pathlib import Path

import unified_jax as uj

BASE = Path(__file__).parent / "transfusion_world.py"


def experiment() -> uj.Experiment:
    """transfusion_world and one more stream. Documents are short and most hold the action: what is told by others, too,
    need not be read from it.
    """
    base: uj.Experiment = runpy.run_path(str(BASE))["experiment"]()
    assert isinstance(base.model, uj.Transfusion)
    assert isinstance(base.balance, uj.FixedBalance)
    rates = (("caption", 0.4), ("image", 0.45), ("video", 0.3), ("points", 0.4), ("action", 0.9))
    documents = dataclasses.replace(
        base.model.documents, keep=0.3, keep_of=rates, whole=0.06, clean_of=(("action", 0.5),), per_row=8
    )
    return dataclasses.replace(
        base,
        model=dataclasses.replace(
            base.model,
            streams=(*base.model.streams, uj.Stream(uj.Action(), base.model.streams[0].process)),
            documents=documents,
        ),
        tuning=uj.Tuning(train=("^action_", "^table$", "^logits/")),
        optimizer=dataclasses.replace(base.optimizer, learning_rate=2e-3, warmup_steps=30),
        balance=uj.FixedBalance((*base.balance.weights, ("action", 20.0))),
        steps=480,
        batch_size=96,
        checkpoint=uj.Checkpointing(every=240),
        preview=uj.Previews(every=0, plan=base.preview.plan),
        validation=uj.Validation(every=240, batches=2),
        evaluate=64,
    )

"""A ControlNet on the world: a map shows where the object is and its outline, a caption says the rest.

    unified-jax train caption_encoder && unified-jax train world_autoencoder
    unified-jax data latents runs/world_autoencoder --each channel
    unified-jax train world_control --alone --run-dir runs/world_control_base
    unified-jax train world_control --init-from runs/world_control_base
    unified-jax sample --run runs/world_control --given.caption "a red thing" --given.mask @outline.png

First a U-Net learns pictures of one object from the vector of a caption (`--alone`). Then it stays as it is: a copy of
its way down and middle reads the map, and what the copy finds is added by convolutions that are zero at the start
(`networks.unet.controlnet`). The map is halved twice to the size of the latents.

Goals, set before the run (`python benchmarks/control.py runs/world_control --count 1024`), on scenes of the split
held_out with captions that name the colour alone: shape, size and place are those of the map in at least 0.95 each
(lower end of the 95 % interval). With the map of another scene they agree with their own scene as often as two scenes
agree (inside the interval).
Hardware: two CPU cores, ten minutes for the U-Net and ten for the ControlNet.
"""

import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import unified_jax as uj
from unified_jax.networks.unet.controlnet import Controlled, control_of
from unified_jax.networks.unet.levels import Level

BASE = Path(__file__).parent / "world_text.py"
NETWORK: Any = uj.UNet(
    down=(Level(48, 1), Level(96, 1)), middle=Level(96, reads="itself", heads=4), scale_shift=True, remat="none"
)


def experiment(
    alone: bool = False,
    autoencoder: str = "runs/world_autoencoder",
    encoder: str = "runs/caption_encoder",
) -> uj.Experiment:
    """The U-Net and its copy, of which the copy is trained; or the U-Net alone."""
    recipe = runpy.run_path(str(BASE))
    base: Any = recipe["for_studies"](recipe["experiment"]("unet", True, autoencoder, encoder))
    vector = next(one for one in base.model.conditions if one.part == "pooled")
    caption = replace(vector, name="")
    process = uj.RectifiedFlow(target="x0", times=uj.times.UniformTimes(shift=3.0))
    plan = replace(base.preview.plan, guidance=uj.Guidance(2.0))
    whole = replace(
        base,
        model=replace(base.model, network=NETWORK, process=process, conditions=(caption,)),
        optimizer=replace(base.optimizer, rule=uj.AdamW(b2=0.99), learning_rate=2e-3),
        data=uj.World(resolution=32, max_objects=1),
        ema=(uj.Ema(decay=0.99),),
        steps=1200,
        checkpoint=uj.Checkpointing(every=300),
        preview=uj.Previews(every=600, count=16, plan=plan),
        validation=uj.Validation(every=300, batches=4),
    )
    if alone:
        return whole
    mask = uj.Condition(uj.Image(32, 32, channels=1, name="mask"), "hint")
    network = Controlled(NETWORK, control_of(NETWORK, (16, 32, 64)))
    model = replace(whole.model, network=network, conditions=(caption, mask))
    return replace(whole, model=model, tuning=uj.Tuning(train=("^control/",)), steps=600)

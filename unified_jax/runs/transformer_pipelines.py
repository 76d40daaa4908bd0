"""Pipelines of diffusers whose network is a transformer: PixArt-alpha and Sigma, Stable Diffusion 3 and 3.5, Flux.

PixArt    T5, of which padding is not read; alpha at 1024 pixels is also told the picture's size
SD3       two CLIPs side by side and T5 after them, padding included; the vectors of both CLIPs
Flux      T5, padding included; the vector of CLIP; a distilled model's guidance scale as a number
"""

from dataclasses import replace
from typing import Any

from unified_jax.interop import files, mmdit, pipelines, pixart, table, tokenizers, transformer_options
from unified_jax.interop.flow_scheduler import FLOW, flow_scheduler
from unified_jax.models.clip_encoder import ClipEncoder, clip_encoder
from unified_jax.models.stages import Stage
from unified_jax.models.streams import Condition
from unified_jax.models.t5_encoder import T5TextEncoder, t5_text_encoder
from unified_jax.networks.flux import Flux
from unified_jax.networks.mmdit import MMDiT, position_table
from unified_jax.networks.pixart import PixArt
from unified_jax.runs.pipeline_parts import (
    CLIP,
    CLIP_TOKENIZER,
    KL,
    PROJECTED,
    T5,
    T5_TOKENIZER,
    TEXT,
    Pipeline,
    Request,
    assembled,
    check_features,
    check_tokenizers,
    coder_of,
    config_of,
    expected_of,
    joined_encoders,
    pipeline_of,
    prompt_conditions,
    sizes_condition,
)

PIXART: dict[str, tuple[str, ...]] = {
    "text_encoder": T5,
    "tokenizer": T5_TOKENIZER,
    "transformer": transformer_options.PIXART,
    "vae": KL,
    "scheduler": (
        "DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "EulerDiscreteScheduler", "DDIMScheduler",
        "EulerAncestralDiscreteScheduler",
    ),
}  # fmt: skip
"""Part of a pipeline -> its classes."""
THIRD = ("text_encoder_3", "tokenizer_3")
SD3: dict[str, tuple[str, ...]] = {
    "text_encoder": PROJECTED,
    "tokenizer": CLIP_TOKENIZER,
    "text_encoder_2": PROJECTED,
    "tokenizer_2": CLIP_TOKENIZER,
    "text_encoder_3": T5,
    "tokenizer_3": T5_TOKENIZER,
    "transformer": transformer_options.SD3,
    "vae": KL,
    "scheduler": (FLOW,),
}
"""Of SD3; T5 and its tokenizer may be left out."""
FLUX: dict[str, tuple[str, ...]] = {
    "text_encoder": CLIP,
    "tokenizer": CLIP_TOKENIZER,
    "text_encoder_2": T5,
    "tokenizer_2": T5_TOKENIZER,
    "transformer": transformer_options.FLUX,
    "vae": KL,
    "scheduler": (FLOW,),
}
PROMPTS = {"PixArtAlphaPipeline": 120, "PixArtSigmaPipeline": 300}
"""Tokens of a prompt."""
SD3_PROMPT = 256
"""Tokens of a prompt, or of zeros without T5."""


def read_pixart(asked: Request) -> Pipeline:
    """PixArt-alpha or Sigma: 20 steps, guided at 4.5; captions are lowered."""
    parts = pipelines.parts_of(asked.folder, PIXART)
    check_tokenizers(parts)
    process, plan = pipelines.scheduler(parts["scheduler"], 4.5, 20)
    o = transformer_options.pixart(*config_of(parts["transformer"]))
    source = parts["text_encoder"]
    length = PROMPTS[pipelines.class_of(asked.folder)]
    encoder = t5_text_encoder(source, length, parts["tokenizer"], name=TEXT, dtype=asked.dtype)
    encoder = replace(encoder, null="empty", text=replace(encoder.text, bpe=tokenizers.lowered(encoder.text.bpe)))
    check_features(asked, "tokens", o.text, encoder.network.width)
    coder = coder_of(asked, parts["vae"], o.sample, o.channels, o.patch)
    network = PixArt(
        depth=o.depth, width=o.width, heads=o.heads, base=o.base, stretch=o.stretch, bias=o.bias, eps=o.eps,
        activation=o.activation, dtype=asked.dtype,
    )  # fmt: skip
    prompt = Condition(encoder.text, encoder=Stage(TEXT, encoder, str(source)))
    told = (sizes_condition("size", coder.side, coder.side), sizes_condition("aspect", 1.0)) if o.sizes else ()
    process = replace(process, variance="learned_range") if o.outputs != o.channels else process
    model = assembled(coder, network, process, (prompt, *told), o.patch)
    lines = pixart.table(TEXT, o.channels, sizes=o.sizes, bias=o.bias)
    what = f"The folder {str(parts['transformer'])!r}"
    tensors = pixart.read_by_the_network(files.read(parts["transformer"]))
    return pipeline_of(model, plan, table.read(what, tensors, lines, expected_of(asked, model)))


def read_sd3(asked: Request) -> Pipeline:
    """Stable Diffusion 3 or 3.5: 28 steps, guided at 7."""
    without = pipelines.left_out(asked.folder, THIRD)
    parts = pipelines.parts_of(asked.folder, {name: known for name, known in SD3.items() if name not in without})
    check_tokenizers(parts)
    o = transformer_options.sd3(*config_of(parts["transformer"]))
    coder = coder_of(asked, parts["vae"], o.sample, o.channels, o.patch)
    process, plan = flow_scheduler(parts["scheduler"], 7.0, 28, (coder.latent[0] // o.patch) ** 2)
    clips: list[ClipEncoder | T5TextEncoder] = [
        clip_encoder(
            parts[f"text_encoder{n}"],
            parts[f"tokenizer{n}"],
            projected=True,
            skip=1,
            norm=False,
            name=TEXT,
            dtype=asked.dtype,
        )
        for n in ("", "_2")
    ]
    third = [] if without else [_whole_t5(asked, parts, "_3", SD3_PROMPT)]
    tokens = ((0, 1), (2,)) if third else ((0, 1),)
    empty = SD3_PROMPT if without else 0
    found = joined_encoders(asked, (*clips, *third), tokens, (0, 1), width=o.text, empty_tokens=empty)
    check_features(asked, "a vector", o.pooled, found.condition_form("pooled").features)
    if third:
        check_features(asked, "tokens", o.text, third[0].network.width)
    network = MMDiT(
        depth=o.depth, width=o.width, heads=o.heads, qk_norm=o.qk_norm, dual=o.dual, grid=o.grid, base=o.base,
        dtype=asked.dtype,
    )  # fmt: skip
    model = assembled(coder, network, process, prompt_conditions(asked, found), o.patch)
    what, expected = f"The folder {str(parts['transformer'])!r}", expected_of(asked, model)
    places = position_table(o.width, o.grid, o.base, (o.grid, o.grid))
    tensors = mmdit.without_positions(what, files.read(parts["transformer"]), places)
    return pipeline_of(model, plan, mmdit.read(what, tensors, expected, o.patch, True))


def read_flux(asked: Request) -> Pipeline:
    """Flux: dev has a guidance scale of 3.5 as its condition and 28 steps, schnell 4 steps."""
    parts = pipelines.parts_of(asked.folder, FLUX)
    check_tokenizers(parts)
    o = transformer_options.flux(*config_of(parts["transformer"]))
    coder = coder_of(asked, parts["vae"], 128, o.channels, 2)
    steps = 28 if o.guided else 4
    process, plan = flow_scheduler(parts["scheduler"], 1.0, steps, (coder.latent[0] // 2) ** 2, even=True)
    clip = clip_encoder(parts["text_encoder"], parts["tokenizer"], projected=False, name=TEXT, dtype=asked.dtype)
    t5 = _whole_t5(asked, parts, "_2", 512 if o.guided else 256)
    found = joined_encoders(asked, (clip, t5), ((1,),), (0,))
    check_features(asked, "a vector", o.pooled, found.condition_form("pooled").features)
    check_features(asked, "tokens", o.text, t5.network.width)
    network = Flux(
        depth=o.depth, single_depth=o.single_depth, width=o.width, heads=o.heads, axes=o.axes, dtype=asked.dtype
    )
    told = (sizes_condition("guidance", 3.5),) if o.guided else ()
    model = assembled(coder, network, process, (*prompt_conditions(asked, found), *told), 2)
    what, expected = f"The folder {str(parts['transformer'])!r}", expected_of(asked, model)
    return pipeline_of(model, plan, mmdit.read(what, files.read(parts["transformer"]), expected, 2, False))


def _whole_t5(asked: Request, parts: dict[str, Any], n: str, length: int) -> T5TextEncoder:
    """A T5 of whose prompts the padding is read too."""
    source, words = parts[f"text_encoder{n}"], parts[f"tokenizer{n}"]
    return t5_text_encoder(source, length, words, mask=False, name=TEXT, dtype=asked.dtype)

"""DINOv2 (Oquab et al. 2023, arXiv 2304.07193) in its published sizes, also with registers (Darcet et al. 2023).

It is `networks.vit.Vit` with layer scale, a biased patch embedding and no norm before the blocks. The vector of an
image is its normalised class token; `tokens` hold [class token, registers, patches]. Positions are a table over 37 x 37
patches and are resampled to the image: by plain cubic interpolation, with registers averaged where the grid shrinks.
"""

from typing import Literal

from unified_jax.networks.vit import Vit

Size = Literal["S", "B", "L", "g"]
SIZES: dict[str, tuple[int, int, int]] = {
    "S": (12, 384, 6),
    "B": (12, 768, 12),
    "L": (24, 1024, 16),
    "g": (40, 1536, 24),
}
"""(depth, width, heads) of the published models, all with patches of 14."""


def dinov2(size: Size = "B", registers: int = 0, dtype: Literal["float32", "bfloat16"] = "float32") -> Vit:
    """A published size; `registers` is 0 or 4. The giant has a gated MLP."""
    depth, width, heads = SIZES[size]
    gated = size == "g"
    hidden = (int(4 * width * 2 / 3) + 7) // 8 * 8 if gated else 4 * width
    return Vit(
        size=518, patch=14, width=width, depth=depth, heads=heads, hidden=hidden,
        activation="silu" if gated else "gelu", gated=gated, eps=1e-6, registers=registers, patch_bias=True,
        first_norm=False, layer_scale=True, antialias=registers > 0, dtype=dtype,
    )  # fmt: skip

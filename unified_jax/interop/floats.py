"""Stored numbers -> float32: half precision and F8 widened, F8 multiplied by its scales, all finite.

Widening is exact; float64 is rounded. An F8 weight may have a scale, by one of three conventions:

    NAME.weight_scale       one number, or one per row (compressed-tensors)
    NAME.scale_weight       one number (ComfyUI, with a marker `scaled_fp8`)
    NAME.weight_scale_inv   one number per block of 128 x 128, a factor despite its name (DeepSeek)
"""

from collections.abc import Mapping

import ml_dtypes
import numpy as np

from unified_jax.errors import UserError

FLOAT8 = {
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E4M3FNUZ": np.dtype(ml_dtypes.float8_e4m3fnuz),
    "F8_E5M2FNUZ": np.dtype(ml_dtypes.float8_e5m2fnuz),
}
"""F8 dtypes by their safetensors names."""

EIGHT = tuple(kind.name for kind in FLOAT8.values())
KNOWN = ("float16", "bfloat16", "float32", "float64", *EIGHT)
SCALES = ("weight_scale", "scale_weight", "weight_scale_inv")
UNKNOWN_SCALES = ("_scale", "_scales", "_scale_inv", "scale_weight", "scale_input", "zero_point", "scales")
MARKER = "scaled_fp8"
BLOCK = 128


def scaled_by(name: str) -> tuple[str, ...]:
    """The name of the weight that an array of this name scales; () for another array."""
    folder, dot, last = name.rpartition(".")
    return (f"{folder}{dot}weight",) if last in SCALES else ()


def widened(what: str, found: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays in float32.

    Raises UserError naming `what` for arrays that are not floats, unknown scales, or numbers that are not finite.
    """
    strange = [f"{name} ({value.dtype})" for name, value in sorted(found.items()) if value.dtype.name not in KNOWN]
    if strange:
        raise UserError(f"{what} holds arrays that are not weights; expected floats: {', '.join(strange)}.")
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite and is refused below
        wide = {name: np.asarray(value, np.float32) for name, value in found.items()}
    eight = [name for name, value in found.items() if value.dtype.name in EIGHT]
    if eight:
        wide = _scaled(what, wide, eight)
    refuse_non_finite(what, wide)
    return wide


def refuse_non_finite(what: str, tensors: Mapping[str, np.ndarray]) -> None:
    """Raises UserError with the number of arrays that hold NaN or infinity, and the first of them."""
    bad = [(name, int((~np.isfinite(value)).sum())) for name, value in sorted(tensors.items())]
    bad = [(name, count) for name, count in bad if count]
    if bad:
        raise UserError(
            f"{what} holds numbers that are not finite in float32 (NaN or infinite): {sum(n for _, n in bad):,} in "
            f"{len(bad)} of {len(tensors)} arrays, first {bad[0][0]} ({bad[0][1]:,}); such weights are useless."
        )


def _scaled(what: str, wide: dict[str, np.ndarray], eight: list[str]) -> dict[str, np.ndarray]:
    """F8 weights times their scales, without the scales."""
    used = set()
    for name in eight:
        folder, dot, last = name.rpartition(".")
        scales = [f"{folder}{dot}{scale}" for scale in SCALES if last == "weight" and f"{folder}{dot}{scale}" in wide]
        if len(scales) > 1:
            raise UserError(f"{what} has more than one scale of {name}: {', '.join(scales)}.")
        for scale in scales:
            wide[name] = wide[name] * _factor(what, name, wide[name].shape, scale, wide[scale])
            used.add(scale)
    rest = {name: value for name, value in wide.items() if name not in used}
    if used:
        rest = {name: value for name, value in rest.items() if name.rpartition(".")[2] != MARKER}
    unknown = [name for name in sorted(rest) if name.rpartition(".")[2].endswith((*UNKNOWN_SCALES, MARKER))]
    if unknown:
        raise UserError(
            f"{what} stores F8 weights with scales of an unknown convention: {', '.join(unknown)}; save "
            "the weights in bfloat16 or float32."
        )
    return rest


def _factor(what: str, name: str, shape: tuple[int, ...], scale: str, value: np.ndarray) -> np.ndarray:
    """A scale, shaped so that it multiplies its weight."""
    if value.size == 1:
        return value.reshape(())
    blocks = tuple(-(-n // BLOCK) for n in shape)
    if scale.endswith("_inv"):
        if len(shape) == 2 and value.shape == blocks:
            return value.repeat(BLOCK, 0).repeat(BLOCK, 1)[: shape[0], : shape[1]]
    elif value.shape in (shape[:1], (*shape[:1], *(1,) * (len(shape) - 1))):
        return value.reshape(-1, *(1,) * (len(shape) - 1))
    raise UserError(
        f"{what}: the scale {scale} {list(value.shape)} does not fit {name} {list(shape)}; expected one number"
        f"{f' per block of {BLOCK} x {BLOCK}' if scale.endswith('_inv') else ', or one per row'}."
    )

"""Family `mel`: banks, spectra and decibels of torchaudio and librosa.

The waveform is padded here, as the set says, and analysed without centring; by default both mirror it at its ends (the
files pass that to librosa). Decibels: torchaudio's of powers or magnitudes over 1, librosa's over the greatest value.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from unified_jax.certify import NotServed, Unserved
from unified_jax.certify.options import (
    Check,
    anything,
    count,
    each,
    either,
    flag,
    mapping,
    named,
    number,
    optional,
    positive,
    require,
    unserved,
    whole,
)  # fmt: skip
from unified_jax.modalities.mel import Mel, to_decibel

TOP: dict[str, Check] = {"seed": anything, "n": anything, "chirp": anything, "sr": count, "sets": each(mapping)}
PADDING = {"reflect": "reflect", "constant": "constant", "replicate": "edge", "edge": "edge", "circular": "wrap"}
PADDING |= {"wrap": "wrap"}
"""torch's and NumPy's names -> NumPy's."""
SET: dict[str, Check] = {"n_fft": count, "n_mels": count, "hop_length": optional(count), "win_length": optional(count)}
SET |= {"f_min": number, "f_max": optional(positive), "mel_scale": either("htk", "slaney")}
SET |= {"norm": either(None, "slaney"), "power": positive, "center": flag, "pad": whole, "onesided": either(True)}
SET |= {"pad_mode": either(*PADDING), "normalized": either(False, True, "window", "frame_length")}
SET |= {"top_db": optional(positive), "window_fn": either("hann_window"), "wkwargs": either(None)}
LEAST = 1e-5
"""librosa's least magnitude."""
OUTPUTS = [*(f"torchaudio.{{}}.{name}" for name in ("mel", "fb", "spec_col5", "db"))]
OUTPUTS += [f"librosa.{{}}.{name}" for name in ("mel", "fb", "db_refmax")]


def run_mel(tensors: dict[str, np.ndarray], config: dict[str, Any]) -> dict[str, Any]:
    """Every set's outputs; a set with an option that is not served has none, an output may be named by itself."""
    require(config, TOP)
    out: dict[str, Any] = {}
    for i, c in enumerate(config["sets"]):
        if reason := unserved(c, SET):
            out |= {name.format(i): NotServed(reason) for name in OUTPUTS}
        else:
            out |= {name.format(i): value for name, value in _one(tensors["in/x"], config["sr"], c).items()}
    return out


def _analysis(rate: int, c: dict[str, Any]) -> Mel:
    """The set as an analysis, with torchaudio's defaults."""
    n_fft, window = c.get("n_fft", 400), c.get("win_length") or 0
    if window > n_fft:
        raise Unserved(named("win_length", window))
    return Mel(
        rate=rate, n_fft=n_fft, hop=c.get("hop_length") or (window or n_fft) // 2, window=window,
        mels=c.get("n_mels", 128), low=c.get("f_min", 0.0), high=c.get("f_max") or 0.0,
        scale=c.get("mel_scale", "htk"), slaney_norm=c.get("norm") == "slaney", power=c.get("power", 2.0),
        center=c.get("center", True),
    )  # fmt: skip


def _one(x: np.ndarray, rate: int, c: dict[str, Any]) -> dict[str, Any]:
    """Templates of the outputs' names -> values."""
    analysis = _analysis(rate, c)
    mel, power, top = dataclasses.replace(analysis, center=False), analysis.power, c.get("top_db")
    mode: Any = PADDING[c.get("pad_mode", "reflect")]
    padded = np.pad(x, c.get("pad", 0))
    if analysis.center:
        padded = np.pad(padded, mel.n_fft // 2, mode=mode)
    magnitude = jnp.abs(mel.spectrum(jnp.asarray(padded)[None])[0]) / _norm(mel, c.get("normalized", False))
    found, bank = (magnitude**power @ jnp.asarray(mel.bank())).T, mel.bank()
    out: dict[str, Any] = {"torchaudio.{}.mel": found, "torchaudio.{}.fb": bank, "librosa.{}.mel": found}
    out["librosa.{}.fb"] = bank.T
    if len(magnitude) > 5:
        out["torchaudio.{}.spec_col5"] = magnitude[5] ** power
    if power in (1.0, 2.0):
        out["torchaudio.{}.db"] = to_decibel(found, power, top=top)
        loud = jnp.maximum(found, LEAST) if power == 1.0 else found
        out["librosa.{}.db_refmax"] = to_decibel(loud, power, jnp.max(loud), c.get("top_db", 80.0))
    else:
        reason = NotServed(named("power", power).replace("is not", "in decibels is not"))
        out |= {"torchaudio.{}.db": reason, "librosa.{}.db_refmax": reason}
    return out | _apart(mel, c)


def _apart(mel: Mel, c: dict[str, Any]) -> dict[str, Any]:
    """Outputs of one of the two packages that are not ours: torchaudio halves the rate in whole hertz and spreads an
    odd spectrum over it; librosa has no padding before the frames' own and no norm of the spectrum."""
    reasons = {
        "torchaudio": named("sr", mel.rate) if mel.rate % 2 else "",
        "librosa": named("n_fft", mel.n_fft) if mel.n_fft % 2 else "",
    }
    for name in ("pad", "normalized"):
        if c.get(name):
            reasons["librosa"] = named(name, c[name])
    return {name: NotServed(reasons[name.split(".")[0]]) for name in OUTPUTS if reasons[name.split(".")[0]]}


def _norm(mel: Mel, kind: bool | str) -> float:
    """What torchaudio divides the spectrum by."""
    if kind == "frame_length":
        return float(np.sqrt(mel.n_fft))
    return float(np.sqrt(np.sum(mel.hann() ** 2))) if kind else 1.0

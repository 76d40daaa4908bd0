"""`unified-jax probe KIND --run DIR`: attention, similarity, loss floor, gradient noise and spectra of a model.

    attention   maps of every block and head while sampling: PNGs, a GIF over the steps; of a Transfusion model
                also the attention mass from one modality to another: PNGs, JSON
    similarity  similarity of all modalities in the trunk of a Transfusion model (CKA): PNG, JSON and a table
    loss        loss over time against the Bayes floor (Diffusion models of the finite world): PNG, JSON
    noise       the gradient noise scale by loss term (any model): JSON and a table
    spectrum    DCT spectra of pictures, latents and reconstructions: PNG, JSON

Files go to RUN/probes/.
"""

import sys
from collections.abc import Callable
from typing import Any

from unified_jax.cli.entry import run_command, use_compilation_cache
from unified_jax.cli.probing.attention import AttentionCommand, attention
from unified_jax.cli.probing.loss import LossCommand, loss
from unified_jax.cli.probing.noise import NoiseCommand, noise
from unified_jax.cli.probing.similarity import SimilarityCommand, similarity
from unified_jax.errors import UserError, meant
from unified_jax.precision import check_seed, same_numbers
from unified_jax.runs.flags import check_steps, first_word, parse
from unified_jax.runs.given import split_arguments
from unified_jax.runs.spectra import SpectrumCommand, spectrum


@same_numbers()
def main(arguments: list[str]) -> None:
    """Runs the command."""
    kinds: dict[str, tuple[Any, Callable[[Any], None]]] = {
        "similarity": (SimilarityCommand, similarity),
        "loss": (LossCommand, loss),
        "noise": (NoiseCommand, noise),
        "spectrum": (SpectrumCommand, spectrum),
    }
    known = ("attention", *kinds)
    more = "unified-jax probe KIND --help lists the flags of a kind."
    name = first_word(arguments, "unified-jax probe KIND --run DIR", "kinds", known, more)
    if name not in known:
        near = meant(name, known)
        usage = "unified-jax probe KIND --run DIR"
        raise UserError(f"Unknown probe {name!r}{near} Usage: {usage}; kinds: {', '.join(known)}.")
    given, rest = split_arguments(arguments[1:])
    if name == "attention":
        command = parse(AttentionCommand, "unified-jax probe attention", rest)
        check_seed(command.seed)
        check_steps(command.steps)
        use_compilation_cache()
        attention(command, given)
        return
    if given:
        raise UserError("--given belongs to the probe of attention.")
    kind, act = kinds[name]
    command = parse(kind, f"unified-jax probe {name}", rest)
    check_seed(command.seed)
    use_compilation_cache()
    act(command)


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))

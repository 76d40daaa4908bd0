"""Whether documents fit into their rows, and may have the names that they have: checked before anything is built."""

from typing import Any

ARRAYS = (
    "ids", "position", "visible", "item", "text_weight", "start", "clean", "limit", "slot", "used", "dropped", "step",
)  # fmt: skip
"""Names of a packed batch's own arrays, which no modality can have."""


def check_packer(packer: Any) -> None:
    """Raises ValueError for names that are not there or taken, and for items or sure documents longer than a row."""
    policy, modalities = packer.policy, packer.modalities
    names = [m.name for m in modalities]
    named = {name for pair in policy.apart for name in pair}
    named |= {name for name, _ in (*policy.keep_of, *policy.clean_of)}
    if strange := sorted(named - set(names)):
        raise ValueError(
            f"Documents.apart, keep_of or clean_of names {', '.join(strange)}; there are {', '.join(sorted(names))}."
        )
    if taken := sorted(set(names) & set(ARRAYS)):
        raise ValueError(
            f"No modality of a document can be named {taken[0]!r}: a batch has an array of that name; choose another."
        )
    if not any(map(policy.rate, names)):
        raise ValueError("Documents.keep and keep_of leave out every modality; give one a probability above 0.")
    alone = [(m,) for m, name in enumerate(names) if policy.rate(name) or policy.whole]
    longest = max(_tokens(packer, chosen) for chosen in (*alone, *_sure(policy, names)))
    if packer.length < longest:
        sizes = ", ".join(f"{name} {packer.content(m)}" for m, name in enumerate(names))
        raise ValueError(
            f"A row of {packer.length} tokens is too short for a document of up to {longest} ({sizes}, and a begin "
            "and an end token each); make length greater or the items shorter."
        )


def _tokens(packer: Any, chosen: tuple[int, ...]) -> int:
    return 2 + sum(2 + packer.content(m) for m in chosen)


def _sure(policy: Any, names: list[str]) -> list[tuple[int, ...]]:
    """All sets of modalities that always come together, without those that are kept apart."""
    found: list[tuple[int, ...]] = [()]
    for m, name in enumerate(names):
        if policy.whole or policy.rate(name) == 1:
            parted = {other for pair in policy.apart if name in pair for other in pair} - {name}
            found += [(*others, m) for others in found if not parted & {names[other] for other in others}]
    return found

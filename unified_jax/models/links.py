"""How the links of a chain are wired: which field of the chain each reads and makes (`models.chain`)."""

from dataclasses import fields, is_dataclass, replace
from typing import Any, NamedTuple

from unified_jax.errors import meant


class Wire(NamedTuple):
    """What a link reads and makes: field of the chain -> the model's field."""

    name: str
    """The link's."""
    reads: dict[str, str]
    makes: dict[str, str]


def wired(links: tuple[Any, ...]) -> tuple[Wire, ...]:
    """The wire of each link. Raises ValueError for a name that is not there, or two links that make one field."""
    makers: dict[str, str] = {}
    wires: list[Wire] = []
    for link in links:
        names: dict[str, str] = _names(link)
        reads: dict[str, str] = {names.get(own, str(own)): own for own in link.model.givable}
        makes: dict[str, str] = {names.get(own, str(own)): own for own in link.model.wantable}
        taken = {ours for ours, _ in link.takes}
        for name in [name for name in makes if name in makers]:
            if not (name in taken and name in reads):
                own, other = makes[name], f"{name}_2"
                or_read = f", or let it read the other's: takes=(({name!r}, {own!r}),)" if name in reads else ""
                raise ValueError(
                    f"The links {makers[name]!r} and {link.name!r} both make {name!r}; rename one of them in the "
                    f"chain: takes=(({other!r}, {own!r}),){or_read}."
                )
            makes.pop(name)
        if not makes:
            raise ValueError(f"The link {link.name!r} makes nothing; a chain is of models that generate.")
        makers.update(dict.fromkeys(makes, str(link.name)))
        wires.append(Wire(link.name, reads, makes))
    _check_taken(links, wires)
    return tuple(wires)


def _names(link: Any) -> dict[str, str]:
    """The model's fields -> their names in the chain."""
    own = [modality.name for modality in link.model.modalities]
    renamed = {theirs: ours for ours, theirs in link.takes}
    if unknown := [name for name in renamed if name not in own]:
        raise ValueError(
            f"The link {link.name!r} takes {renamed[unknown[0]]!r} as {unknown[0]!r}, which is no field of its model"
            f"{meant(unknown[0], own)} It has {', '.join(own)}."
        )
    names = {name: renamed.get(name, name) for name in own}
    if twice := sorted({name for name in names.values() if list(names.values()).count(name) > 1}):
        both = " and ".join(repr(own) for own, ours in names.items() if ours == twice[0])
        raise ValueError(f"The link {link.name!r} has {both} under one name of the chain, {twice[0]!r}.")
    return names


def _check_taken(links: tuple[Any, ...], wires: list[Wire]) -> None:
    """Raises ValueError where `takes` names a field that nobody makes, without telling two of one name apart."""
    for i, link in enumerate(links):
        for ours, own in link.takes:
            others = [name for j, wire in enumerate(wires) if j != i for name in (*wire.reads, *wire.makes)]
            if ours not in (*wires[i].makes, *others) and own not in others:
                before = [name for wire in wires[:i] for name in wire.makes]
                raise ValueError(
                    f"The link {link.name!r} takes {ours!r} as {own!r}, and no link has {ours!r}{meant(ours, before)} "
                    f"Links before it make {', '.join(before) or 'nothing'}."
                )


def check_order(wires: tuple[Wire, ...]) -> None:
    """Raises ValueError for a link that reads what only a later one makes."""
    makers = {name: i for i, wire in enumerate(wires) for name in wire.makes}
    for i, wire in enumerate(wires):
        for name in wire.reads:
            later = makers.get(name, i)
            if later <= i:
                continue
            if _follows(wires, later, i):
                raise ValueError(
                    f"A cycle: the link {wire.name!r} reads {name!r}, which {wires[later].name!r} makes of what "
                    f"{wire.name!r} makes; give one of the two fields another name with `takes`."
                )
            raise ValueError(
                f"The link {wire.name!r} reads {name!r}, which {wires[later].name!r} makes after it; links run in "
                "order, so put that one first, or give one of the two fields another name with `takes`."
            )


def _follows(wires: tuple[Wire, ...], later: int, first: int) -> bool:
    """Whether a link reads, directly or through others, what an earlier one makes."""
    needed = set(wires[later].reads)
    for wire in wires[first:later][::-1]:
        if needed & set(wire.makes):
            if wire is wires[first]:
                return True
            needed |= set(wire.reads)
    return False


def fields_of(links: tuple[Any, ...], wires: tuple[Wire, ...]) -> dict[str, Any]:
    """{the chain's name: modality}: that of the link which makes it, else of the first that reads it.

    Raises ValueError for one field that two links see as different data.
    """
    makers = {name: wire.name for wire in wires for name in wire.makes}
    found: dict[str, tuple[str, Any]] = {}
    for link in links:
        names = _names(link)
        for modality in link.model.modalities:
            name = names[modality.name]
            if name not in found or makers.get(name) == link.name:
                found[name] = (link.name, _renamed(link, modality, name))
    for link, wire in zip(links, wires, strict=True):
        names = _names(link)
        for modality in link.model.modalities:
            name = names[modality.name]
            owner, chosen = found[name]
            if _data(modality) != _data(chosen):
                raise ValueError(
                    f"The field {name!r} is {chosen} for the link {owner!r} and {modality} for {link.name!r}; give one "
                    "of them another name with `takes`, or make them equal."
                )
            if name in wire.reads and name not in wire.makes and name in makers and not hasattr(chosen, "to_prepared"):
                raise ValueError(
                    f"The link {link.name!r} reads {name!r}, which {owner!r} makes: {type(chosen).__name__} needs a "
                    "method to_prepared (model space to prepared arrays, in jnp)."
                )
    return {name: modality for name, (_, modality) in found.items()}


def _renamed(link: Any, modality: Any, name: str) -> Any:
    if modality.name == name:
        return modality
    if "name" not in getattr(modality, "__dataclass_fields__", ()):
        raise ValueError(
            f"The link {link.name!r} calls {modality.name!r} {name!r}: {type(modality).__name__} has no field `name`."
        )
    return replace(modality, name=name)


def _data(modality: Any) -> Any:
    """All that says how its arrays are to be read: its class and fields without its name and its patches."""
    if not is_dataclass(modality):
        return modality
    names = [field.name for field in fields(modality) if field.name not in ("name", "patch")]
    return type(modality), {name: getattr(modality, name) for name in names}

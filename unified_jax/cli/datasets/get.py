"""`unified-jax data get NAME`: a public set from the originals of its authors. Nothing else fetches anything."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from unified_jax.data.public import SETS, PublicSet
from unified_jax.errors import UserError, meant
from unified_jax.runs.flags import parse
from unified_jax.runs.folders import make_folder


@dataclass(frozen=True)
class GetCommand:
    """Fetch the original files of a public set and build from them the set that recipes read. No name: list the sets.

    An interrupted download goes on with the same command.
    """

    name: tyro.conf.Positional[str] = ""
    """The set; without it, they are listed."""
    data_dir: str = "data/tfds"
    """Folder for NAME/VERSION/; the originals are kept in its folder downloads/."""
    source: str = ""
    """Folder that holds the originals, or an address of one; default: where their authors publish them."""
    unverified: bool = False
    """Build from files whose SHA-256 is not the published one too."""


def main(arguments: list[str]) -> None:
    """Runs the command."""
    command = parse(GetCommand, "unified-jax data get", arguments)
    if not command.name:
        print(listing())
        return
    one = wanted(command.name)
    try:
        data_dir = Path(command.data_dir).expanduser()
        Path(command.source).expanduser()
    except RuntimeError as error:  # ~ of an unknown user, or one without a home
        raise UserError(
            f"--data-dir {command.data_dir!r} or --source {command.source!r} cannot be found: {error}"
        ) from None
    from tqdm import tqdm

    from unified_jax.data.public.build import SOURCE, build, check_new
    from unified_jax.data.public.fetch import fetch, places_of

    check_new(one, data_dir)
    places_of(one, command.source)  # what is missing is said before a folder is made
    downloads = data_dir / "downloads" / one.name
    make_folder(data_dir)
    print(f"{one.name} {one.version}: {one.summary}\nfrom {one.home}\nlicence {one.licence}: {one.licence_address}")
    if not command.source:
        print("\n".join(f"  {original.address}" for original in one.originals))
    with tqdm(unit="B", unit_scale=True, unit_divisor=1000, dynamic_ncols=True, leave=False) as bar:
        fetched = fetch(one, downloads, command.source, command.unverified, _shown(bar))
    for original in one.originals:
        state = "verified" if fetched[original.file].verified else "not verified: its SHA-256 is not the published one"
        print(f"{original.file}: {state if original.sha256 else 'not verified: no checksum is known'}")
    with tqdm(unit="record", dynamic_ncols=True, leave=False) as bar:
        target = build(one, data_dir, fetched, bar.update)
        count = bar.n
    size = sum(path.stat().st_size for path in target.iterdir())
    kept = f"; the originals are kept in {downloads}" if downloads.is_dir() else ""
    print(f"{count:,} records, {size / 1e6:.0f} MB in {target}; {SOURCE} says where they came from{kept}")
    if command.data_dir != GetCommand.data_dir:
        print(f"recipes read it with --data.data-dir {command.data_dir}")


def wanted(name: str) -> PublicSet:
    """The set of this name. Raises UserError for an unknown one."""
    names = {known: one for one in SETS for known in (one.name, one.short)}
    plain = name.lower().replace("-", "_")
    if plain not in names:
        raise UserError(
            f"There is no public set {name!r}{meant(name, names)} Sets: {', '.join(one.name for one in SETS)}."
        )
    return names[plain]


def listing() -> str:
    """All sets: name, content, records, size and licence."""
    lines = []
    for one in SETS:
        lines += [f"{one.name} (or {one.short})", f"  {one.summary}", f"  {one.records}; {one.to_fetch()} to fetch"]
        lines += [f"  licence {one.licence}", f"  {one.home}"]
    return "\n".join([*lines, "unified-jax data get NAME fetches and builds one."])


def _shown(bar: Any) -> Any:
    """Shows the download of one file after the other, with rate and time left."""

    def report(file: str, done: int, size: int) -> None:
        if bar.desc != f"{file}: ":
            bar.reset(size or None)
            bar.initial = done  # what was there before does not count for the rate
            bar.n = bar.last_print_n = done
            bar.set_description(file)
        bar.update(done - bar.n)

    return report

"""Data in files, of whatever kind is found at a path."""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unified_jax.data.base import Source
from unified_jax.data.folder import Folder
from unified_jax.data.kinds import MEDIA
from unified_jax.data.located import Labelled
from unified_jax.data.metadata import METADATA
from unified_jax.data.records import HEAD, Records
from unified_jax.data.table import FORMATS, Table, saved_files
from unified_jax.data.tars import Shards
from unified_jax.data.tfds import Tfds
from unified_jax.errors import UserError
from unified_jax.modalities.reading import first_line

LOOKED_AT = 10_000
"""Files whose suffixes say what a folder holds."""


@dataclass(frozen=True)
class Files(Labelled):
    """The set at a path: a folder of files, a table, tars, a set that `data build`, `datasets` or TFDS wrote."""

    def splits(self) -> tuple[str, ...]:
        """Those of what is there."""
        return self.found().splits()

    def columns(self, split: str) -> tuple[str, ...]:
        """Those of what is there."""
        return self.found().columns(split)

    def parts(self, split: str, fields: tuple[str, ...]) -> tuple[tuple[float, str, Source], ...]:
        """The parts of what is there. UserError where nothing is."""
        return self.found().parts(split, fields)

    def found(self) -> Any:
        """The data set of its own kind. UserError where there is none."""
        if not self.path:
            raise UserError("The recipe reads your files: say where they are, with --data.path FOLDER or FILE.")
        try:
            root = Path(self.path).expanduser()
            if not root.exists():
                raise UserError(f"The path {self.path!r} does not exist; expected a folder or file with data.")
            return self._found(root)
        except (OSError, RuntimeError) as error:
            raise UserError(f"The path {self.path!r} cannot be read: {first_line(error)}.") from None

    def _found(self, root: Path) -> Any:
        if root.is_file():
            return self._file(root)
        if (root / HEAD).is_file():
            return Records(self.path, self.rename)
        if (root / "features.json").is_file() and (root / "dataset_info.json").is_file():
            named, version = root.parent.name, root.name
            return Tfds(f"{named}/{version}", str(root.parent.parent), self.rename)
        if saved_files(root):
            return Table(self.path, self.rename, self.test, self.labels)
        there = (p for p in root.rglob("*") if p.is_file() and not _hidden(p.relative_to(root)))
        names = list(itertools.islice(there, LOOKED_AT))
        kinds = [p.suffix.lower() for p in names if p.name not in METADATA]
        tables = [p for p in names if p.suffix.lower() in (".parquet", ".arrow")]
        pictures = [p for p in names if p.suffix.lower() in MEDIA]
        if tables and pictures and not any(p.name in METADATA for p in names):
            one, other = (str(found[0].relative_to(root)) for found in (tables, pictures))
            raise UserError(
                f"{self.path!r} holds tables ({one}) and files that may be records themselves ({other}); name the "
                "folder or the file of one kind with --data.path."
            )
        if pictures or any(p.name in METADATA for p in names):
            return Folder(self.path, self.rename, self.test, self.labels)
        if ".tar" in kinds:
            return Shards(self.path, self.rename, self.test)
        if any(kind in FORMATS for kind in kinds):
            return Table(self.path, self.rename, self.test, self.labels)
        return Folder(self.path, self.rename, self.test, self.labels)

    def _file(self, root: Path) -> Any:
        if ".tar" in root.suffixes[-2:]:
            return Shards(self.path, self.rename, self.test)
        if root.suffix.lower() in FORMATS:
            return Table(self.path, self.rename, self.test, self.labels)
        raise UserError(f"{self.path!r} is no data set; expected a folder, a tar, or a table ({', '.join(FORMATS)}).")


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)

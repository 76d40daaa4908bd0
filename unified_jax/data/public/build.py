"""A public set as TFDS has it: ArrayRecord files in NAME/VERSION, beside SOURCE.json, which says whence they came."""

import contextlib
import datetime
import io
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from unified_jax.data.public.base import PublicSet, Records
from unified_jax.data.public.fetch import Fetched
from unified_jax.errors import RunError, UserError

SOURCE = "SOURCE.json"
"""Addresses, checksums, date and licence, among the files of the set."""


def check_new(one: PublicSet, data_dir: Path) -> Path:
    """The folder of the set. Raises UserError if it exists."""
    target = data_dir / one.name / one.version
    if target.exists():
        raise UserError(f"{str(target)!r} exists already; remove it, or choose another --data-dir.")
    return target


def build(one: PublicSet, data_dir: Path, fetched: Mapping[str, Fetched], report: Callable[[int], Any]) -> Path:
    """Writes the set; `report(1)` after each record. Nothing is left where it fails.

    Raises UserError if it exists or an original is broken, RunError if it cannot be written.
    """
    import tensorflow_datasets as tfds

    target = check_new(one, data_dir)
    made = one.splits({name: file.path for name, file in fetched.items()})
    tfds.disable_progress_bar()  # `report` has one
    plain = tfds.download.DownloadConfig(try_download_gcs=False)
    try:
        builder = _builder(one, made, report)(data_dir=data_dir, file_format="array_record")
        with tempfile.TemporaryDirectory() as nothing, contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare(download_dir=nothing, download_config=plain)
        source = json.dumps(_source(one, fetched), indent=2, ensure_ascii=False)
        (target / SOURCE).write_text(source + "\n", encoding="utf-8")
        for left in target.parent.glob(f"incomplete.*_{one.version}"):  # of a build that was killed
            shutil.rmtree(left, ignore_errors=True)
    except OSError as error:
        shutil.rmtree(target, ignore_errors=True)
        raise RunError(
            f"{str(target)!r} cannot be written: {error.strerror or error}; the originals are kept: run the command "
            "again."
        ) from None
    return target


def _builder(one: PublicSet, made: Mapping[str, Callable[[], Records]], report: Callable[[int], Any]) -> Any:
    import tensorflow_datasets as tfds

    class Public(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        """The records of all splits, in the order of their hashed keys."""

        name = one.name
        VERSION = tfds.core.Version(one.version)
        pkg_dir_path = None

        def _info(self) -> Any:
            return tfds.core.DatasetInfo(
                builder=self,
                description=one.summary,
                features=tfds.features.FeaturesDict(one.features()),
                supervised_keys=one.supervised,
                homepage=one.home,
                license=f"{one.licence}: {one.licence_address}",
            )

        def _split_generators(self, dl_manager: Any) -> dict[str, Records]:
            del dl_manager
            return {split: self._generate_examples(split) for split in made}

        def _generate_examples(self, split: str) -> Records:
            for key, record in made[split]():
                yield key, record
                report(1)

    return Public


def _source(one: PublicSet, fetched: Mapping[str, Fetched]) -> dict[str, Any]:
    files = [
        {
            "file": name,
            "address": file.address,
            "sha256": file.sha256,
            "bytes": file.size,
            "verified": file.verified,
        }
        for name, file in fetched.items()
    ]
    return {
        "set": one.name,
        "version": one.version,
        "built": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "home": one.home,
        "licence": one.licence,
        "licence_address": one.licence_address,
        "files": files,
    }

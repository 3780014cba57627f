"""The weights file of a library graph: a zip of the package's data files, and the versions of the packages.

The file's sha256 pins the graph in a release, so it must change with whatever changes the numbers, and with nothing
else: entries are in order, uncompressed and without times.
"""

from __future__ import annotations

import importlib.metadata
import json
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from sync_r1.reward_models.graphs.spec import GraphFileMissing, pin_path
from sync_r1.reward_models.releases import file_sha256

_VERSIONS = "versions.json"


class ArchiveError(GraphFileMissing):
    """A library graph that cannot be made or loaded; the message names the package or the file, and the cure."""


def write_archive(file: Path, files: Mapping[str, bytes], packages: Sequence[str]) -> None:
    """Write an archive of `files` (name -> content) and the versions of `packages`, and its pin beside it.

    Each appears whole or not at all, the pin last. Raises ArchiveError when a package is not installed.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_suffix(".draft")
    with zipfile.ZipFile(draft, "w", zipfile.ZIP_STORED) as archive:
        versions = json.dumps(_versions(packages), sort_keys=True).encode()
        for name, content in sorted({**files, _VERSIONS: versions}.items()):
            archive.writestr(zipfile.ZipInfo(name), content)
    draft_pin = draft.with_suffix(".pin")
    pin = {"sha256": file_sha256(draft), "versions": _versions(packages)}
    draft_pin.write_text(json.dumps(pin, indent=1, sort_keys=True) + "\n")
    draft.replace(file)
    draft_pin.replace(pin_path(file))


def check_versions(file: Path, packages: Sequence[str]) -> None:
    """Raise ArchiveError unless `file` is an archive that was made for the installed versions of `packages`."""
    try:
        with zipfile.ZipFile(file) as archive:
            pinned = json.loads(archive.read(_VERSIONS))
    except (OSError, zipfile.BadZipFile, ValueError, KeyError) as error:
        raise ArchiveError(f"{file} is no library graph ({error}); delete it and export again") from error
    if pinned != (installed := _versions(packages)):
        raise ArchiveError(
            f"{file} was made for {_said(pinned)}, installed is {_said(installed)}: the numbers may differ; "
            "install those versions, or delete the file and export again, which makes a new release"
        )


@contextmanager
def opened(file: Path, packages: Sequence[str]) -> Iterator[Path]:
    """A folder with the archive's files, for as long as the block runs. Raises ArchiveError."""
    check_versions(file, packages)
    with tempfile.TemporaryDirectory(prefix="sync-r1-library-") as folder:
        try:
            with zipfile.ZipFile(file) as archive:
                archive.extractall(folder)
        except (OSError, zipfile.BadZipFile) as error:
            raise ArchiveError(f"{file} is no library graph ({error}); delete it and export again") from error
        yield Path(folder)


def _versions(packages: Sequence[str]) -> dict[str, str]:
    try:
        return {package: importlib.metadata.version(package) for package in packages}
    except importlib.metadata.PackageNotFoundError as error:
        raise ArchiveError(f"package {error.name!r} is not installed; install the `scorers` extra") from error


def _said(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))

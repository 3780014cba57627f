"""Where a file of scores may be written, and writing there that fails in one sentence."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from sync_r1.trainer_client.sdk.sample_file import ScoreFileError

CURE = "give another --output, or move it away"


def write_all(descriptor: int, data: bytes, offset: int) -> None:
    """All of it; a full disk may take a part and say so only of the next."""
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def check_place(path: Path, source: Path) -> None:
    """Raises ScoreFileError for what must not be written to."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise unwritable(path, error) from error
    if stat.S_ISLNK(found.st_mode):
        raise ScoreFileError(f"{path} is a symbolic link; give the file that it points to as --output")
    if not stat.S_ISREG(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "no regular file"
        raise ScoreFileError(f"{path} is {kind}, and a run must be able to go on from what it holds; {CURE}")
    if source.exists() and os.path.samestat(found, source.stat()):
        raise ScoreFileError(f"{path} is the input itself; give another --output")


def unwritable(path: Path, error: OSError | ValueError) -> ScoreFileError:
    """What to raise when writing fails."""
    said = getattr(error, "strerror", None) or str(error)
    return ScoreFileError(
        f"cannot write {path}: {said}; what it holds is whole: see to the cause, and run the same command again"
    )


def sync_folder(path: Path) -> None:
    """Return once the folder's list of names is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

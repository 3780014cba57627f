"""Errors that are raised on purpose, and how a command ends on them.

    SyncR1Error              base of every deliberate error, in all packages
    └── UserError            what the user gave cannot be used; a ValueError too

A command shows a deliberate error as one sentence and ends with code 1. Anything else is a bug and keeps its trace.
This module imports no other of ours and nothing heavy, so that `sync-r1 --help` stays quick.
"""

from __future__ import annotations

import difflib
import errno
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

_FULL = "free some space and run the command again: a training run goes on with --resume, a score file where it stopped"
_FORBIDDEN = "name a folder that this user may write, or change its permissions"
_OF_THE_MACHINE = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), _FULL),
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), _FORBIDDEN),
}
"""A full or read-only disk and a missing permission are no bug, whichever file they concern; with their cure."""


class SyncR1Error(Exception):
    """Base of every error that is raised on purpose: its message says what was expected, what came, and the cure."""


class UserError(SyncR1Error, ValueError):
    """An option, a file or a setting that the user gave cannot be used; the message names it."""


def nearest_first(wanted: str, known: Iterable[str]) -> str:
    """The known names for a message about one that is unknown, the likeliest meant first."""
    names = sorted(known, key=lambda name: (-difflib.SequenceMatcher(None, wanted, name).ratio(), name))
    return ", ".join(map(repr, names)) or "none"


def is_deliberate(error: BaseException, files: Iterable[Path | str] = ()) -> bool:
    """Whether a command shows `error` as a sentence instead of a trace.

    An OSError is the user's where it concerns one of `files` (what the command was told to read or write), something
    below one of them or a folder above one; or where the disk is full, read-only or not permitted.
    """
    if isinstance(error, SyncR1Error):
        return True
    if not isinstance(error, OSError):
        return False
    if error.errno in _OF_THE_MACHINE:
        return True
    concerned = [_absolute(name) for name in (error.filename, error.filename2) if isinstance(name, str | os.PathLike)]
    named = [_absolute(file) for file in files]
    return any(one.is_relative_to(file) or file.is_relative_to(one) for one in concerned for file in named)


def sentence(error: BaseException) -> str:
    """What a command says of a deliberate error; the machine's own get their cure here."""
    cure = _OF_THE_MACHINE.get(error.errno or 0, "") if isinstance(error, OSError) else ""
    return f"{error}; {cure}" if cure else str(error)


def _absolute(file: Path | str | os.PathLike[str]) -> Path:
    return Path(os.path.abspath(file))


@contextmanager
def exit_on_error(*files: Path | str) -> Iterator[None]:
    """For the entry point of a module: a deliberate error ends the process with one sentence on stderr and code 1.

    `files` are those that the user named (see `is_deliberate`).
    """
    try:
        yield
    except Exception as error:
        if not is_deliberate(error, files):
            raise
        sys.exit(f"error: {sentence(error)}")

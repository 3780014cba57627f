"""Files that survive a killed process and a lost power supply: what was written is whole, or not there at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_text(file: Path, text: str) -> None:
    """Replace `file` by one that holds `text`; a crash on the way leaves the old one."""
    partial = file.with_name(f".{file.name}.partial")
    with named(file), partial.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(partial, file)
    sync(file.parent)


def append_line(file: Path, line: str) -> None:
    """Add one line and return once it is on the disk. A crash on the way can leave part of it: see `cut_torn_line`."""
    new = not file.exists()
    with named(file), file.open("a", encoding="utf-8") as stream:
        stream.write(line + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    if new:
        sync(file.parent)


def cut_torn_line(file: Path) -> None:
    """Remove what follows the last line break: a line that a crash left unfinished. Nothing happens without a file."""
    if not file.exists():
        return
    with file.open("rb+") as stream:
        data = stream.read()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            stream.truncate(whole)
            os.fsync(stream.fileno())


@contextmanager
def named(file: Path) -> Iterator[None]:
    """An OSError of an open file (a full disk shows at the write, not at the open) says which file it was."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(file)
        raise


def sync(path: Path) -> None:
    """Return once the file, or the folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

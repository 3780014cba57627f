"""Files that may change while a service runs: tokens, certificates, routes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeAlias

Stamp: TypeAlias = "tuple[int, int, int] | None"


def stamp(path: Path) -> Stamp:
    """Changes whenever the file does, also where a directory of a Kubernetes secret is swapped; None if it is gone."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size

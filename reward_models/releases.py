"""Releases: immutable names for everything that makes a score.

What scores is never one model but several graphs, their preprocessing and a formula. A `Release` names them all, and
its digest changes when any of them does; every response carries it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class GraphPin:
    """One model version on Triton and the sha256 (64 hex digits) of its weights file."""

    name: str
    version: int
    sha256: str


@dataclass(frozen=True)
class Release:
    """A reward's variant, the version of its formula, and the graphs it runs."""

    reward: str
    variant: str
    formula_version: str
    graphs: tuple[GraphPin, ...] = ()

    @property
    def digest(self) -> str:
        """sha256 over all fields, 64 lower-case hex digits; independent of the order in which graphs are listed."""
        fields = asdict(self) | {"graphs": sorted((graph.name, graph.version, graph.sha256) for graph in self.graphs)}
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()

    def version_of(self, graph: str) -> int:
        """The pinned version of `graph`. Raises KeyError naming the graphs the release has."""
        for pin in self.graphs:
            if pin.name == graph:
                return pin.version
        raise KeyError(f"release {self.digest[:12]} has no graph {graph!r}; it has {[pin.name for pin in self.graphs]}")


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes, 64 lower-case hex digits. Raises OSError if it cannot be read."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):  # weights may be larger than memory
            digest.update(chunk)
    return digest.hexdigest()

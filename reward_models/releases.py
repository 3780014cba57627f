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
    """One graph: the version that its profile gives it, and the sha256 (64 hex digits) of its weights."""

    name: str
    version: int
    sha256: str

    @property
    def triton_version(self) -> int:
        """The version number under which Triton serves these weights and no others: 1 to 2^52 - 1, from their sha256.

        So Triton itself refuses a call that is meant for other weights, whichever replica it reaches and whenever its
        files were exchanged. Triton takes numbers up to 2^63 - 1; 13 hex digits stay exact where a tool reads JSON's
        numbers as doubles, and two of 1,000 files share one in 1 of 9,000,000,000 cases.
        """
        return max(1, int(self.sha256[:13], 16))


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

    def pin_of(self, graph: str) -> GraphPin:
        """The pin of `graph`. Raises KeyError naming the graphs the release has."""
        for pin in self.graphs:
            if pin.name == graph:
                return pin
        raise KeyError(f"release {self.digest[:12]} has no graph {graph!r}; it has {[pin.name for pin in self.graphs]}")


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes, 64 lower-case hex digits. Raises OSError if it cannot be read."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):  # weights may be larger than memory
            digest.update(chunk)
    return digest.hexdigest()

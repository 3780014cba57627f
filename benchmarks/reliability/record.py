"""What a drill says: rows promise → how → figure → target → met; kept as JSON, gathered in RELIABILITY.md."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from benchmarks.harness import RESULTS, machine

KEPT = RESULTS / "reliability"
PAGE = Path(__file__).parents[1] / "RELIABILITY.md"
NOT_MEASURED = "not measured"
_HEAD = """# Reliability: promise → test → figure

`make soak` makes this page again ({minutes:.0f} minutes on the machine below), `make drill NAME=overload` one of its parts. How to replay a drill by hand:
`docs/fault-drills.md`. Load generators, services, Triton and Envoy share the cores of one machine; each part says which side was the limit. Figures are those of one
run each, whose date and load stand below it; a row that misses its target says so. Run drills alone: `docs/fault-drills.md`, "Reading the figures".
"""  # noqa: E501


@dataclass(frozen=True)
class Row:
    """One promise and what was measured. `met` is None where it could not be measured here."""

    promise: str
    figure: str
    target: str
    met: bool | None
    how: str = ""
    """The test or command, where it is not the drill itself."""

    @property
    def verdict(self) -> str:
        """For the table."""
        return NOT_MEASURED if self.met is None else "yes" if self.met else "**no**"


@dataclass
class Result:
    """A drill's rows, and what a reader must know to believe them."""

    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, promise: str, figure: str, target: str, met: bool | None, how: str = "") -> None:
        """One more row."""
        self.rows.append(Row(promise, figure, target, met, how))


def command(name: str) -> str:
    """What makes a drill's figures again."""
    return f"make drill NAME={name}"


def text(name: str, result: Result) -> str:
    """A drill's table as Markdown."""
    lines = ["| promise | test or command | figure | target | met |", "|---|---|---|---|---|"]
    for row in result.rows:
        how = row.how or command(name)
        lines.append(f"| {row.promise} | `{how}` | {row.figure} | {row.target} | {row.verdict} |")
    return "\n".join([*lines, "", *(f"* {note}" for note in result.notes)]).rstrip() + "\n"


def keep(name: str, title: str, result: Result, before: dict[str, str], seconds: float) -> None:
    """Write a drill's result. `before`: the machine as it was before the drill."""
    KEPT.mkdir(parents=True, exist_ok=True)
    content = {
        "name": name, "title": title, "at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "seconds": round(seconds, 1), "machine": before, "rows": [asdict(row) for row in result.rows],
        "notes": result.notes,
    }  # fmt: skip
    (KEPT / f"{name}.json").write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def gather(names: Sequence[str]) -> None:
    """Write the page from what is kept, drills in this order."""
    kept = [json.loads(path.read_text()) for name in names if (path := KEPT / f"{name}.json").exists()]
    parts = [_HEAD.format(minutes=sum(one["seconds"] for one in kept) / 60)]
    verdicts = [Row(**row).verdict for one in kept for row in one["rows"]]
    met, unknown = verdicts.count("yes"), verdicts.count(NOT_MEASURED)
    missed = len(verdicts) - met - unknown
    parts.append(f"{met} of {len(verdicts)} rows are met, {missed} missed, {unknown} could not be measured here.\n")
    for one in kept:
        result = Result([Row(**row) for row in one["rows"]], one["notes"])
        parts.append(f"## {one['title']}\n\n{text(one['name'], result)}")
        load, at = one["machine"]["load before"], one["at"][:16].replace("T", " ")
        parts.append(f"{at} UTC, {one['seconds']:.0f} s; load of the machine before: {load}.\n")
    now = machine()
    parts.append(", ".join(f"{key}: {value}" for key, value in now.items() if key != "load before") + "\n")
    PAGE.write_text("\n".join(parts))

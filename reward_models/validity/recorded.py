"""The recorded figures of the validity commands: rows measured anew replace the old ones, all others stay."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sync_r1.reward_models.errors import UserError

Row = dict[str, Any]
"""Figures by name, or groups of them; `machine` says where the figures beside it were measured (absent: unknown)."""


def wanted(names: Sequence[str], rows: Sequence[str]) -> list[str]:
    """The rows to measure: `names`, or all `rows` where none is named. Raises UserError for a name that is no row."""
    unknown = [name for name in names if name not in rows]
    if unknown:
        raise UserError(f"no figures are measured for {', '.join(unknown)}; --variant is one of {', '.join(rows)}")
    return list(dict.fromkeys(names)) or list(rows)


def merge(file: Path, command: str, measured: Mapping[str, Row], keep: Sequence[str] = ()) -> str:
    """Write the `measured` rows into `file`, marked with this machine, and return its new text.

    `keep`: groups within a row that could not be measured now and stay as recorded. Raises UserError for a file that
    is not JSON.
    """
    try:
        recorded = json.loads(file.read_text()) if file.is_file() else {}
    except json.JSONDecodeError as error:
        raise UserError(f"{file} is not JSON ({error}); restore it, or name another file with --out") from error
    rows = {name: row for name, row in recorded.items() if name != "command"}
    for name, row in measured.items():
        old = rows.get(name, {})
        rows[name] = _marked(row, machine()) | {group: old[group] for group in keep if group in old}
    text = json.dumps({"command": command, **rows}, indent=1)
    file.write_text(text + "\n")
    return text


def machine() -> str:
    """The processor and system that the figures come from: other processors round otherwise."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    processor = models[0] if models else platform.processor() or "unknown processor"
    return f"{processor}, {platform.system()} {platform.machine()}"


def _marked(row: Row, where: str) -> Row:
    """The row with `machine` in every group that holds figures itself."""
    inner = {name: _marked(value, where) if isinstance(value, dict) else value for name, value in row.items()}
    return inner if all(isinstance(value, dict) for value in row.values()) else {"machine": where, **inner}

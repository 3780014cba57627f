"""The lines of a file of scores, and how they are told from anything else.

Each line says which row it is of (`row_identity.py`), how the row is called, what scored it, and exactly one of
`score`, `not_applicable` and `failure`:

    {"sync_r1_row": "…", "id": "1", "reward": "…", "variant": "…", "release": "…", "score": {"value": 0.81, …}}
"""

from __future__ import annotations

import json
import re
from typing import Any

from pydantic import BaseModel, ConfigDict

from sync_r1.reward_models.types import FailureCode
from sync_r1.trainer_client.sdk.row_identity import RowKey

_HEAD = b'{"sync_r1_row": "'
_TORN = re.compile(re.escape(_HEAD) + rb"[0-9a-f]{1,64}(\"|:|$)")
_TORN_OLD = b'{"id": "'


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Score(_Part):
    value: float
    components: dict[str, float]
    reason: str = ""


class _Failure(_Part):
    code: FailureCode
    message: str
    field: str
    retryable: bool


class Line(_Part):
    """One line; those of earlier versions have no `sync_r1_row`, and some of them nothing that says what scored."""

    sync_r1_row: str = ""
    id: str
    reward: str = ""
    variant: str = ""
    release: str = ""
    score: _Score | None = None
    not_applicable: str | None = None
    failure: _Failure | None = None

    @property
    def scored_by(self) -> tuple[str, str, str]:
        """(reward, variant, release)."""
        return self.reward, self.variant, self.release


def parse_line(text: bytes) -> Line:
    """Raises ValueError unless the line is ours."""
    line = Line.model_validate_json(text)
    if sum(one is not None for one in (line.score, line.not_applicable, line.failure)) != 1:
        raise ValueError("expected exactly one of score, not_applicable and failure")
    if line.sync_r1_row:
        RowKey.parse(line.sync_r1_row)
        if not all(line.scored_by):
            raise ValueError("expected reward, variant and release")
    return line


def is_torn(text: bytes, old: bool) -> bool:
    """Whether this is what a killed run leaves of a line of ours; `old`: of an earlier version's too."""
    return _HEAD.startswith(text) or bool(_TORN.match(text)) or (old and text[:8] == _TORN_OLD[: len(text)])


def line_text(key: str, fields: dict[str, Any]) -> bytes:
    """The line with its end; an earlier version's has no key."""
    return json.dumps(({"sync_r1_row": key} if key else {}) | fields).encode() + b"\n"

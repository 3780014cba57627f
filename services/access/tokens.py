"""Bearer tokens: who calls, and what that team may use.

The file of `--tokens` is YAML; tokens stand in it as SHA-256 only, several per team while one is being replaced:

    teams:
      vision:
        tokens_sha256: [9f86d081…, 60303ae2…]   # `sync-r1 token` mints a token and shows its line
        items_per_s: 200                        # optional quotas, see quotas.py
        max_inflight_items: 512
        max_inflight_bytes: 268435456

It is read again when it changes. A new version with a mistake in it changes nothing and is logged, so that a slip of
the pen does not lock everybody out. Tokens are 256 random bits, so a plain hash of them cannot be guessed back.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sync_r1.reward_models.errors import SyncR1Error
from sync_r1.services.access.quotas import Team
from sync_r1.services.file_stamp import stamp

logger = logging.getLogger(__name__)

_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class TeamEntry(BaseModel):
    """One team of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tokens_sha256: tuple[_Digest, ...]
    """Hashes of its active tokens; none = the team is locked out."""
    items_per_s: float | None = Field(default=None, gt=0)
    max_inflight_items: int | None = Field(default=None, ge=1)
    max_inflight_bytes: int | None = Field(default=None, ge=1024)


class TokensFile(BaseModel):
    """The whole file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    teams: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,63}$")], TeamEntry] = Field(min_length=1)

    @model_validator(mode="after")
    def _one_team_per_token(self) -> TokensFile:
        owner: dict[str, str] = {}
        for name, team in self.teams.items():
            for digest in team.tokens_sha256:
                if owner.setdefault(digest, name) != name:
                    raise ValueError(f"teams {owner[digest]} and {name} have the same token {digest[:12]}…")
        return self


class TokensError(SyncR1Error, ValueError):
    """The file cannot be used; the message says where and what was expected."""


class Tokens:
    """The teams of a file, as it is now. Used from one event loop."""

    def __init__(self, path: Path) -> None:
        """Raises TokensError."""
        self._path = path
        self._stamp = stamp(path)
        self._teams: dict[str, Team] = {}
        self._by_digest: list[tuple[bytes, Team]] = []
        self._use(_read(path))

    @property
    def teams(self) -> dict[str, Team]:
        """Every team the service has known since it started, by name (a removed one keeps its counters)."""
        return self._teams

    def team_of(self, token: str) -> Team | None:
        """The team of an active token; None if there is no such token."""
        self._reload_if_changed()
        digest = hashlib.sha256(token.encode()).hexdigest().encode()
        found: Team | None = None
        for known, team in self._by_digest:  # all of them, whatever matched: the time must not tell
            if hmac.compare_digest(known, digest):
                found = team
        return found

    def _reload_if_changed(self) -> None:
        now = stamp(self._path)
        if now == self._stamp:
            return
        self._stamp = now
        try:
            self._use(_read(self._path))
        except TokensError as error:
            logger.error("the teams stay as they were: %s", error)
        else:
            logger.info("read the tokens of %d teams again", len({team.name for _, team in self._by_digest}))

    def _use(self, file: TokensFile) -> None:
        by_digest = []
        for name, entry in file.teams.items():
            team = self._teams.setdefault(name, Team(name))
            team.allow(
                items_per_s=entry.items_per_s,
                max_inflight_items=entry.max_inflight_items,
                max_inflight_bytes=entry.max_inflight_bytes,
            )
            by_digest += [(digest.encode(), team) for digest in entry.tokens_sha256]
        self._by_digest = by_digest


def mint() -> tuple[str, str]:
    """A new token and its SHA-256 (64 hex digits)."""
    token = secrets.token_urlsafe(32)
    return token, hashlib.sha256(token.encode()).hexdigest()


def _read(path: Path) -> TokensFile:
    try:
        return TokensFile.model_validate(yaml.safe_load(path.read_text()))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise TokensError(f"--tokens {path} cannot be read: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        # Not the value: somebody may have written a token where its hash belongs.
        raise TokensError(f"--tokens {path}: {where}: {first['msg'].removeprefix('Value error, ')}") from None

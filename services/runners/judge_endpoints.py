"""Where the judges are: a file of the operator, the only place that names a URL. Callers cannot.

    judge_answer:                            # a graph of the profile whose origin is `endpoint`
      url: https://models.example.com/v1     # /chat/completions is appended
      api_key_file: /run/secrets/judge-key   # read again whenever it changes; never logged
      concurrency: 8

Users' pictures and texts go there, so off loopback it must be https, unless told `insecure: true`.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from sync_r1.reward_models.errors import SyncR1Error
from sync_r1.services.config import is_loopback


class JudgesError(SyncR1Error, ValueError):
    """The file cannot be used; the message says where and what was expected."""


class JudgeEndpoint(BaseModel):
    """One OpenAI-compatible endpoint."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str
    """http(s)://HOST[:PORT]/PATH, to which `/chat/completions` is appended."""
    api_key_file: Path | None = None
    """One line, sent as a bearer token; none is sent without it."""
    ca_file: Path | None = None
    """PEM of the CAs that may vouch for the endpoint, instead of the usual ones."""
    concurrency: int = Field(default=8, ge=1, le=256)
    """Questions under way at once, from this service."""
    timeout_s: float = Field(default=60.0, gt=0)
    """Of one attempt; the caller's deadline ends all of them."""
    attempts: int = Field(default=4, ge=1, le=10)
    """Per question, the first one included. Only what may pass by itself is tried again."""
    max_answer_bytes: int = Field(default=1024 * 1024, ge=1024)
    cached_answers: int = Field(default=4096, ge=0)
    """Answers kept, so that a call that is made again does not pay again."""
    insecure: bool = False
    """Allow plain http off loopback: pictures, and the key, can then be read on the way."""

    @model_validator(mode="after")
    def _private(self) -> JudgeEndpoint:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError(f"url: expected http(s)://HOST[:PORT]/PATH without a query, got {self.url!r}")
        if parts.username or parts.password:
            raise ValueError("url: credentials do not belong in it; use `api_key_file`")
        if parts.scheme == "http" and not is_loopback(parts.hostname) and not self.insecure:
            raise ValueError(f"url: users' pictures go to {parts.hostname}; use https, or say `insecure: true`")
        return self


_FILE = TypeAdapter(dict[str, JudgeEndpoint])


def read_endpoints(file: Path) -> dict[str, JudgeEndpoint]:
    """Graph name -> its endpoint. Raises JudgesError."""
    try:
        return _FILE.validate_python(yaml.safe_load(file.read_text()) or {})
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise JudgesError(f"--judges {file} cannot be read: {error}") from None
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise JudgesError(f"--judges {file}: {where}: {first['msg'].removeprefix('Value error, ')}") from None


def read_key(name: str, file: Path) -> str:
    """The key in `api_key_file` of judge `name`. Raises JudgesError."""
    try:
        key = file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise JudgesError(f"judge {name}: api_key_file {file} cannot be read: {type(error).__name__}") from None
    if not key or any(character.isspace() for character in key):
        raise JudgesError(f"judge {name}: api_key_file {file} should hold one key on one line")
    return key

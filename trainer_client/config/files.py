"""Reading a configuration: a YAML file and `--set key=value`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from sync_r1.trainer_client.config.keys import migrate, renamed_keys
from sync_r1.trainer_client.config.run import TrainConfig
from sync_r1.trainer_client.config.section import ConfigError
from sync_r1.trainer_client.config.selectors import selector_keys


def load_config(file: Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """Read `file` and apply overrides such as "objective.beta=0" (values are YAML, so `false` is a bool).

    `file` may be a run's own `config.json`. Raises ConfigError when the file is missing, is no YAML mapping, or a key
    or value does not fit; for a key that has another name now the message says it.
    """
    try:
        values = yaml.safe_load(file.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read the configuration {file}: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{file}: expected a mapping of keys, got {type(values).__name__}")
    try:
        values = migrate(values) if "format" in values else values
    except ValueError as error:
        raise ConfigError(f"{file}: {error}") from error
    _refuse_renamed(values, str(file))
    values = _without_other_kinds(values, overrides)
    for override in overrides:
        own: dict[str, Any] = {}
        _apply(own, override)
        _refuse_renamed(own, f"--set {override}")
        _apply(values, override)
    try:
        return TrainConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        # pydantic names the kind of a selector between the section and its key.
        named = [part for index, part in enumerate(first["loc"]) if first["loc"][:1] != ("selector",) or index != 1]
        key = ".".join(str(part) for part in named) or "(the whole file)"
        raise ConfigError(f"{file}: key {key!r}: {first['msg']}; got {str(first.get('input'))[:80]!r}") from None


def _without_other_kinds(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """`values` without keys of the file's selector that the one named by `--set selector.kind` does not have."""
    kinds = [override.partition("=")[2] for override in overrides if override.startswith("selector.kind=")]
    selector = values.get("selector")
    if not kinds or not isinstance(selector, dict):
        return values
    known = selector_keys(kinds[-1])
    return values | {"selector": {key: value for key, value in selector.items() if key in known}}


def _refuse_renamed(values: dict[str, Any], where: str) -> None:
    if names := renamed_keys(values):
        changes = ", ".join(f"{old!r} is called {new!r} now" for old, new in names.items())
        raise ConfigError(f"{where}: {changes}; the meaning is the same, so use the new name")


def _apply(values: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals:
        raise ConfigError(f"--set wants key=value, e.g. objective.beta=0; got {override!r}")
    *parents, last = path.split(".")
    section = values
    for parent in parents:
        section = section.setdefault(parent, {})
        if not isinstance(section, dict):
            raise ConfigError(f"--set {override!r}: {parent!r} is a value, not a section")
    section[last] = yaml.safe_load(text)

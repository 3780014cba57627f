"""`config.json` of a run folder: a full dump of its configuration with the format that it was written in.

A folder of an older format is read as it is and written in the newest one when the run is resumed (`keys.py`
says what changes between formats).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sync_r1.trainer_client.atomic_write import write_text
from sync_r1.trainer_client.config.keys import FORMAT, FormatError, migrate
from sync_r1.trainer_client.config.run import TrainConfig
from sync_r1.trainer_client.config.section import ConfigError


def write_config(run: Path, config: TrainConfig) -> None:
    """Write `run/config.json` in the newest format."""
    values = {"format": FORMAT, **config.model_dump(mode="json")}
    write_text(run / "config.json", json.dumps(values, indent=1) + "\n")


def read_values(run: Path) -> dict[str, Any]:
    """The values in `run/config.json` under today's names, unchecked. Raises ConfigError when they cannot be read."""
    file = run / "config.json"
    try:
        values = json.loads(file.read_text())
        if not isinstance(values, dict):
            raise FormatError(f"expected an object, got {type(values).__name__}")
        return migrate(values)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} is not the configuration of a run that this version reads: {error}") from error


def read_config(run: Path) -> TrainConfig:
    """The configuration of the run in `run`, which may be of an older format. What older versions did not have is at
    its default.

    Raises ConfigError.
    """
    values = read_values(run)
    try:
        return TrainConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{run / 'config.json'} is not the configuration of a run of this version: {error}") from None


def changed_sections(before: TrainConfig, now: TrainConfig) -> list[str]:
    """Keys and sections of the whole configuration that say something else now."""
    then, current = (config.model_dump() for config in (before, now))
    return [key for key in current if then[key] != current[key]]

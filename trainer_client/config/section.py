"""What the sections of a configuration have in common."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from sync_r1.reward_models.errors import SyncR1Error

LONGEST_S = 7 * 86_400.0
"""The longest wait that may be configured: every wait has a bound, so infinity is none."""
MOST_SEED = (1 << 32) - 1
"""The largest seed that every random generator takes."""


class ConfigError(SyncR1Error, ValueError):
    """The configuration says something it cannot mean; the message names the key, what was expected and what came."""


class Section(BaseModel):
    """Keys that are not known are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Weight = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, lt=1)]

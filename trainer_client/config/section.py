"""What the sections of a configuration have in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

IMAGE_REWARDS = ("concept-consistency", "text-faithfulness", "aesthetic")
ANSWER_REWARD = "understanding-correctness"


class ConfigError(ValueError):
    """The configuration says something it cannot mean; the message names the key, what was expected and what came."""


class Section(BaseModel):
    """Keys that are not known are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

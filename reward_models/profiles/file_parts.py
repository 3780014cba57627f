"""What several parts of a profile file have in common: unknown keys, names, paths and cards."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints, ValidationInfo, model_validator

from sync_r1.reward_models.errors import nearest_first

RewardName = Annotated[str, StringConstraints(pattern=r"^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$")]
"""A label of DNS, because hosts and objects of Kubernetes are called after it."""
GraphName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")]
"""A plain folder name, because that is what it is in Triton's repository."""
VariantName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")]
"""Without "/", which stands between reward and variant."""


def _beside(path: Path, info: ValidationInfo) -> Path:
    return Path((info.context or {}).get("folder", "")) / path


BesideProfile = Annotated[Path, AfterValidator(_beside)]
"""A path relative to the profile file that states it; an absolute one stays."""


class Strict(BaseModel):
    """Unknown keys are errors: a misspelt option must not be ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, raw: Any) -> Any:
        if isinstance(raw, dict) and (unknown := [key for key in raw if key not in cls.model_fields]):
            known = nearest_first(str(unknown[0]), cls.model_fields)
            raise ValueError(f"there is no key {unknown[0]!r} here; there are {known}")
        return raw


class CardFile(Strict):
    """What a card says that the formula does not know: it depends on the graphs."""

    summary: str
    source: str
    licence: str = ""
    """Of the weights; empty where the catalogue of published models says it."""
    zero_at: float = 0.0
    """The raw score that the suggested map takes to 0."""
    one_at: float = 1.0
    """The raw score that the suggested map takes to 1."""
    raw_min: float = 0.0
    raw_max: float = 1.0
    validity: dict[str, str] = {}
    """Name of a group of figures ("" for none) -> FILE#KEY or FILE#KEY.KEY below reward_models/, where they lie."""
    validity_command: str = ""
    failure_modes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _rising(self) -> CardFile:
        if not self.one_at > self.zero_at:
            raise ValueError("`one_at` must be above `zero_at`")
        return self

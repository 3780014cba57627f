"""How one reward takes part in an ensemble: weight, release, what a failure does, map to [0, 1].

In an ensemble a use is named by its reward, `aesthetic`, or by reward and variant, `aesthetic/pickscore`, so that two
variants of one service can both take part.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from numbers import Real
from typing import Literal

import numpy as np

from sync_r1.trainer_client.sdk.bounds import seconds
from sync_r1.trainer_client.sdk.combination import Floats
from sync_r1.trainer_client.sdk.errors import BadArgument

FailurePolicy = Literal["drop_item", "drop_group", "required", "monitor_only"]
_POLICIES = ("drop_item", "drop_group", "required", "monitor_only")


def reward_of(name: str) -> str:
    """The reward in the name of a use: the service that is asked."""
    return name.partition("/")[0]


def variant_of(name: str) -> str:
    """The variant in the name of a use, "" if it has none."""
    return name.partition("/")[2]


@dataclass(frozen=True)
class AffineMap:
    """`unit = clip(raw * scale + shift, 0, 1)`."""

    scale: float
    shift: float

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not np.isfinite(value):
                raise BadArgument(f"AffineMap.{name}: expected a finite number, got {value!r}")

    def to_units(self, raw_N: Floats) -> Floats:
        """Raw scores on the scale of [0, 1]; NaN stays NaN."""
        return np.clip(raw_N * self.scale + self.shift, 0.0, 1.0)


@dataclass(frozen=True)
class RewardUse:
    """How one reward takes part."""

    weight: float
    """Share in the total, >= 0."""
    variant: str = ""
    """"" = the one in the use's name, else the service's default."""
    release: str = ""
    """Digest to pin; "" = the service's default."""
    policy: FailurePolicy = "drop_item"
    """What a failure does: takes out its item, its whole group, raises RewardFailed (`required`), or nothing
    (`monitor_only`: the reward is reported and never part of the total, so its weight must be 0)."""
    timeout_s: float | None = None
    """This reward's own deadline for one call, within the ensemble's; None = the ensemble's."""
    affine: AffineMap | None = None
    """Map from the raw scale to [0, 1]; None = the one on the variant's card."""

    def __post_init__(self) -> None:
        if self.policy not in _POLICIES:
            raise BadArgument(f"expected a policy of {_POLICIES}, got {self.policy!r}")
        if not (isinstance(self.weight, Real) and np.isfinite(self.weight) and self.weight >= 0):
            raise BadArgument(f"a weight must be finite and >= 0, got {self.weight!r}")
        if self.policy == "monitor_only" and self.weight:
            raise BadArgument(f"a monitored reward is not part of the total: its weight must be 0, got {self.weight}")
        if self.timeout_s is not None:
            if isinstance(self.timeout_s, Real) and self.timeout_s <= 0:
                raise BadArgument(f"a deadline must be > 0 seconds, got {self.timeout_s}")
            seconds("a deadline", self.timeout_s)


def named_use(name: str, use: RewardUse) -> RewardUse:
    """`use` with the variant of its name. Raises BadArgument when the two disagree."""
    variant = variant_of(name)
    if variant and use.variant not in ("", variant):
        raise BadArgument(f"{name!r} names the variant {variant!r}, but its use says {use.variant!r}; leave one out")
    return replace(use, variant=variant or use.variant)

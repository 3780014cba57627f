"""Items without a total, in words: why, and whether a batch without a single total is an outage or a landscape."""

from __future__ import annotations

from sync_r1.trainer_client.sdk.ensemble import EnsembleResult
from sync_r1.trainer_client.sdk.errors import RewardFailed

_SHOWN = 3


def reasons(result: EnsembleResult, position: int) -> dict[str, str]:
    """Reward name -> why it has no score of the item; empty where none failed (none applies, or its group fell)."""
    return {
        name: str(reward.error or reward.failures[position].message)
        for name, reward in result.rewards.items()
        if reward.failed_N[position]
    }


def without_total(result: EnsembleResult) -> list[int]:
    """Positions of the items that have none."""
    return [position for position, valid in enumerate(result.valid_N) if not valid]


def failed(result: EnsembleResult, positions: list[int]) -> RewardFailed:
    """The error for items without a total that the trainer cannot leave out."""
    shown = "; ".join(
        f"item {position}: {reasons(result, position) or 'no reward applies, or its group was taken out'}"
        for position in positions[:_SHOWN]
    )
    more = f"; and {len(positions) - _SHOWN} more" if len(positions) > _SHOWN else ""
    return RewardFailed(f"no reward could be given to {len(positions)} of {len(result.valid_N)} items: {shown}{more}")

"""How many replicas and GPUs a trainer needs, from measured speeds: `sync-r1 capacity plan` prints it.

Two bounds, and the larger one counts:

*burst*  the last pictures of a step arrive together and must be scored while the trainer waits for them:
         m ≥ burst / (stall · μ)
*queue*  those before arrive while others are still drawn, and must not wait longer than the last ones may. A replica
         works at μ = b / E[S] (requests of b items that take E[S]). Of its calls a share ρ has to wait at all, and that
         wait is close to exponential in heavy traffic (J. F. C. Kingman, "The single server queue in heavy traffic",
         Proc. Cambridge Phil. Soc. 57, 1961); for exponential arrivals and services this is exact:
         P(W > t) = ρ · exp(-t (1-ρ) / (v · E[S])),  v = (c_a² + c_s²) / 2
         99 of 100 calls wait no longer than stall - E[S] at the ρ with ln(100 ρ) · v · E[S] / (1-ρ) = stall - E[S];
         m ≥ offered / (ρ · μ)

c_s² is measured; c_a² = 1 (calls of many independent processes) unless it is known better. Dividing the calls over
replicas in turn makes each one's arrivals more even than that, which is on the safe side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sync_r1.reward_models.errors import SyncR1Error
from sync_r1.trainer_client.sdk.speed import Speed

RATIO_TARGET = 0.5
"""Items in work ÷ limit that the autoscaler aims at (k8s/components/monitoring/autoscaling.yaml)."""
_LATE = 0.01


class CapacityError(SyncR1Error, ValueError):
    """No number of replicas does it; the message says why and what would."""


@dataclass(frozen=True)
class Demand:
    """A trainer's step."""

    images: int
    """Scored in a step by each reward, over all processes; for a reward of answers, answers."""
    overlap_s: float
    """Seconds of the step during which items arrive, before the last ones; 0 = all come at once."""
    stall_s: float
    """Seconds that the trainer may wait for its last scores."""
    burst: int
    """Items that arrive together at the end: the last chunk of every process."""
    headroom: float = 0.25
    """Growth to be ready for, a share."""
    spare: int = 1
    """Replicas that may be missing: one is lost, or is being replaced."""
    arrival_variation: float = 1.0
    """c_a²."""

    def __post_init__(self) -> None:
        if not 0 < self.burst <= self.images or self.overlap_s < 0 or self.stall_s <= 0 or self.headroom < 0:
            raise CapacityError(
                "expected 0 < burst ≤ images, overlap ≥ 0 s, stall > 0 s and headroom ≥ 0, got "
                f"burst {self.burst}, images {self.images}, {self.overlap_s:g} s, {self.stall_s:g} s, {self.headroom:g}"
            )
        if self.overlap_s == 0 and self.burst != self.images:
            raise CapacityError(
                f"without overlap all {self.images} items arrive together, but burst is {self.burst}: say how many "
                "seconds of the step the others arrive in (overlap), or leave burst away"
            )


@dataclass(frozen=True)
class Need:
    """What one reward needs."""

    speed: Speed
    replica_rate: float
    """Items a second of one replica, μ."""
    utilisation: float
    """ρ that the wait allows; NaN without overlap."""
    for_queue: int
    for_burst: int
    replicas: int
    """The larger one, and the spare ones."""
    gpus: float
    cores: float
    limit: int
    """`max_inflight_items` of a replica with which it is half full at this load."""
    burst_done_s: float
    """With all replicas."""


def need(demand: Demand, speed: Speed) -> Need:
    """Replicas of one reward. Raises CapacityError when a call alone takes longer than the trainer may wait."""
    rate = replica_rate(speed)
    call_s = speed.items / rate
    grown = 1 + demand.headroom
    budget_s = demand.stall_s - call_s
    if budget_s <= 0:
        raise CapacityError(
            f"{speed.reward}: a request of {speed.items} items takes a replica {call_s:.2f} s, and the trainer may "
            f"wait {demand.stall_s:g} s: measure smaller requests, allow a longer stall, or use a faster device"
        )
    for_burst, utilisation, for_queue = math.ceil(demand.burst * grown / (demand.stall_s * rate)), math.nan, 0
    if demand.overlap_s:
        utilisation = allowed_utilisation(call_s, budget_s, demand.arrival_variation, speed.call_variation)
        offered = (demand.images - demand.burst) * grown / demand.overlap_s
        for_queue = math.ceil(offered / (rate * utilisation))
    replicas = max(for_burst, for_queue, 1) + demand.spare
    # In work at once: the burst on the replicas that are left, or what arrives during one stay (Little's law).
    inside = max(demand.burst * grown / (replicas - demand.spare), rate * demand.stall_s)
    return Need(
        speed, rate, utilisation, for_queue, for_burst, replicas, replicas * speed.gpus, replicas * speed.cores,
        math.ceil(inside / RATIO_TARGET), demand.burst * grown / (replicas * rate),
    )  # fmt: skip


def replica_rate(speed: Speed) -> float:
    """Items a second of a replica that has its cores for itself.

    On a GPU as measured. On cores that it shared with the measuring process, what it would do with that one's part too.
    """
    if speed.gpus or speed.client_cores <= 0:
        return speed.items_per_s
    return speed.items_per_s * speed.cores / max(speed.cores - speed.client_cores, speed.cores / 10)


def allowed_utilisation(call_s: float, wait_p99_s: float, arrivals: float, services: float) -> float:
    """ρ with which 99 of 100 calls wait no longer than `wait_p99_s`; c_a² and c_s² are given."""
    variation = (arrivals + services) / 2
    if variation == 0:
        return 1.0
    low, high = _LATE, 1.0  # at 1 in 100 calls that wait at all, 99 do not; the wait grows with ρ
    for _ in range(60):
        middle = (low + high) / 2
        wait_s = math.log(middle / _LATE) * variation * call_s / (1 - middle)
        low, high = (middle, high) if wait_s <= wait_p99_s else (low, middle)
    return low


def plan(demand: Demand, speeds: Sequence[Speed]) -> list[Need]:
    """What each reward needs, with the size of request that needs the fewest replicas.

    Raises CapacityError when no size of a reward's does it.
    """
    found = []
    for reward in dict.fromkeys(speed.reward for speed in speeds):
        needs, refused = [], []
        for speed in speeds:
            if speed.reward == reward:
                try:
                    needs.append(need(demand, speed))
                except CapacityError as error:
                    refused.append(error)
        if not needs:
            raise refused[0]
        found.append(min(needs, key=lambda one: (one.replicas, one.burst_done_s)))
    return found

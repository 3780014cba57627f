"""Kubernetes' HorizontalPodAutoscaler as its documentation describes it, one decision at a time.

`hpa.py` drives it. Sources: "Horizontal Pod Autoscaling" (algorithm details, configurable scaling behaviour) of the
Kubernetes documentation, and for rounding and the order of steps its controller (`pkg/controller/podautoscaler`):

    desired = ceil(replicas · value / target)             no change while |value / target - 1| ≤ tolerance
    a pod without a value counts as 0 when that would scale up, as the target when it would scale down
    of several metrics the largest wish counts; a metric that cannot be had forbids scaling down
    stabilisation: up to the least, down to the greatest wish within the window
    policies: so many pods or per cent within a period, counted from the replicas at its start
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

SYNC_S = 15
TOLERANCE = 0.1


@dataclass(frozen=True)
class Policy:
    """At most `value` pods (or per cent of the replicas) in `period_s` seconds."""

    kind: Literal["Pods", "Percent"]
    value: int
    period_s: int


@dataclass(frozen=True)
class Direction:
    """How fast one way. Of several policies the one that allows most counts (`selectPolicy: Max`)."""

    window_s: int
    """`stabilizationWindowSeconds`."""
    policies: tuple[Policy, ...]


@dataclass(frozen=True)
class Behaviour:
    """`spec.behavior`."""

    up: Direction
    down: Direction

    @staticmethod
    def of(spec: dict[str, Any]) -> Behaviour:
        """From a manifest's `spec.behavior`. Raises KeyError where it leaves something to defaults."""

        def direction(part: dict[str, Any]) -> Direction:
            if part["selectPolicy"] != "Max":
                raise ValueError(f"selectPolicy: only Max is simulated, got {part['selectPolicy']}")
            policies = tuple(Policy(one["type"], one["value"], one["periodSeconds"]) for one in part["policies"])
            return Direction(part["stabilizationWindowSeconds"], policies)

        return Behaviour(direction(spec["scaleUp"]), direction(spec["scaleDown"]))


KUBERNETES_DEFAULT = Behaviour(
    up=Direction(0, (Policy("Percent", 100, 15), Policy("Pods", 4, 15))),
    down=Direction(300, (Policy("Percent", 100, 15),)),
)


@dataclass(frozen=True)
class Metric:
    """One metric now: a value for each pod that has one, and the average wanted."""

    values: Sequence[float]
    target: float


@dataclass
class Autoscaler:
    """Decides for one Deployment; `decide` is called every `SYNC_S` seconds."""

    behaviour: Behaviour
    minimum: int
    maximum: int
    _wishes: list[tuple[float, int]] = field(default_factory=list)
    _changes: list[tuple[float, int]] = field(default_factory=list)

    def decide(self, now_s: float, replicas: int, metrics: Sequence[Metric]) -> int:
        """The number of replicas from now on."""
        wishes = [_wish(replicas, metric) for metric in metrics]
        known = [wish for wish in wishes if wish is not None]
        wish = max(known, default=replicas)
        if len(known) < len(wishes):
            wish = max(wish, replicas)
        wish = min(max(wish, self.minimum), self.maximum)
        decided = self._limited(now_s, replicas, self._stabilised(now_s, replicas, wish))
        if decided != replicas:
            self._changes.append((now_s, decided - replicas))
        return decided

    def _stabilised(self, now_s: float, replicas: int, wish: int) -> int:
        self._wishes.append((now_s, wish))
        up, down = self.behaviour.up.window_s, self.behaviour.down.window_s
        self._wishes = [one for one in self._wishes if now_s - one[0] <= max(up, down)]
        least = min(one for at_s, one in self._wishes if now_s - at_s <= up)
        greatest = max(one for at_s, one in self._wishes if now_s - at_s <= down)
        return min(max(replicas, least), greatest)

    def _limited(self, now_s: float, replicas: int, wish: int) -> int:
        """`wish`, as far as the policies allow."""
        if wish == replicas:
            return replicas
        rising = wish > replicas
        limits = []
        for policy in (self.behaviour.up if rising else self.behaviour.down).policies:
            moved = [change for at_s, change in self._changes if now_s - at_s < policy.period_s]
            start = replicas - sum(change for change in moved if (change > 0) == rising)
            step = policy.value if policy.kind == "Pods" else start * policy.value / 100
            limits.append(math.ceil(start + step) if rising else math.floor(start - step))
        return min(wish, max(replicas, *limits)) if rising else max(wish, min(replicas, *limits))


def _wish(replicas: int, metric: Metric) -> int | None:
    """What one metric asks for; None where no pod has a value."""
    values, missing = metric.values, replicas - len(metric.values)
    if not values:
        return None
    ratio = _exact(sum(values) / len(values) / metric.target)
    if abs(ratio - 1) <= TOLERANCE:
        return replicas
    if missing <= 0:
        return math.ceil(ratio * len(values))
    assumed = sum(values) + (0.0 if ratio > 1 else missing * metric.target)
    corrected = _exact(assumed / replicas / metric.target)
    if abs(corrected - 1) <= TOLERANCE or (corrected > 1) != (ratio > 1):
        return replicas
    wish = math.ceil(corrected * replicas)
    return replicas if (wish > replicas) != (ratio > 1) else wish


def _exact(ratio: float) -> float:
    """The controller counts in thousandths, so that 0.2 ÷ 0.1 is 2 and not a little more, which rounds up to a pod."""
    return round(ratio, 9)

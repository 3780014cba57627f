"""A trainer's bursts on an autoscaled reward service, simulated second by second; `hpa.py` compares ways of scaling.

A GRPO trainer loads a reward in bursts: rollout (nothing to score), all pictures of the step at once, update (nothing),
and now and then a long pause (evaluation, checkpoint). It waits for its scores, so a slow service makes steps longer.
The service is the fluid limit of the front: a replica takes items until it is full and refuses the rest at once, works
at a fixed rate, and callers try again. Prometheus scrapes, its answers are as old as its last scrape, the autoscaler
looks every 15 s, and a new pod serves only after its start.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from benchmarks.experiments.autoscaler import SYNC_S, Autoscaler, Behaviour, Metric

SCRAPE_S = 15
PEAK_S = 60
"""`sync_r1_inflight_peak_items` looks back so far."""
_FRONT_CPU_S = 0.0004
"""CPU seconds of the front for an item; the order of `benchmarks.front`."""


@dataclass(frozen=True)
class Trainer:
    """What asks. Times in seconds, sizes in items."""

    rollout_s: float = 90
    update_s: float = 30
    burst: int = 4096
    smallest: float = 0.6
    """A step's burst is between this share of `burst` and all of it: gates and selectors differ from step to step."""
    inflight: int = 4096
    """Items under way at once over all processes: the SDK holds back the rest."""
    request: int = 64
    backoff_s: float = 1.0
    steps: tuple[int, ...] = (20, 12)
    """Steps before and after the pause."""
    pause_s: float = 1500


@dataclass(frozen=True)
class Service:
    """What answers. `limit` is `max_inflight_items` of a replica: here 10 s of its work."""

    rate: float = 40
    limit: int = 400
    start_s: float = 60
    """From the autoscaler's decision to the first answer: image, weights, warm-up, the callers' next look at DNS."""
    least: int = 2
    most: int = 24


class Scrape(NamedTuple):
    """What Prometheus saw of a pod."""

    at_s: float
    inside: float
    peak: float
    refused: float
    busy_s: float


@dataclass
class Pod:
    """One replica; the lists hold one entry for each scrape."""

    born_s: float
    inside: float = 0.0
    """Items in work."""
    refused: float = 0.0
    busy_s: float = 0.0
    fullest: list[tuple[float, float]] = field(default_factory=list)
    """(when, most items in work), of the last minute."""
    scrapes: list[Scrape] = field(default_factory=list)

    def admit(self, items: float, now_s: float) -> None:
        """Take them into work."""
        self.inside += items
        self.fullest = [one for one in self.fullest if now_s - one[0] < PEAK_S] + [(now_s, self.inside)]

    def work(self, rate: float) -> float:
        """Items finished in a second."""
        done = min(self.inside, rate)
        self.inside -= done
        self.busy_s += done / rate
        return done

    def scrape(self, now_s: float) -> None:
        """Prometheus looks."""
        peak = max((one for at_s, one in self.fullest if now_s - at_s < PEAK_S), default=0.0)
        self.scrapes.append(Scrape(now_s, self.inside, peak, self.refused, self.busy_s))


Look = Callable[[Pod, float, Service, Trainer], float | None]
"""A metric of one pod now; None while nothing was scraped."""


def peak_ratio(pod: Pod, now_s: float, service: Service, trainer: Trainer) -> float | None:
    """`sync_r1_inflight_peak_items` ÷ limit, of the last scrape."""
    return pod.scrapes[-1].peak / service.limit if pod.scrapes else None


def scraped_ratio(pod: Pod, now_s: float, service: Service, trainer: Trainer) -> float | None:
    """Items in work ÷ limit, the fullest of the scrapes of a minute: what happens between two is not seen."""
    seen = [one.inside for one in pod.scrapes if now_s - one.at_s <= PEAK_S]
    return max(seen) / service.limit if seen else None


def _growth(pod: Pod, now_s: float, column: Literal["refused", "busy_s"], window_s: float) -> float | None:
    """A second, between the first and the last scrape of the window; None of no scrape."""
    seen = [one for one in pod.scrapes if now_s - one.at_s <= window_s]
    if not seen:
        return None
    first, last = seen[0], seen[-1]
    return (getattr(last, column) - getattr(first, column)) / (last.at_s - first.at_s) if len(seen) > 1 else 0.0


def refusals(pod: Pod, now_s: float, service: Service, trainer: Trainer) -> float | None:
    """Refused calls a second, over a minute."""
    return _growth(pod, now_s, "refused", 60)


def pending_requests(pod: Pod, now_s: float, service: Service, trainer: Trainer) -> float | None:
    """Triton's `nv_inference_pending_request_count`: what was admitted and is not the one batch that runs."""
    return max(0.0, pod.scrapes[-1].inside / trainer.request - 1) if pod.scrapes else None


def cpu_of_worker(pod: Pod, now_s: float, service: Service, trainer: Trainer) -> float | None:
    """Use ÷ request where the graphs run on the pod's own cores, averaged over half a minute."""
    return _growth(pod, now_s, "busy_s", 30)


def cpu_of_front(pod: Pod, now_s: float, service: Service, trainer: Trainer) -> float | None:
    """Use ÷ request of one core where the graphs run on a GPU: only the front's own work."""
    busy = _growth(pod, now_s, "busy_s", 30)
    return None if busy is None else busy * service.rate * _FRONT_CPU_S


@dataclass(frozen=True)
class Way:
    """One way of scaling."""

    name: str
    metrics: tuple[tuple[Look, float], ...]
    behaviour: Behaviour


@dataclass
class Outcome:
    """What came of it."""

    score_s: list[float] = field(default_factory=list)
    """How long each step waited for its scores."""
    replicas: list[int] = field(default_factory=list)
    """Wanted, for each second."""
    fullest: float = 0.0
    """Items in work ÷ limit, of the fullest replica ever."""
    waited: int = 0
    """Most items that waited in the callers."""
    refused: float = 0.0
    down_in_burst: int = 0
    """Decisions to scale down while items were in work or waiting."""
    down_between: int = 0
    """… between two bursts of the same stretch of steps."""


class _Run:
    """The state of one simulation."""

    def __init__(self, way: Way, trainer: Trainer, service: Service) -> None:
        self.way, self.trainer, self.service = way, trainer, service
        self.pods = [Pod(-math.inf) for _ in range(service.least)]
        self.leaving: list[Pod] = []
        self.scaler = Autoscaler(way.behaviour, service.least, service.most)
        self.outcome = Outcome()
        self.waiting = 0.0
        """Items that wait in the callers."""
        self.next_s: float = trainer.rollout_s
        self.random = random.Random(0)
        self.burst_s = -1.0
        """When the burst under way began; negative: none is."""

    @property
    def step(self) -> int:
        """Steps done."""
        return len(self.outcome.score_s)

    @property
    def inside(self) -> float:
        """Items in work."""
        return sum(pod.inside for pod in (*self.pods, *self.leaving))

    def second(self, now_s: int, scraped: bool) -> None:
        """The trainer, the service, Prometheus and the autoscaler, in this order."""
        trainer = self.trainer
        if self.burst_s < 0 and now_s >= self.next_s:
            self.waiting, self.burst_s = trainer.burst * self.random.uniform(trainer.smallest, 1.0), now_s
        ready = [pod for pod in self.pods if now_s - pod.born_s >= self.service.start_s]
        if self.burst_s >= 0:
            self._serve(ready, now_s)
        if self.burst_s >= 0 and self.waiting + self.inside < 1e-6:
            self.leaving.clear()
            self.outcome.score_s.append(now_s + 1 - self.burst_s)
            pause_s = trainer.pause_s if self.step == trainer.steps[0] else 0.0
            self.next_s, self.burst_s = now_s + 1 + trainer.update_s + pause_s + trainer.rollout_s, -1.0
        if scraped:
            for pod in ready:
                pod.scrape(now_s)
        if now_s % SYNC_S == 0:
            self._scale(now_s)
        self.outcome.replicas.append(len(self.pods))

    def _serve(self, ready: Sequence[Pod], now_s: int) -> None:
        """Admit what fits, where there is most room; refuse the rest at once; finish what the replicas can."""
        trainer, service, outcome = self.trainer, self.service, self.outcome
        asked = min(self.waiting, trainer.inflight - self.inside)
        rooms = [service.limit - pod.inside for pod in ready]
        admitted = min(asked, sum(rooms))
        refused = (asked - admitted) / trainer.request / trainer.backoff_s
        self.waiting -= admitted
        for pod, room in zip(ready, rooms):
            if admitted > 0:
                pod.admit(admitted * room / sum(rooms), now_s)
            pod.refused += refused / len(ready)
            outcome.fullest = max(outcome.fullest, pod.inside / service.limit)
        for pod in (*ready, *self.leaving):
            pod.work(service.rate)
        outcome.refused += refused
        outcome.waited = max(outcome.waited, math.ceil(self.waiting))

    def _scale(self, now_s: int) -> None:
        metrics = []
        for look, target in self.way.metrics:
            values = [look(pod, now_s, self.service, self.trainer) for pod in self.pods]
            metrics.append(Metric([value for value in values if value is not None], target))
        wanted = self.scaler.decide(now_s, len(self.pods), metrics)
        if wanted < len(self.pods):
            self.outcome.down_in_burst += self.burst_s >= 0
            self.outcome.down_between += self.burst_s < 0 and self.step != self.trainer.steps[0]
            self.leaving += self.pods[wanted:]  # the youngest go first, and finish what they admitted
            del self.pods[wanted:]
        self.pods.extend(Pod(now_s) for _ in range(wanted - len(self.pods)))


def simulate(way: Way, trainer: Trainer | None = None, service: Service | None = None, offset_s: int = 7) -> Outcome:
    """Second by second until all steps are done. `offset_s`: when Prometheus looks, after each full 15 s."""
    run = _Run(way, trainer or Trainer(), service or Service())
    for now_s in range(1_000_000):
        run.second(now_s, now_s % SCRAPE_S == offset_s)
        if run.step == sum(run.trainer.steps):
            return run.outcome
    raise RuntimeError(f"{way.name}: only {run.step} steps were done")

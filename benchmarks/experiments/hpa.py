"""By what should reward services scale, and how fast? Ways of scaling on a trainer's bursts, simulated.

    python -m benchmarks.experiments.hpa

Nothing here is measured: `bursts.py` simulates trainer and service, `autoscaler.py` is Kubernetes' documented
algorithm. The chosen way is k8s/components/monitoring/autoscaling.yaml (a test holds the two against each other).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.experiments.autoscaler import KUBERNETES_DEFAULT, Behaviour, Direction, Policy
from benchmarks.experiments.bursts import (
    SCRAPE_S,
    Outcome,
    Service,
    Trainer,
    Way,
    cpu_of_front,
    cpu_of_worker,
    peak_ratio,
    pending_requests,
    refusals,
    scraped_ratio,
    simulate,
)
from benchmarks.harness import Report

CHOSEN = Behaviour(
    up=Direction(0, (Policy("Percent", 100, 30), Policy("Pods", 2, 30))),
    down=Direction(900, (Policy("Percent", 25, 60),)),
)
RATIO_TARGET, REFUSALS_TARGET = 0.5, 1.0
FRONT = ((peak_ratio, RATIO_TARGET), (refusals, REFUSALS_TARGET))
SCRAPED = ((scraped_ratio, RATIO_TARGET), (refusals, REFUSALS_TARGET))
WAYS = (
    Way("in-flight peak ÷ limit and refusals, chosen behaviour", FRONT, CHOSEN),
    Way("the same, Kubernetes' default behaviour", FRONT, KUBERNETES_DEFAULT),
    Way("in-flight as scraped ÷ limit and refusals, chosen", SCRAPED, CHOSEN),
    Way("Triton's pending requests, 8 a pod, chosen", ((pending_requests, 8),), CHOSEN),
    Way("Triton's pending requests, 2 a pod, chosen", ((pending_requests, 2),), CHOSEN),
    Way("CPU at 70 %, graphs on CPU, chosen", ((cpu_of_worker, 0.7),), CHOSEN),
    Way("CPU at 70 %, graphs on GPU, chosen", ((cpu_of_front, 0.7),), CHOSEN),
)


def summary(outcomes: Sequence[Outcome]) -> tuple[str, ...]:
    """The cells of one way, over runs that differ in when Prometheus looks."""
    stretch = [one for outcome in outcomes for one in outcome.score_s[5:20]]
    first = [outcome.score_s[0] for outcome in outcomes]
    hours = [sum(outcome.replicas) / 3600 for outcome in outcomes]
    return (
        f"{max(first):.0f}",
        f"{sorted(stretch)[len(stretch) // 2]:.0f} ({max(stretch):.0f})",
        f"{max(max(outcome.replicas) for outcome in outcomes)}",
        f"{sum(hours) / len(hours):.1f}",
        f"{sum(outcome.down_in_burst for outcome in outcomes)}",
        f"{sum(outcome.down_between for outcome in outcomes)}",
        f"{max(outcome.fullest for outcome in outcomes):.2f}",
        f"{sum(outcome.refused for outcome in outcomes) / len(outcomes):,.0f}",
    )


WINDOWS_S, ROLLOUTS_S = (60, 300, 600, 900, 1800), (90, 300, 600)


def compare_ways() -> Report:
    """All ways on the same trainer and service."""
    trainer, service = Trainer(), Service()
    columns = (
        "scaled by", "first step waits, s", "steps 6 … 20 wait, s: median (longest)", "most replicas", "replica-hours",
        "scaled down in a burst", "… between bursts", "fullest replica", "calls refused",
    )  # fmt: skip
    report = Report("hpa", "Scaling on a trainer's bursts (simulated)", columns)
    outcomes = {way.name: [simulate(way, offset_s=offset) for offset in range(SCRAPE_S)] for way in WAYS}
    most = max(max(outcome.replicas) for outcome in outcomes[WAYS[0].name])
    always = Way("(nothing: as many replicas as the first way ever has)", (), KUBERNETES_DEFAULT)
    outcomes[always.name] = [simulate(always, service=replace(service, least=most, most=most))]
    report.rows += [(name, *summary(runs)) for name, runs in outcomes.items()]
    report.notes.append(
        f"{trainer.smallest * trainer.burst:,.0f} … {trainer.burst:,} items at once after {trainer.rollout_s:g} s of "
        f"rollout, {trainer.update_s:g} s of update; {trainer.steps[0]} steps, {trainer.pause_s / 60:g} min of pause, "
        f"{trainer.steps[1]} steps; a replica does {service.rate:g} items/s, holds {service.limit} and serves "
        f"{service.start_s:g} s after it was asked for; {service.least} … {service.most} replicas; scaled down: sums "
        f"over the {SCRAPE_S} moments at which scrapes can fall"
    )
    return report


def compare_windows() -> Report:
    """How long to remember a burst before scaling down."""
    columns = ("scale-down window, s", *(f"rollout {rollout} s" for rollout in ROLLOUTS_S))
    report = Report("hpa_windows", "The window before scaling down (simulated)", columns)
    for window_s in WINDOWS_S:
        way = Way(str(window_s), FRONT, replace(CHOSEN, down=replace(CHOSEN.down, window_s=window_s)))
        cells = []
        for rollout_s in ROLLOUTS_S:
            runs = [simulate(way, Trainer(rollout_s=rollout_s), offset_s=offset) for offset in (2, 7, 12)]
            down = sum(run.down_in_burst + run.down_between for run in runs)
            hours = sum(sum(run.replicas) for run in runs) / len(runs) / 3600
            cells.append(f"{down} times down, {hours:.1f} replica-hours")
        report.rows.append((str(window_s), *cells))
    report.notes.append("times down: within or between the bursts of a stretch of steps, three runs; the rest as above")
    return report


def main() -> None:
    """Entry point of the module."""
    for report in (compare_ways(), compare_windows()):
        print(f"\nwritten: {report.finish().relative_to(Path.cwd())}\n")


if __name__ == "__main__":
    main()

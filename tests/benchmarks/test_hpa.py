"""The autoscaling of the manifests: Kubernetes' documented algorithm, and what the chosen numbers promise with it."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from k8s_manifests import K8S, REWARDS, manifests, of_kind

from benchmarks.experiments import hpa
from benchmarks.experiments.autoscaler import KUBERNETES_DEFAULT, Autoscaler, Behaviour, Direction, Metric, Policy
from benchmarks.experiments.bursts import Outcome, simulate

FREE = Behaviour(up=Direction(0, (Policy("Pods", 1000, 15),)), down=Direction(0, (Policy("Pods", 1000, 15),)))


def decided(replicas: int, *metrics: Metric, maximum: int = 100) -> int:
    return Autoscaler(FREE, 1, maximum).decide(0, replicas, metrics)


def test_twice_the_target_doubles_and_half_of_it_halves() -> None:
    """The two examples of Kubernetes' documentation: 200m and 50m against 100m."""
    assert decided(3, Metric([0.2] * 3, 0.1)) == 6
    assert decided(4, Metric([0.05] * 4, 0.1)) == 2
    assert decided(4, Metric([0.2] * 4, 0.1), maximum=5) == 5


def test_within_a_tenth_of_the_target_nothing_changes() -> None:
    assert decided(10, Metric([0.109] * 10, 0.1)) == 10
    assert decided(10, Metric([0.091] * 10, 0.1)) == 10
    assert decided(10, Metric([0.112] * 10, 0.1)) == 12


def test_pods_without_a_value_dampen_both_ways() -> None:
    assert decided(4, Metric([1.0, 1.0], 0.5)) == 4  # as if the new ones had no load
    assert decided(4, Metric([0.1, 0.1], 0.5)) == 3  # as if they were on target


def test_of_several_metrics_the_largest_wish_counts_and_a_missing_one_forbids_scaling_down() -> None:
    low, high, unknown = Metric([0.1] * 4, 0.5), Metric([1.0] * 4, 0.5), Metric([], 0.5)
    assert decided(4, low, high) == 8
    assert decided(4, low, unknown) == 4
    assert decided(4, high, unknown) == 8


def test_scaling_down_waits_for_the_window_and_then_keeps_to_its_policy() -> None:
    scaler = Autoscaler(Behaviour(FREE.up, Direction(300, (Policy("Percent", 25, 60),))), 1, 100)
    replicas = scaler.decide(0, 16, [Metric([0.5] * 16, 0.5)])
    history = []
    for now_s in range(15, 500, 15):
        replicas = scaler.decide(now_s, replicas, [Metric([0.0] * replicas, 0.5)])
        history.append(replicas)
    assert set(history[:20]) == {16}  # 300 s
    assert history[20:28] == [12, 12, 12, 12, 9, 9, 9, 9]


def test_scaling_up_takes_the_policy_that_allows_more() -> None:
    scaler = Autoscaler(hpa.CHOSEN, 1, 100)
    counts = [1]
    for now_s in range(0, 90, 15):
        counts.append(scaler.decide(now_s, counts[-1], [Metric([99.0] * counts[-1], 0.5)]))
    assert counts[1:] == [3, 3, 6, 6, 12, 12]  # two pods, then a hundred per cent, each in 30 s


@pytest.fixture(scope="module")
def chosen() -> list[Outcome]:
    return [simulate(hpa.WAYS[0], offset_s=offset) for offset in (2, 7, 12)]


def test_the_chosen_way_never_scales_down_between_or_within_bursts_and_does_in_the_pause(chosen: list[Outcome]) -> None:
    for outcome in chosen:
        assert (outcome.down_in_burst, outcome.down_between) == (0, 0)
        grown = next(second for second, count in enumerate(outcome.replicas) if count > 0.8 * max(outcome.replicas))
        assert min(outcome.replicas[grown:]) < max(outcome.replicas) / 2


def test_the_queue_is_bounded_and_no_call_outlives_the_sdks_deadline(chosen: list[Outcome]) -> None:
    for outcome in chosen:
        assert outcome.fullest <= 1.0
        assert max(outcome.score_s) <= 60
        assert max(outcome.score_s[5:20]) <= 0.2 * outcome.score_s[0]


def test_cpu_of_a_gpu_pod_and_a_high_target_of_tritons_queue_never_scale_although_trainers_wait() -> None:
    for way in hpa.WAYS:
        if "8 a pod" in way.name or "graphs on GPU" in way.name:
            outcome = simulate(way)
            assert set(outcome.replicas) == {2}
            assert outcome.refused > 1000


def test_a_shorter_memory_scales_down_between_bursts() -> None:
    assert simulate(hpa.WAYS[1]).down_between > 0
    assert hpa.WAYS[1].behaviour == KUBERNETES_DEFAULT


def same_as_simulated(spec: dict[str, Any]) -> None:
    assert Behaviour.of(spec["behavior"]) == hpa.CHOSEN
    targets = {one["pods"]["metric"]["name"]: str(one["pods"]["target"]["averageValue"]) for one in spec["metrics"]}
    assert targets == {
        "sync_r1_inflight_ratio": f"{hpa.RATIO_TARGET * 1000:g}m",
        "sync_r1_refusals_per_second": f"{hpa.REFUSALS_TARGET:g}",
    }


def test_the_manifest_says_what_was_simulated() -> None:
    path = K8S / "components" / "monitoring" / "autoscaling.yaml"
    spec = yaml.safe_load(path.read_text())["spec"]
    same_as_simulated(spec)
    spec["behavior"]["scaleDown"]["stabilizationWindowSeconds"] = 300
    with pytest.raises(AssertionError):
        same_as_simulated(spec)


@pytest.mark.parametrize("overlay", ["gpu", "gpu-shared"])
def test_every_autoscaler_of_an_overlay_is_the_simulated_one(overlay: str) -> None:
    scalers = of_kind(manifests(f"overlays/{overlay}"), "HorizontalPodAutoscaler")
    assert len(scalers) == len(REWARDS)
    for scaler in scalers:
        same_as_simulated(scaler["spec"])

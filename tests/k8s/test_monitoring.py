"""Dashboards, alerts and autoscaling rules say what they promise, about metrics that exist.

The alerts are held against series by `promtool test rules`, the tool of Prometheus itself.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import monitoring_cases
import pytest
import yaml
from k8s_manifests import K8S, ROOT, manifests

from sync_r1.services.access.admission import OutOfBytes, Overloaded
from sync_r1.services.telemetry.metrics import ServiceMetrics

FOLDER = K8S / "components" / "monitoring"
RUNBOOK = ROOT / "docs" / "alerts.md"
RULES = yaml.safe_load((FOLDER / "rules.yaml").read_text())["spec"]
ALERTS = {rule["alert"]: rule for group in RULES["groups"] for rule in group["rules"]}
ADAPTER = yaml.safe_load((FOLDER / "prometheus-adapter.yaml").read_text())["rules"]
DASHBOARD = json.loads((FOLDER / "dashboard.json").read_text())
TARGET_LABELS = {"namespace", "pod", "le"}
# Of Triton's "Metrics" page and of cert-manager's "Prometheus Metrics".
OTHERS = {
    "nv_inference_request_success", "nv_inference_request_failure", "nv_inference_count", "nv_inference_exec_count",
    "nv_inference_request_duration_us", "nv_inference_queue_duration_us", "nv_inference_compute_infer_duration_us",
    "nv_inference_pending_request_count", "nv_gpu_utilization", "nv_gpu_memory_used_bytes",
    "certmanager_certificate_expiration_timestamp_seconds",
}  # fmt: skip


def dashboard_queries() -> Iterator[str]:
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            expression = target["expr"].replace("$__rate_interval", "5m")
            yield expression.replace("$namespace", ".*").replace("$reward", ".*")


def adapter_query(rule: dict[str, Any]) -> str:
    """As the adapter asks it for all pods of a namespace."""
    return str(rule["metricsQuery"]).replace("<<.GroupBy>>", "pod").replace("<<.LabelMatchers>>", 'namespace="n"')


def queries() -> list[str]:
    asked = [rule["expr"] for rule in ALERTS.values()] + list(dashboard_queries())
    return asked + [adapter_query(rule) for rule in ADAPTER] + [rule["seriesQuery"] for rule in ADAPTER]


def known() -> dict[str, set[str]]:
    """Sample name -> its labels, of everything a service exports."""
    metrics = ServiceMetrics("toy")
    metrics.watch(
        inflight_items=lambda: 0, inflight_peak_items=lambda: 0, inflight_limit=1, ready=lambda: True,
        releases=lambda: {"v": "d"}, cache_lookups=lambda: {"hit": 1}, teams=dict,
    )  # fmt: skip
    names: dict[str, set[str]] = {}
    for collector in list(metrics.registry._collector_to_names):
        labels = set(getattr(collector, "_labelnames", ()))
        for family in collector.collect():
            held = labels.union(*(sample.labels for sample in family.samples)) | TARGET_LABELS
            suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))
            names.update({family.name + suffix: held for suffix in suffixes})
    return names


def mistakes(query: str) -> list[str]:
    """Metrics that do not exist, and matchers on labels that they do not have."""
    exported, found = known(), []
    for name, matchers in re.findall(r"\b((?:sync_r1|nv|certmanager)_\w+)(?:\{([^}]*)\})?", query):
        if name not in exported and name not in OTHERS:
            found.append(f"{name} does not exist")
        for label in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers or ""):
            if name in exported and label not in exported[name]:
                found.append(f"{name} has no label {label}")
    return found


def test_every_query_asks_for_metrics_and_labels_that_exist() -> None:
    assert len(queries()) > 40
    assert [wrong for query in queries() for wrong in mistakes(query)] == []


def test_a_metric_or_label_that_does_not_exist_is_found() -> None:
    assert mistakes("rate(sync_r1_request_total[5m])") == ["sync_r1_request_total does not exist"]
    assert mistakes('sync_r1_ready{variant="v"} > nv_queue') == [
        "sync_r1_ready has no label variant", "nv_queue does not exist",
    ]  # fmt: skip


def test_the_reasons_that_scale_are_those_of_a_full_service() -> None:
    reasons = {"queue", Overloaded.reason, OutOfBytes.reason}
    asked = [query for query in queries() if "sync_r1_refused_total{" in query and "reason=~" in query]
    assert asked
    for query in asked:
        for found in re.findall(r'reason=~"([\w|]+)"', query):
            assert set(found.split("|")) == reasons


def test_every_alert_has_its_section_in_the_runbook_and_says_how_bad_it_is() -> None:
    sections = {line.removeprefix("## ").lower() for line in RUNBOOK.read_text().splitlines() if line[:3] == "## "}
    for name, rule in ALERTS.items():
        assert rule["annotations"]["runbook"] == f"docs/alerts.md#{name.lower()}"
        assert name.lower() in sections
        assert rule["annotations"]["summary"]
        assert rule["labels"]["severity"] in ("warning", "critical")
    assert {name.lower() for name in ALERTS} == {section for section in sections if section.startswith("syncr1")}


def test_the_certificates_that_are_watched_are_those_of_the_component() -> None:
    manifests = yaml.safe_load_all((K8S / "components" / "mtls" / "certificates.yaml").read_text())
    names = {one["metadata"]["name"] for one in manifests if one["kind"] == "Certificate"}
    (pattern,) = re.findall(r'name=~"([^"]+)"', ALERTS["SyncR1CertificateExpires"]["expr"])
    assert names
    assert {name for name in names if re.fullmatch(pattern, name)} == names


def test_the_autoscalers_metrics_are_those_the_adapter_gives() -> None:
    spec = yaml.safe_load((FOLDER / "autoscaling.yaml").read_text())["spec"]
    wanted = {metric["pods"]["metric"]["name"] for metric in spec["metrics"]}
    assert wanted == {rule["name"]["as"] for rule in ADAPTER}
    for rule in ADAPTER:
        assert re.fullmatch(rule["name"]["matches"], rule["seriesQuery"].partition("{")[0])


def test_an_overlay_gets_rules_dashboard_monitor_and_scaling_from_the_component(tmp_path: Path) -> None:
    autoscaler = {
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "any"},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "any"},
            "minReplicas": 2, "maxReplicas": 5,
        },
    }  # fmt: skip
    (tmp_path / "autoscaler.yaml").write_text(yaml.safe_dump(autoscaler))
    component = os.path.relpath(FOLDER, tmp_path.resolve())
    overlay = {"resources": ["autoscaler.yaml"], "components": [component], "namespace": "rewards"}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    objects = {one["kind"]: one for one in manifests(str(tmp_path))}
    assert set(objects) == {"HorizontalPodAutoscaler", "ConfigMap", "PrometheusRule", "ServiceMonitor"}
    spec = objects["HorizontalPodAutoscaler"]["spec"]
    assert (spec["minReplicas"], spec["maxReplicas"], len(spec["metrics"])) == (2, 5, 2)
    for version in ("1.34", "1.35", "1.36"):
        kubernetes_validate.validate(objects["HorizontalPodAutoscaler"], version, strict=True)
    assert json.loads(objects["ConfigMap"]["data"]["dashboard.json"])["title"]
    assert {one["metadata"]["namespace"] for one in objects.values()} == {"rewards"}


def test_every_panel_of_the_dashboard_has_a_place_of_its_own_and_a_unit() -> None:
    taken = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
        assert panel["fieldConfig"]["defaults"]["unit"]
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None,
    reason="promtool is not installed: `apt-get install --no-install-recommends prometheus` brings it",
)


def promtool(folder: Path, rules: dict[str, Any], tests: list[dict[str, Any]]) -> subprocess.CompletedProcess[str]:
    (folder / "rules.yaml").write_text(yaml.safe_dump(rules))
    (folder / "tests.yaml").write_text(
        yaml.safe_dump({"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": tests})
    )
    command = ["promtool", "test", "rules", "tests.yaml"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


def alert_tests(name: str) -> list[dict[str, Any]]:
    case = monitoring_cases.CASES[name]
    quiet = [case.quiet] + [series for other, series in monitoring_cases.FURTHER_QUIET.items() if other == name]
    return [
        {
            "name": f"{name} {'fires' if fires else 'stays quiet'}",
            "interval": "1m",
            "input_series": [{"series": key, "values": values.strip()} for key, values in series.items()],
            "promql_expr_test": [
                {
                    "expr": f'count(ALERTS{{alertname="{name}",alertstate="firing"}})',
                    "eval_time": f"{case.minutes}m",
                    "exp_samples": [{"labels": "{}", "value": 1}] if fires else [],
                }
            ],
        }
        for fires, series in [(True, case.fires), *((False, one) for one in quiet)]
    ]


def test_every_alert_has_series_that_set_it_off_and_series_that_do_not() -> None:
    assert set(monitoring_cases.CASES) == set(ALERTS)


def run_alerts(folder: Path, mutant: str = "") -> str:
    """What promtool complains of, over all alerts; `mutant` stands in for every expression."""
    said = ""
    # Evaluated every minute: one alert that waits for days must not make all others be evaluated for days.
    for patient in (False, True):
        chosen = [name for name in ALERTS if (monitoring_cases.CASES[name].minutes > 120) == patient]
        rules = [{**ALERTS[name], **({"expr": mutant} if mutant else {})} for name in chosen]
        tests = [test for name in chosen for test in alert_tests(name)]
        done = promtool(folder, {"groups": [{"name": "alerts", "rules": rules}]}, tests)
        assert (done.returncode == 0) == ("FAILED" not in done.stdout + done.stderr)
        said += done.stderr if done.returncode else ""
    return said


@needs_promtool
def test_every_alert_fires_when_it_must_and_not_otherwise(tmp_path: Path) -> None:
    assert run_alerts(tmp_path) == ""


@needs_promtool
@pytest.mark.parametrize(
    ("mutant", "seen"),
    [("vector(1) > 2", "got: nil"), ('label_replace(vector(1), "reward", "any", "", "")', "exp: nil")],
)
def test_an_alert_that_never_or_always_fires_would_be_found(tmp_path: Path, mutant: str, seen: str) -> None:
    said = run_alerts(tmp_path, mutant).replace("\\", "").split("expr: ")
    for name in ALERTS:
        assert any(f'alertname="{name}"' in part and seen in part for part in said), name


@needs_promtool
def test_prometheus_can_read_every_query_of_the_dashboard(tmp_path: Path) -> None:
    rules = [{"record": f"panel:{number}", "expr": query} for number, query in enumerate(dashboard_queries())]
    done = promtool(tmp_path, {"groups": [{"name": "panels", "rules": rules}]}, [])
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_the_adapter_gives_every_pod_its_share_of_the_limit_and_zero_refusals_where_there_are_none(
    tmp_path: Path,
) -> None:
    of = 'namespace="n",reward="aesthetic"'
    series = {
        f'sync_r1_inflight_items{{{of},pod="a"}}': "0x10",
        f'sync_r1_inflight_items{{{of},pod="b"}}': "3x10",
        f'sync_r1_inflight_peak_items{{{of},pod="a"}}': "300x10",
        f'sync_r1_inflight_peak_items{{{of},pod="b"}}': "3x10",
        f'sync_r1_inflight_limit{{{of},pod="a"}}': "400x10",
        f'sync_r1_inflight_limit{{{of},pod="b"}}': "400x10",
        f'sync_r1_refused_total{{{of},pod="a",reason="inflight"}}': "0+120x40",
        f'sync_r1_refused_total{{{of},pod="a",reason="quota"}}': "0+6000x40",
    }
    wanted = {"sync_r1_inflight_ratio": (0.75, 0.0075), "sync_r1_refusals_per_second": (8.0, 0.0)}
    tests = [
        {
            "expr": adapter_query(rule),
            "eval_time": "2m",
            "exp_samples": [
                {"labels": f'{{pod="{pod}"}}', "value": value} for pod, value in zip("ab", wanted[rule["name"]["as"]])
            ],
        }
        for rule in ADAPTER
    ]
    done = promtool(tmp_path, {"groups": []}, [
        {
            "interval": "15s",
            "input_series": [{"series": key, "values": values} for key, values in series.items()],
            "promql_expr_test": tests,
        }
    ])  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr

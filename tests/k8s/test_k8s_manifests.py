"""Every overlay renders, is valid for the newest Kubernetes and keeps the policies; each policy notices a breach."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import k8s_manifests
import kubernetes_validate
import pytest
import yaml
from k8s_manifests import APPLIED, K8S, OVERLAYS, REWARDS, ROOT, Manifest, fronts, manifests, named, of_kind, option
from k8s_policies import POLICIES, TRITON_FLOOR, Policy, triton_version
from kubernetes_validate import utils

from sync_r1.reward_models.profiles import load_profile
from sync_r1.services.health import LIVENESS

NEWEST = sorted(set(utils.all_versions()), key=lambda version: [int(part) for part in version.split(".")])[-3:]
ADD_ONS = ("keda.sh", "cert-manager.io", "monitoring.coreos.com", "gateway.networking.k8s.io")
CUSTOM = yaml.safe_load((ROOT / "tests" / "fixtures" / "custom_resources.yaml").read_text())


@pytest.mark.parametrize("version", NEWEST)
def test_every_document_is_valid_to_the_last_field(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # It reads some megabytes of definitions for each document.
    monkeypatch.setattr(utils, "schema_contents", functools.cache(utils.schema_contents))
    distinct = {json.dumps(document): folder for folder in APPLIED for document in manifests(folder)}
    for text, folder in distinct.items():
        document = json.loads(text)
        if document["apiVersion"].partition("/")[0] not in ADD_ONS:
            try:
                kubernetes_validate.validate(document, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                where = f"{folder}: {document['kind']} {document['metadata']['name']}"
                pytest.fail(f"{where}, {'.'.join(map(str, error.path))}: {error.message[:300]}")


def test_a_misspelt_field_is_noticed() -> None:
    document = fronts(manifests("overlays/cpu-pocket"))[0].manifest
    document["spec"]["template"]["spec"]["terminationGracePeriodSecond"] = 60
    with pytest.raises(kubernetes_validate.ValidationError, match="terminationGracePeriodSecond"):
        kubernetes_validate.validate(document, NEWEST[-1], strict=True)


@pytest.mark.parametrize("folder", APPLIED)
def test_resources_of_add_ons_have_no_unknown_and_all_required_fields(folder: str) -> None:
    for document in manifests(folder):
        if document["apiVersion"].partition("/")[0] in ADD_ONS:
            schema = CUSTOM[f"{document['apiVersion']}/{document['kind']}"]
            assert not list(_unlike(document["spec"], schema, document["kind"]))


def test_a_misspelt_or_missing_field_of_an_add_on_is_noticed() -> None:
    spec = of_kind(manifests("overlays/gpu-scale-to-zero"), "ScaledObject")[0]["spec"]
    schema = CUSTOM["keda.sh/v1alpha1/ScaledObject"]
    assert list(_unlike({**spec, "coolDownPeriod": 900}, schema, "spec")) == ["spec has no field coolDownPeriod"]
    assert list(_unlike({**spec, "minReplicaCount": "0"}, schema, "spec"))
    del spec["triggers"][0]["metadata"]
    assert list(_unlike(spec, schema, "spec")) == ["spec.triggers[0] lacks metadata"]


def _unlike(value: Any, schema: Any, where: str) -> Any:
    """Differences from a schema of tests/fixtures/custom_resources.yaml."""
    if isinstance(schema, str):
        if not isinstance(value, {"string": str, "integer": int, "boolean": bool, "any": object}[schema]):
            yield f"{where} should be a {schema}, is {value!r}"
    elif isinstance(schema, list):
        for number, one in enumerate(value):
            yield from _unlike(one, schema[0], f"{where}[{number}]")
    elif "*" in schema:
        for key, one in value.items():
            yield from _unlike(one, schema["*"], f"{where}.{key}")
    else:
        known = {key.rstrip("!"): key for key in schema}
        for key in value.keys() - known.keys():
            yield f"{where} has no field {key}"
        for key, written in known.items():
            if key in value:
                yield from _unlike(value[key], schema[written], f"{where}.{key}")
            elif written.endswith("!"):
                yield f"{where} lacks {key}"


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.__name__)
@pytest.mark.parametrize("folder", APPLIED)
def test_it_keeps_the_policies(folder: str, policy: Policy) -> None:
    assert list(policy(manifests(folder))) == []


def _front(documents: list[Manifest]) -> Manifest:
    return fronts(documents)[0].container("front")


def _triton(documents: list[Manifest]) -> Manifest:
    return fronts(documents)[0].container("triton")


def _pod(documents: list[Manifest]) -> Manifest:
    return fronts(documents)[0].pod


def _drop(documents: list[Manifest], kind: str, name: str) -> None:
    documents.remove(named(documents, kind, name))


def _swap(arguments: list[str], old: str, new: str | None) -> None:
    place = next(place for place, argument in enumerate(arguments) if argument.startswith(old))
    arguments[place : place + 1] = [] if new is None else [new]


MUTANTS: dict[str, tuple[str, Callable[[list[Manifest]], Any]]] = {
    "latest": ("images_are_pinned", lambda d: _front(d).update(image="registry.example/front:latest")),
    "no tag": ("images_are_pinned", lambda d: _front(d).update(image="registry.example:5000/front")),
    "no registry": ("images_are_pinned", lambda d: _front(d).update(image="front:0.1.0")),
    "old Triton": ("triton_is_new_enough", lambda d: _triton(d).update(image="nvcr.io/nvidia/tritonserver:26.06-py3")),
    "unknown Triton": ("triton_is_new_enough", lambda d: _triton(d).update(image="registry.example/triton:0.1.0")),
    "embedded Triton": ("triton_is_new_enough", lambda d: _front(d).update(image="localhost/sync-r1/embedded:0.1.0")),
    "root": ("pods_are_confined", lambda d: _pod(d)["securityContext"].update(runAsNonRoot=False)),
    "root in one container": ("pods_are_confined", lambda d: _front(d)["securityContext"].update(runAsUser=0)),
    "writable root": ("pods_are_confined", lambda d: _front(d)["securityContext"].pop("readOnlyRootFilesystem")),
    "capability": ("pods_are_confined", lambda d: _triton(d)["securityContext"]["capabilities"].update(add=["KILL"])),
    "no seccomp": ("pods_are_confined", lambda d: _pod(d)["securityContext"].pop("seccompProfile")),
    "node's network": ("pods_are_confined", lambda d: _pod(d).update(hostNetwork=True)),
    "node's files": ("pods_are_confined", lambda d: _pod(d)["volumes"][0].update(hostPath={"path": "/"})),
    "privileged namespace": (
        "namespaces_enforce_restricted",
        lambda d: of_kind(d, "Namespace")[0]["metadata"].pop("labels"),
    ),
    "API token": ("no_pod_has_a_token_of_the_api", lambda d: _pod(d).pop("automountServiceAccountToken")),
    "no liveness": ("every_long_running_container_is_probed", lambda d: _front(d).pop("livenessProbe")),
    "sidecar unprobed": ("every_long_running_container_is_probed", lambda d: _triton(d).pop("startupProbe")),
    "probe on the TLS port": (
        "fronts_are_probed_by_grpc_on_the_plain_health_port",
        lambda d: _front(d)["readinessProbe"]["grpc"].update(port=9001),
    ),
    "liveness that follows Triton": (
        "fronts_are_probed_by_grpc_on_the_plain_health_port",
        lambda d: _front(d)["livenessProbe"]["grpc"].pop("service"),
    ),
    "no limit": ("memory_is_limited_and_requests_fit", lambda d: _front(d)["resources"]["limits"].pop("memory")),
    "request above limit": (
        "memory_is_limited_and_requests_fit",
        lambda d: _front(d)["resources"]["requests"].update(memory="3000Mi"),
    ),
    "unbounded memory disk": (
        "memory_is_limited_and_requests_fit",
        lambda d: _pod(d)["volumes"].append({"name": "x", "emptyDir": {"medium": "Memory"}}),
    ),
    "no budget": (
        "several_replicas_have_a_budget_and_spread", lambda d: _drop(d, "PodDisruptionBudget", "aesthetic-reward")
    ),
    "budget that blocks": (
        "several_replicas_have_a_budget_and_spread",
        lambda d: named(d, "PodDisruptionBudget", "aesthetic-reward")["spec"].update(maxUnavailable=0),
    ),
    "no spread": ("several_replicas_have_a_budget_and_spread", lambda d: _pod(d).pop("topologySpreadConstraints")),
    "fixed replicas under an autoscaler": (
        "each_deployment_has_one_autoscaler_or_says_its_replicas",
        lambda d: fronts(d)[0].manifest["spec"].update(replicas=3),
    ),
    "no autoscaler": (
        "each_deployment_has_one_autoscaler_or_says_its_replicas",
        lambda d: _drop(d, "HorizontalPodAutoscaler", "aesthetic-reward"),
    ),
    "short grace": ("there_is_time_to_drain", lambda d: _pod(d).update(terminationGracePeriodSeconds=50)),
    "long drain": (
        "there_is_time_to_drain",
        lambda d: _swap(_front(d)["args"], "--drain-seconds", "--drain-seconds=20"),
    ),
    "no default deny": (
        "everything_is_denied_by_default", lambda d: _drop(d, "NetworkPolicy", "default-deny")
    ),
    "everybody reaches fronts": (
        "only_fronts_reach_triton_and_only_clients_reach_fronts",
        lambda d: named(d, "NetworkPolicy", "clients-to-fronts")["spec"]["ingress"][0].pop("from"),
    ),
    "the sidecar listens to all": (
        "only_fronts_reach_triton_and_only_clients_reach_fronts",
        lambda d: _swap(_triton(d)["args"], "--grpc-address", "--grpc-address=0.0.0.0"),
    ),
    "Prometheus may call": (
        "only_fronts_reach_triton_and_only_clients_reach_fronts",
        lambda d: named(d, "NetworkPolicy", "prometheus")["spec"]["ingress"][0]["ports"].append({"port": 9001}),
    ),
    "a token in the environment": (
        "no_secret_is_written_down", lambda d: _front(d)["env"].append({"name": "API_TOKEN", "value": "x"})
    ),
    "a secret": (
        "no_secret_is_written_down",
        lambda d: d.append({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x"}, "stringData": {}}),
    ),
    "plain text with GPUs": (
        "callers_are_known_or_the_overlay_is_the_small_one", lambda d: _front(d)["args"].append("--insecure")
    ),
    "clients without certificates": (
        "callers_are_known_or_the_overlay_is_the_small_one",
        lambda d: _swap(_front(d)["args"], "--tls-client-ca", None),
    ),
    "a missing ConfigMap": (
        "references_exist", lambda d: _front(d)["envFrom"][0]["configMapRef"].update(name="elsewhere")
    ),
    "a missing port": (
        "references_exist",
        lambda d: named(d, "Service", "aesthetic-reward")["spec"]["ports"][0].update(targetPort="http"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_policy_notices(mutant: str) -> None:
    policy, mutate = MUTANTS[mutant]
    documents = manifests("overlays/gpu")
    mutate(documents)
    noticed = {one.__name__ for one in POLICIES if list(one(documents))}
    assert policy in noticed


def test_every_policy_has_a_mutant_and_a_shared_triton_is_closed_too() -> None:
    assert {policy for policy, _ in MUTANTS.values()} == {policy.__name__ for policy in POLICIES}
    documents = manifests("overlays/gpu-shared")
    rule = named(documents, "NetworkPolicy", "fronts-to-triton")["spec"]["ingress"][0]
    rule["from"] = [{"podSelector": {"matchLabels": {"sync-r1/client": "true"}}}]
    assert any("triton" in one for policy in POLICIES for one in policy(documents))


@pytest.mark.parametrize("folder", [f"overlays/{name}" for name in OVERLAYS])
def test_an_overlay_has_the_four_rewards_with_both_services(folder: str) -> None:
    documents = manifests(folder)
    assert sorted(front.labels["app.kubernetes.io/name"] for front in fronts(documents)) == sorted(REWARDS)
    assert set(REWARDS) == set(load_profile("pocket").rewards)
    for reward in REWARDS:
        assert named(documents, "Service", f"{reward}-reward-replicas")["spec"]["clusterIP"] == "None"
        assert "clusterIP" not in named(documents, "Service", f"{reward}-reward")["spec"]


def test_a_changed_setting_rolls_every_pod() -> None:
    # The ConfigMap's name holds a hash of its content.
    for folder in OVERLAYS:
        (config,) = [one for one in of_kind(manifests(f"overlays/{folder}"), "ConfigMap") if "PROFILE" in one["data"]]
        assert re.fullmatch(r"serving-[a-z0-9]{10}", config["metadata"]["name"])


def test_options_that_pods_are_given_exist() -> None:
    from typer.testing import CliRunner

    from sync_r1.cli.main import app

    helps = {
        command: CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).output
        for command in ("serve", "repository")
    }
    for folder in OVERLAYS:
        for front in fronts(manifests(f"overlays/{folder}")):
            for container in (front.container("front"), front.container("models")):
                command = "serve" if container["name"] == "front" else "repository"
                for argument in container["args"]:
                    if argument.startswith("--"):
                        assert argument.partition("=")[0] in helps[command], argument


def test_the_liveness_probe_asks_for_the_service_that_exists() -> None:
    probe = fronts(manifests("overlays/gpu"))[0].container("front")["livenessProbe"]
    assert probe["grpc"]["service"] == LIVENESS


@pytest.mark.parametrize("overlay", ["gpu", "gpu-shared", "cpu-pocket"])
def test_a_triton_whose_python_process_died_is_restarted(overlay: str, tmp_path: Path) -> None:
    commands = {
        container["livenessProbe"]["exec"]["command"][2]
        for load in k8s_manifests.workloads(manifests(f"overlays/{overlay}"))
        for container in [*load.containers, *load.pod.get("initContainers", [])]
        if container["name"] == "triton"
    }
    (command,) = commands
    curl, both, looks = command.partition(" && ")
    assert both
    assert curl.endswith("/v2/health/live")
    program = tmp_path / "triton_python_backend_stub"
    shutil.copy(shutil.which("sleep") or "", program)
    with subprocess.Popen([program, "60"]) as process:
        here = ["sh", "-c", looks.replace("[0-9]*", str(process.pid))]
        alive = subprocess.run(here, check=False).returncode
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead, and not reaped, as Triton leaves it
        dead = subprocess.run(here, check=False).returncode
    assert (alive, dead) == (0, 1)


def test_keda_wakes_by_the_trainers_label_and_scales_by_the_reward_of_its_deployment() -> None:
    (trainer,) = k8s_manifests.workloads(manifests("trainer"))
    objects = of_kind(manifests("overlays/gpu-scale-to-zero"), "ScaledObject")
    assert len(objects) == 4
    for one in objects:
        assert one["spec"]["minReplicaCount"] == 0
        wake, load = one["spec"]["triggers"]
        key, value = wake["metadata"]["podSelector"].split("=")
        assert trainer.labels[key] == value
        reward = one["spec"]["scaleTargetRef"]["name"].removesuffix("-reward")
        assert f'reward="{reward}"' in load["metadata"]["query"]


def test_the_trainer_finds_every_reward_where_an_overlay_puts_it() -> None:
    config = next(one for one in of_kind(manifests("trainer"), "ConfigMap"))
    endpoints = yaml.safe_load(config["data"]["endpoints.json"])
    assert set(endpoints) == set(REWARDS)
    documents = manifests("overlays/gpu")
    certificate = named(documents, "Certificate", "reward-server")
    for target in endpoints.values():
        name, port = target.removeprefix("dns:///").split(":")
        assert named(documents, "Service", name)["spec"]["ports"][0]["port"] == int(port)
        assert name in certificate["spec"]["dnsNames"]  # the name that the SDK checks


def test_triton_is_built_from_nvidias_image_at_or_above_the_floor_by_digest() -> None:
    lines = (K8S / "images" / "bases.env").read_text().splitlines()
    bases = dict(line.split("=", 1) for line in lines if not line.startswith("#"))
    version = triton_version(bases["TRITON"])
    assert re.fullmatch(r"nvcr\.io/nvidia/tritonserver:[0-9.]+-py3@sha256:[0-9a-f]{64}", bases["TRITON"])
    assert version is not None
    assert version >= TRITON_FLOOR
    for folder in OVERLAYS:  # the tags of our own image tell the truth about it
        for load in k8s_manifests.workloads(manifests(f"overlays/{folder}")):
            for container in load.every_container:
                if container["name"] == "triton":
                    assert triton_version(container["image"]) == version
    assert "FROM ${TRITON}" in (K8S / "images" / "triton.Containerfile").read_text()


@pytest.mark.parametrize("name", ["front", "trainer", "triton", "models", "embedded"])
def test_images_end_as_another_user_than_root_and_hold_no_default_base(name: str) -> None:
    text = (K8S / "images" / f"{name}.Containerfile").read_text()
    users = re.findall(r"^USER (.*)$", text, re.MULTILINE)
    assert name == "models" or users[-1] == "1000:1000"
    assert ":latest" not in text
    assert all(base.startswith("${") for base in re.findall(r"^FROM (\S+)", text, re.MULTILINE))


def test_ports_of_the_shared_triton_are_asked_by_the_fronts() -> None:
    documents = manifests("overlays/gpu-shared")
    config = next(one for one in of_kind(documents, "ConfigMap") if "TRITON" in one["data"])
    assert config["data"]["TRITON"] == "dns:///triton:8001"
    assert option(fronts(documents)[0].container("front"), "shared-memory") is None
    (triton,) = [load for load in k8s_manifests.workloads(documents) if load.name == "triton"]
    assert option(triton.container("triton"), "grpc-port") == "8001"
    assert option(triton.container("triton"), "allow-client-shm") is None

"""Kubernetes manifests as a cluster would get them: rendered overlays, and looks into their pods."""

from __future__ import annotations

import copy
import functools
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
K8S = ROOT / "k8s"
OVERLAYS = sorted(path.name for path in (K8S / "overlays").iterdir())
APPLIED = [*(f"overlays/{name}" for name in OVERLAYS), "trainer"]
"""What a reader of docs/kubernetes.md applies, below k8s/."""
REWARDS = ("aesthetic", "concept-consistency", "text-faithfulness", "understanding-correctness")

Manifest = dict[str, Any]


@functools.cache
def rendered(folder: str) -> str:
    """The YAML of `kubectl kustomize k8s/FOLDER`."""
    kubectl = Path(sys.executable).with_name("kubectl")
    done = subprocess.run([kubectl, "kustomize", K8S / folder], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, f"kustomize warns: {done.stderr}"
    return done.stdout


def manifests(folder: str) -> list[Manifest]:
    """A fresh copy, so that a test may break it."""
    return copy.deepcopy(_parsed(folder))


@functools.cache
def _parsed(folder: str) -> list[Manifest]:
    return list(yaml.safe_load_all(rendered(folder)))


def of_kind(documents: list[Manifest], kind: str) -> list[Manifest]:
    """Those of one kind."""
    return [document for document in documents if document["kind"] == kind]


def named(documents: list[Manifest], kind: str, name: str) -> Manifest:
    """The one of that kind and name."""
    (found,) = (one for one in of_kind(documents, kind) if one["metadata"]["name"] == name)
    return found


@dataclass(frozen=True)
class Workload:
    """A Deployment or Job and its pod."""

    name: str
    kind: str
    manifest: Manifest
    pod: Manifest
    """Its spec."""
    labels: dict[str, str]

    @property
    def containers(self) -> list[Manifest]:
        """All that run for as long as the pod: native sidecars first."""
        return [one for one in self.pod.get("initContainers", []) if self.stays(one)] + self.pod["containers"]

    @property
    def every_container(self) -> list[Manifest]:
        """Those that only run first, too."""
        return [*self.pod.get("initContainers", []), *self.pod["containers"]]

    @staticmethod
    def stays(init_container: Manifest) -> bool:
        """Whether it is a native sidecar."""
        return init_container.get("restartPolicy") == "Always"

    def container(self, name: str) -> Manifest:
        """By name."""
        (found,) = (one for one in self.every_container if one["name"] == name)
        return found


def workloads(documents: list[Manifest]) -> Iterator[Workload]:
    """Everything that makes pods."""
    for document in documents:
        if document["kind"] in ("Deployment", "StatefulSet", "DaemonSet", "Job"):
            template = document["spec"]["template"]
            yield Workload(
                document["metadata"]["name"], document["kind"], document, template["spec"],
                template["metadata"].get("labels", {}),
            )  # fmt: skip


def fronts(documents: list[Manifest]) -> list[Workload]:
    """The four rewards."""
    return [one for one in workloads(documents) if one.labels.get("app.kubernetes.io/component") == "front"]


def matches(selector: Manifest, labels: dict[str, str]) -> bool:
    """Whether a label selector holds for these labels."""
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    for one in selector.get("matchExpressions", []):
        assert one["operator"] == "In", "the tests know no other operator yet"
        if labels.get(one["key"]) not in one["values"]:
            return False
    return True


def option(container: Manifest, name: str) -> str | None:
    """The value of `--name=VALUE`; "" of a flag; None where it is absent."""
    for argument in container.get("args", []):
        if argument == f"--{name}":
            return ""
        if argument.startswith(f"--{name}="):
            return str(argument.partition("=")[2])
    return None

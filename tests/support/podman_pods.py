"""Rendered manifests as podman plays them: what stands in for a kubelet in `make k8s-test`.

podman has no native sidecars, gRPC probes, fsGroup, variables in arguments and Services. So a sidecar becomes a
container, variables are put in here, a pod gets ports of this machine's loopback, and it is ended in the kubelet's
order: preStop, SIGTERM to the containers, then to the sidecars. NVIDIA's Triton is replaced by the embedded one
(k8s/images/embedded.Containerfile), whose backend is Python.
"""

from __future__ import annotations

import copy
import os
import re
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import yaml
from k8s_manifests import Manifest, Workload, of_kind

CONTAINERS_CONF = """
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=8192:8192"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""
EMBEDDED = "localhost/sync-r1/embedded:0.1.0"
_UNKNOWN = ("topologySpreadConstraints", "priorityClassName", "serviceAccountName", "enableServiceLinks")


@dataclass
class Pod:
    """One replica: its YAML, and how it is reached."""

    name: str
    manifest: Manifest
    config: list[Manifest]
    port: int
    """Of calls, on 127.0.0.1."""
    health_port: int
    metrics_port: int
    sidecars: tuple[str, ...]
    pre_stop_s: float

    @property
    def target(self) -> str:
        """HOST:PORT of calls."""
        return f"127.0.0.1:{self.port}"

    def play(self, timeout_s: float = 300) -> None:
        """Create and start it; its init containers run first."""
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            file.write(yaml.safe_dump_all([*self.config, self.manifest]))
            file.flush()
            podman("play", "kube", file.name, timeout_s=timeout_s)

    def end(self) -> None:
        """As a kubelet ends a pod: preStop, then the containers, then the sidecars."""
        grace_s = self.manifest["spec"]["terminationGracePeriodSeconds"]
        time.sleep(self.pre_stop_s)
        for container in self.manifest["spec"]["containers"]:
            if container["name"] not in self.sidecars:
                podman("stop", "--time", str(grace_s), f"{self.name}-{container['name']}", timeout_s=grace_s + 60)
        podman("pod", "stop", "--time", "10", self.name, timeout_s=120)

    def start(self) -> None:
        """Start it again where it was ended."""
        podman("pod", "start", self.name, timeout_s=300)

    def remove(self) -> None:
        """End it in any case, with its volumes."""
        podman("pod", "rm", "--force", "--time", "0", "--ignore", self.name, timeout_s=120)
        for volume in self.manifest["spec"]["volumes"]:
            podman("volume", "rm", "--force", volume["name"], check=False)

    def log(self, container: str, lines: int = 15) -> str:
        """The end of what a container wrote."""
        return podman("logs", "--tail", str(lines), f"{self.name}-{container}", check=False)


def pod_of(load: Workload, documents: list[Manifest], name: str, ports: tuple[int, int, int]) -> Pod:
    """A replica of a rendered Deployment. `ports`: of this machine, for calls, health and metrics."""
    spec = copy.deepcopy(load.pod) | {"restartPolicy": "OnFailure"}  # podman would restart init containers too
    for key in _UNKNOWN:
        spec.pop(key, None)
    # fsGroup is unknown to podman, so a volume on /dev/shm would be root's; its pods share one /dev/shm as it is.
    # And a volume's name is the machine's, not the pod's.
    spec["volumes"] = [
        volume | {"name": f"{name}-{volume['name']}"} for volume in spec["volumes"] if volume["name"] != "shm"
    ]
    sidecars = [one for one in spec["initContainers"] if load.stays(one)]
    spec["initContainers"] = [one for one in spec["initContainers"] if not load.stays(one)]
    front = spec["containers"][0]
    pre_stop_s = front.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    spec["containers"] = sidecars + spec["containers"]
    hosts = dict(zip(("grpc", "health", "metrics"), ports))
    for container in [*spec["containers"], *spec["initContainers"]]:
        container.pop("restartPolicy", None)
        container["volumeMounts"] = [
            mount | {"name": f"{name}-{mount['name']}"} for mount in container["volumeMounts"] if mount["name"] != "shm"
        ]
        for probe in ("startupProbe", "readinessProbe", "livenessProbe", "lifecycle"):
            container.pop(probe, None)
        # podman publishes every port that is named, to everybody.
        container["ports"] = [
            port | {"hostPort": hosts[port["name"]], "hostIP": "127.0.0.1"}
            for port in container.get("ports", [])
            if port["name"] in hosts
        ]
        if container["name"] == "triton":
            container["image"] = EMBEDDED
    manifest = {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": load.labels}, "spec": spec,
    }  # fmt: skip
    config = copy.deepcopy(of_kind(documents, "ConfigMap"))
    settings = {"REWARD": load.labels["app.kubernetes.io/name"]}
    for one in config:
        if "BACKEND" in one["data"]:
            one["data"]["BACKEND"] = "python"
            settings |= one["data"]
    for container in [*spec["containers"], *spec["initContainers"]]:
        # A kubelet puts variables into arguments; podman does not.
        container["args"] = [
            re.sub(r"\$\((\w+)\)", lambda found: settings[found[1]], argument) for argument in container["args"]
        ]
    return Pod(name, manifest, config, *ports, tuple(one["name"] for one in sidecars), pre_stop_s)


def podman(*arguments: str, timeout_s: float = 120, check: bool = True) -> str:
    """Its standard output and errors. Raises RuntimeError with them when it fails."""
    environment = dict(os.environ, CONTAINERS_CONF=str(configuration()))
    done = subprocess.run(
        ["podman", *arguments], capture_output=True, text=True, timeout=timeout_s, check=False, env=environment
    )
    said = done.stdout + done.stderr
    if check and done.returncode != 0:
        raise RuntimeError(f"podman {' '.join(arguments)} ended with {done.returncode}: {said[-3000:]}")
    return said


def configuration() -> Path:
    """A containers.conf for machines without systemd."""
    file = Path(tempfile.gettempdir()) / "sync-r1-containers.conf"
    file.write_text(CONTAINERS_CONF)
    return file

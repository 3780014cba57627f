"""What every manifest of ours must keep to: a policy takes rendered manifests and says in words what breaks it."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator

from k8s_manifests import Manifest, Workload, fronts, matches, of_kind, option, workloads

from sync_r1.services.config import ServiceConfig

Policy = Callable[[list[Manifest]], Iterator[str]]
TRITON_FLOOR = (26, 7)
_QUIET_S = 3.0  # `Gate.drain` waits up to six times 0.5 s for the last callers
_UNITS = {"m": 1e-3, "": 1.0, "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}


def quantity(text: str) -> float:
    """Kubernetes' `500m`, `2Gi` as a number."""
    number, unit = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", str(text)).groups()  # type: ignore[union-attr]
    return float(number) * _UNITS[unit]


def triton_version(image: str) -> tuple[int, int] | None:
    """(26, 8) of `…/tritonserver:26.08-py3@…` or of our own `…/triton:0.1.0-triton26.08@…`."""
    found = re.search(r"(?:tritonserver:|-triton)(\d\d)\.(\d\d)", image)
    return (int(found[1]), int(found[2])) if found else None


def images_are_pinned(documents: list[Manifest]) -> Iterator[str]:
    for load, container in _containers(documents):
        image = container["image"]
        name = image.rpartition("/")[2]
        if "@sha256:" not in image and (":" not in name or name.endswith((":latest", ":"))):
            yield f"{load.name}/{container['name']}: image {image} has no version"
        if "/" not in image:
            yield f"{load.name}/{container['name']}: image {image} has no registry, so a stranger's could be pulled"


def triton_is_new_enough(documents: list[Manifest]) -> Iterator[str]:
    for load, container in _containers(documents):
        if container["name"] == "triton" or "triton" in container["image"]:
            version = triton_version(container["image"])
            if version is None or version < TRITON_FLOOR:
                yield f"{load.name}: Triton of {container['image']} is not known to be 26.07 or newer"
        if "embedded" in container["image"]:
            yield f"{load.name}: {container['image']} holds the old embedded Triton"


def pods_are_confined(documents: list[Manifest]) -> Iterator[str]:
    """What the Pod Security Standard `restricted` asks, and a read-only root."""
    for load in workloads(documents):
        context = load.pod.get("securityContext", {})
        if context.get("runAsNonRoot") is not True or not context.get("runAsUser"):
            yield f"{load.name}: may run as root"
        if context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            yield f"{load.name}: no seccomp profile"
        if any(load.pod.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")):
            yield f"{load.name}: shares a namespace of the node"
        if any("hostPath" in volume for volume in load.pod.get("volumes", [])):
            yield f"{load.name}: mounts a path of the node"
        for container in load.every_container:
            own = container.get("securityContext", {})
            where = f"{load.name}/{container['name']}"
            if own.get("runAsNonRoot") is False or own.get("runAsUser") == 0 or own.get("privileged"):
                yield f"{where}: runs as root or privileged"
            if own.get("allowPrivilegeEscalation") is not False:
                yield f"{where}: may gain privileges"
            if own.get("readOnlyRootFilesystem") is not True:
                yield f"{where}: its root file system can be written"
            if own.get("capabilities", {}).get("drop") != ["ALL"] or own.get("capabilities", {}).get("add"):
                yield f"{where}: keeps capabilities"


def namespaces_enforce_restricted(documents: list[Manifest]) -> Iterator[str]:
    for namespace in of_kind(documents, "Namespace"):
        if namespace["metadata"].get("labels", {}).get("pod-security.kubernetes.io/enforce") != "restricted":
            yield f"namespace {namespace['metadata']['name']}: does not enforce restricted"


def no_pod_has_a_token_of_the_api(documents: list[Manifest]) -> Iterator[str]:
    for load in workloads(documents):
        if load.pod.get("automountServiceAccountToken") is not False:
            yield f"{load.name}: mounts a token of its service account"
        if load.pod.get("serviceAccountName", "default") == "default":
            yield f"{load.name}: runs as the namespace's default account"
    for account in of_kind(documents, "ServiceAccount"):
        if account.get("automountServiceAccountToken") is not False:
            yield f"service account {account['metadata']['name']}: its token is mounted"


def every_long_running_container_is_probed(documents: list[Manifest]) -> Iterator[str]:
    for load in workloads(documents):
        if load.kind == "Job":
            continue
        for container in load.containers:
            sidecar = container in load.pod.get("initContainers", [])
            wanted = {"startupProbe", "livenessProbe"} | (set() if sidecar else {"readinessProbe"})
            for missing in sorted(wanted - container.keys()):
                yield f"{load.name}/{container['name']}: no {missing}"


def fronts_are_probed_by_grpc_on_the_plain_health_port(documents: list[Manifest]) -> Iterator[str]:
    for front in fronts(documents):
        container = front.container("front")
        port = option(container, "health-port")
        for name in ("startupProbe", "readinessProbe", "livenessProbe"):
            probe = container.get(name, {}).get("grpc", {})
            if str(probe.get("port")) != port:
                yield f"{front.name}: {name} does not ask the health port {port} over gRPC"
            if (name == "readinessProbe") == (probe.get("service") == "liveness"):
                yield f"{front.name}: {name} asks for the wrong service ({probe.get('service') or 'all'})"


def memory_is_limited_and_requests_fit(documents: list[Manifest]) -> Iterator[str]:
    for load, container in _containers(documents):
        where = f"{load.name}/{container['name']}"
        resources = container.get("resources", {})
        requests, limits = resources.get("requests", {}), resources.get("limits", {})
        if "memory" not in limits:
            yield f"{where}: no limit of memory"
        for name in ("cpu", "memory"):
            if name not in requests:
                yield f"{where}: requests no {name}"
            elif name in limits and quantity(requests[name]) > quantity(limits[name]):
                yield f"{where}: requests more {name} than its limit"
        if requests.get("nvidia.com/gpu", limits.get("nvidia.com/gpu")) != limits.get("nvidia.com/gpu"):
            yield f"{where}: GPUs of request and limit differ"
    for load in workloads(documents):
        for volume in load.pod.get("volumes", []):
            if "emptyDir" in volume and "sizeLimit" not in volume["emptyDir"]:
                yield f"{load.name}: volume {volume['name']} has no bound"


def several_replicas_have_a_budget_and_spread(documents: list[Manifest]) -> Iterator[str]:
    scaled = {
        one["spec"]["scaleTargetRef"]["name"]: one["spec"].get("maxReplicas", one["spec"].get("maxReplicaCount"))
        for kind in ("HorizontalPodAutoscaler", "ScaledObject") for one in of_kind(documents, kind)
    }  # fmt: skip
    for load in workloads(documents):
        if load.kind == "Job" or max(load.manifest["spec"].get("replicas", 1), scaled.get(load.name, 1)) < 2:
            continue
        budgets = [
            one for one in of_kind(documents, "PodDisruptionBudget") if matches(one["spec"]["selector"], load.labels)
        ]
        if len(budgets) != 1:
            yield f"{load.name}: {len(budgets)} disruption budgets"
        elif not quantity(str(budgets[0]["spec"].get("maxUnavailable", 0))) >= 1:
            yield f"{load.name}: its budget never lets a node be emptied"
        spread = load.pod.get("topologySpreadConstraints", [])
        if not any(matches(one["labelSelector"], load.labels) for one in spread):
            yield f"{load.name}: replicas may all be on one node"


def each_deployment_has_one_autoscaler_or_says_its_replicas(documents: list[Manifest]) -> Iterator[str]:
    targets = [
        one["spec"]["scaleTargetRef"]["name"]
        for kind in ("HorizontalPodAutoscaler", "ScaledObject") for one in of_kind(documents, kind)
    ]  # fmt: skip
    for load in workloads(documents):
        if load.kind != "Deployment":
            continue
        count = targets.count(load.name)
        if count > 1 or (count == 1) == ("replicas" in load.manifest["spec"]):
            yield f"{load.name}: {count} autoscalers and replicas {load.manifest['spec'].get('replicas')}"
    for stray in set(targets) - {load.name for load in workloads(documents)}:
        yield f"an autoscaler scales {stray}, which does not exist"


def there_is_time_to_drain(documents: list[Manifest]) -> Iterator[str]:
    for load in workloads(documents):
        needed_s = 0.0
        for container in load.containers:
            needed_s += container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
            needed_s += float(option(container, "exit-timeout-secs") or 0)
            if container["name"] == "front":
                needed_s += float(option(container, "drain-seconds") or 0) + ServiceConfig().grace_s + _QUIET_S
        if load.pod.get("terminationGracePeriodSeconds", 30) < needed_s:
            yield f"{load.name}: is killed before its {needed_s:g} s of draining are over"


def everything_is_denied_by_default(documents: list[Manifest]) -> Iterator[str]:
    if not of_kind(documents, "Namespace"):
        return  # comes after an overlay, into its namespace
    for policy in of_kind(documents, "NetworkPolicy"):
        spec = policy["spec"]
        if spec["podSelector"] == {} and set(spec["policyTypes"]) == {"Ingress", "Egress"}:
            if spec.get("ingress") or spec.get("egress"):
                continue
            return
    yield "no policy denies everything by default"


def only_fronts_reach_triton_and_only_clients_reach_fronts(documents: list[Manifest]) -> Iterator[str]:
    for load in workloads(documents):
        for policy in of_kind(documents, "NetworkPolicy"):
            if not matches(policy["spec"]["podSelector"], load.labels):
                continue
            for rule in policy["spec"].get("ingress", []):
                ports = {port["port"] for port in rule.get("ports", [])}
                component = load.labels.get("app.kubernetes.io/component", "")
                yield from _too_open(load.name, component, rule, ports)
    for load in workloads(documents):
        if load.labels.get("app.kubernetes.io/component") == "front" and any(
            one["name"] == "triton" for one in load.containers
        ):
            for name in ("grpc-address", "http-address"):
                if option(load.container("triton"), name) != "127.0.0.1":
                    yield f"{load.name}: its Triton listens beyond the pod ({name})"


def _too_open(name: str, component: str, rule: Manifest, ports: set[int]) -> Iterator[str]:
    wanted = {"triton": {"app.kubernetes.io/component": "front"}, "front": {"sync-r1/client": "true"}}.get(component)
    calls = {"triton": {8000, 8001}, "front": {9001, 9002}}.get(component, set())
    if wanted is None or (ports and not ports & calls):
        return
    sources = rule.get("from", [{}])
    for source in sources:
        if source.get("podSelector", {}).get("matchLabels") != wanted:
            yield f"{name}: {source or 'anybody'} reaches its ports {sorted(ports & calls) or 'all'}"
        if component == "triton" and "namespaceSelector" in source:
            yield f"{name}: other namespaces reach Triton"


def no_secret_is_written_down(documents: list[Manifest]) -> Iterator[str]:
    for secret in of_kind(documents, "Secret"):
        yield f"secret {secret['metadata']['name']} is in the manifests"
    suspicious = re.compile(r"(?i)(password|passwd|secret|token|api_?key)$")
    for load, container in _containers(documents):
        for variable in container.get("env", []):
            if suspicious.search(variable["name"]) and variable.get("value"):
                yield f"{load.name}: {variable['name']} is written down"
    for config in of_kind(documents, "ConfigMap"):
        for key, text in config.get("data", {}).items():
            if "PRIVATE KEY" in text or suspicious.search(key) or _is_key(text):
                yield f"config map {config['metadata']['name']}: {key} looks like a secret"


def _is_key(text: str) -> bool:
    if len(text) < 40 or not re.fullmatch(r"[A-Za-z0-9+/=_-]+", text):
        return False
    try:
        base64.b64decode(text, validate=True)
    except ValueError:
        return False
    return True


def callers_are_known_or_the_overlay_is_the_small_one(documents: list[Manifest]) -> Iterator[str]:
    """Plain text belongs to trying out; whatever has GPUs is somebody's cluster."""
    for front in fronts(documents):
        arguments = front.container("front")["args"]
        with_gpu = any("nvidia.com/gpu" in one["resources"].get("limits", {}) for one in front.every_container)
        if "--insecure" in arguments and (with_gpu or option(front.container("front"), "tls-cert") is not None):
            yield f"{front.name}: --insecure on a cluster with GPUs, or beside certificates"
        if "--insecure" not in arguments and option(front.container("front"), "tls-client-ca") is None:
            yield f"{front.name}: neither plain text nor mutual TLS was chosen; it would not start"


def references_exist(documents: list[Manifest]) -> Iterator[str]:
    """ConfigMaps, accounts, classes and ports that pods and Services name."""
    names = {kind: {one["metadata"]["name"] for one in of_kind(documents, kind)} for kind in ("ConfigMap",)}
    for load in workloads(documents):
        for container in load.every_container:
            for source in container.get("envFrom", []):
                if source["configMapRef"]["name"] not in names["ConfigMap"]:
                    yield f"{load.name}: there is no ConfigMap {source['configMapRef']['name']}"
            mounted = {mount["name"] for mount in container.get("volumeMounts", [])}
            if unknown := mounted - {volume["name"] for volume in load.pod.get("volumes", [])}:
                yield f"{load.name}: mounts {unknown}, which are no volumes of it"
            if container.get("lifecycle", {}).get("preStop") and load.kind == "Job":
                yield f"{load.name}: a Job's container needs no preStop"
    for service in of_kind(documents, "Service"):
        selector = {"matchLabels": service["spec"]["selector"]}
        selected = [load for load in workloads(documents) if matches(selector, load.labels)]
        if not selected:
            yield f"service {service['metadata']['name']} selects no pod"
        for load in selected:
            ports = {port["name"] for one in load.containers for port in one.get("ports", [])}
            for port in service["spec"]["ports"]:
                target = port.get("targetPort", port["name"])
                if target not in ports:
                    yield f"service {service['metadata']['name']}: {load.name} has no port {target}"


def _containers(documents: list[Manifest]) -> Iterator[tuple[Workload, Manifest]]:
    for load in workloads(documents):
        for container in load.every_container:
            yield load, container


POLICIES: tuple[Policy, ...] = (
    images_are_pinned, triton_is_new_enough, pods_are_confined, namespaces_enforce_restricted,
    no_pod_has_a_token_of_the_api, every_long_running_container_is_probed,
    fronts_are_probed_by_grpc_on_the_plain_health_port, memory_is_limited_and_requests_fit,
    several_replicas_have_a_budget_and_spread, each_deployment_has_one_autoscaler_or_says_its_replicas,
    there_is_time_to_drain, everything_is_denied_by_default, only_fronts_reach_triton_and_only_clients_reach_fronts,
    no_secret_is_written_down, callers_are_known_or_the_overlay_is_the_small_one, references_exist,
)  # fmt: skip

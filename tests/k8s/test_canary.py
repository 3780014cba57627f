"""A new release of one reward reaches its callers by weight, and goes back, without a lost or mixed score.

The drill (`benchmarks/reliability/canary.py`) does it with two real releases and a real Envoy; the route is the one
that `k8s/components/canary` brings to a cluster.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import yaml
from k8s_manifests import K8S, REWARDS, ROOT, manifests
from k8s_policies import POLICIES

from benchmarks.reliability import canary, canary_route

DIGESTS = ("a" * 64, "b" * 64)
CLUSTERS = {"stable": "stable", "canary": "canary"}


@pytest.mark.slow
def test_a_new_release_is_introduced_rolled_back_and_made_the_default_under_load() -> None:
    result = canary.run(True)
    assert len(result.rows) == len(canary.WEIGHTS) + 4
    assert all(row.met for row in result.rows), [row for row in result.rows if not row.met]


def test_pins_stand_before_weights_and_each_leads_to_its_own_side() -> None:
    host = canary_route.virtual_host(canary_route.route_of((90, 10), DIGESTS), CLUSTERS)
    new, old, weighted = host["routes"]
    for route, digest, side in ((new, DIGESTS[1], "canary"), (old, DIGESTS[0], "stable")):
        assert route["match"]["headers"] == [{"name": "sync-r1-release", "string_match": {"exact": digest}}]
        assert [one["name"] for one in route["route"]["weighted_clusters"]["clusters"]] == [side]
    assert weighted["match"]["headers"] == []
    assert [(one["name"], one["weight"]) for one in weighted["route"]["weighted_clusters"]["clusters"]] == [
        ("stable", 90), ("canary", 10),
    ]  # fmt: skip


def test_a_route_that_says_more_than_is_tested_is_refused() -> None:
    route = canary_route.route_of((90, 10), DIGESTS)
    route["spec"]["rules"][2]["filters"] = [{"type": "RequestMirror"}]
    with pytest.raises(ValueError, match=r"by-weight.*filters"):
        canary_route.virtual_host(route, CLUSTERS)
    route = canary_route.route_of((90, 10), DIGESTS)
    route["spec"]["rules"][0]["matches"][0]["headers"][0]["type"] = "RegularExpression"
    with pytest.raises(ValueError, match="RegularExpression"):
        canary_route.virtual_host(route, CLUSTERS)


def test_the_bounds_of_a_share_hold_what_is_fair_and_not_what_is_not() -> None:
    low, high = canary.bounds(4_000, 0.1)
    assert low < 0.1 < high
    assert high - low < 0.05
    assert canary.bounds(4_000, 0.0) == (0.0, 0.0)
    assert not low <= 0.15 <= high


@pytest.mark.parametrize("reward", REWARDS)
def test_the_canary_of_a_reward_renders_with_its_own_pods_beside_the_serving_ones(reward: str) -> None:
    objects = manifests(f"components/canary/{reward}")
    of = {one["kind"]: one for one in objects}
    assert "ScaledObject" not in of
    (pods,) = (one["spec"] for one in objects if one["kind"] == "Deployment")
    for container in (pods["template"]["spec"]["initContainers"][0], pods["template"]["spec"]["containers"][0]):
        assert {"name": "REWARD", "value": reward} in container["env"]
    labels = pods["template"]["metadata"]["labels"]
    assert labels["app.kubernetes.io/name"] == f"{reward}-canary"  # so the Service of `reward` does not find these pods
    for service in (one for one in objects if one["kind"] == "Service"):
        assert service["spec"]["selector"].items() <= labels.items()
    route = of["GRPCRoute"]["spec"]
    assert route["parentRefs"] == [{"name": of["Gateway"]["metadata"]["name"]}]
    backends = [[one["name"] for one in rule["backendRefs"]] for rule in route["rules"]]
    stable, new = f"{reward}-reward", f"{reward}-canary-reward"
    assert backends == [[new], [stable], [stable, new]]
    assert new in {one["metadata"]["name"] for one in objects if one["kind"] == "Service"}
    assert of["BackendTrafficPolicy"]["spec"]["targetRefs"][0]["name"] == of["GRPCRoute"]["metadata"]["name"]


def test_the_overlay_of_the_page_gives_the_canary_all_that_the_serving_pods_have(tmp_path: Path) -> None:
    """`docs/swap.md`, copied into an overlay with the components of `gpu`."""
    page = (ROOT / "docs" / "swap.md").read_text()
    text = next(block for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) if "canary/aesthetic" in block)
    overlay, gpu = yaml.safe_load(text), K8S / "overlays" / "gpu"
    like = yaml.safe_load((gpu / "kustomization.yaml").read_text())
    own = {**like, "resources": overlay["resources"], "components": overlay["components"] + like["components"]}
    own["patches"] = [*like.get("patches", []), *overlay["patches"]]
    for key in ("resources", "components"):
        own[key] = [os.path.relpath((gpu / path).resolve(), tmp_path.resolve()) for path in own[key]]
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(own))
    documents = manifests(str(tmp_path))
    found = {(one["kind"], one["metadata"]["name"]): one for one in documents}
    serving, new = (found["Deployment", name]["spec"] for name in ("aesthetic-reward", "aesthetic-canary-reward"))
    for part in ("containers", "initContainers"):
        there, here = (spec["template"]["spec"][part] for spec in (serving, new))
        assert [(one["name"], one["image"], one.get("args")) for one in there] == [
            (one["name"], one["image"], one.get("args")) for one in here
        ]
    environments = [
        {one["name"]: one.get("value") for one in container["env"]}
        for part in ("containers", "initContainers")
        for container in new["template"]["spec"][part]
        if container["name"] in ("front", "models")
    ]
    assert len(environments) == 2
    for environment in environments:
        assert environment["REWARD"] == "aesthetic"
        assert environment["PROFILE"] == "NEW_PROFILE"
        assert environment["SYNC_R1_BUNDLE_DIGEST"] == "NEW_BUNDLE_DIGEST"
    rules = found["GRPCRoute", "aesthetic-canary-route"]["spec"]["rules"]
    assert [backend["weight"] for backend in rules[2]["backendRefs"]] == [90, 10]
    values = [rule["matches"][0]["headers"][0]["value"] for rule in rules[:2]]
    assert values == ["DIGEST_OF_THE_NEW_RELEASE", "DIGEST_OF_THE_OLD_RELEASE"]
    assert ("NetworkPolicy", "gateways-to-fronts") in found
    assert len([name for kind, name in found if kind == "HorizontalPodAutoscaler"]) == 5
    for policy in POLICIES:
        assert list(policy(documents)) == []

"""The canary's HTTPRoute (`k8s/components/canary/reward/route.yaml`) in Envoy's words; an unknown rule is an error."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROUTE = Path(__file__).parents[2] / "k8s" / "components" / "canary" / "reward" / "route.yaml"


def virtual_host(route: Mapping[str, Any], clusters: Mapping[str, str]) -> dict[str, Any]:
    """A GRPCRoute's rules as Envoy has them. `clusters`: name of a Service -> name of Envoy's cluster.

    Raises ValueError for what the route says and this does not know.
    """
    routes = []
    for rule in route["spec"]["rules"]:
        if unknown := set(rule) - {"name", "matches", "backendRefs"}:
            raise ValueError(f"rule {rule.get('name')}: {sorted(unknown)} is not translated")
        weights = [
            {"name": clusters[backend["name"]], "weight": backend.get("weight", 1)} for backend in rule["backendRefs"]
        ]
        action = {"weighted_clusters": {"clusters": weights}, "timeout": "130s"}
        for match in rule.get("matches", [{}]):
            headers = [
                {"name": header["name"], "string_match": {"exact": header["value"]}}
                for header in match.get("headers", [])
                if header["type"] == "Exact" or _unknown(header)
            ]
            routes.append({"match": {"prefix": "/", "grpc": {}, "headers": headers}, "route": action})
    return {"name": "rewards", "domains": ["*"], "routes": routes}


def _unknown(header: Mapping[str, Any]) -> bool:
    raise ValueError(f"header {header['name']}: a match of type {header['type']} is not translated")


def route_of(weights: tuple[int, int], digests: tuple[str, str]) -> dict[str, Any]:
    """The project's GRPCRoute with these weights and digests (stable, canary), as an overlay patches it."""
    route: dict[str, Any] = yaml.safe_load(ROUTE.read_text())
    canary, stable, weighted = route["spec"]["rules"]
    canary["matches"][0]["headers"][0]["value"] = digests[1]
    stable["matches"][0]["headers"][0]["value"] = digests[0]
    for backend, weight in zip(weighted["backendRefs"], weights):
        backend["weight"] = weight
    return route


def write_routes(path: Path, route: Mapping[str, Any]) -> None:
    """Put it in place at once: Envoy looks when a file is moved."""
    host = virtual_host(route, {"stable": "stable", "canary": "canary"})
    kind = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps({"resources": [{"@type": kind, "name": "rewards", "virtual_hosts": [host]}]}))
    os.replace(draft, path)

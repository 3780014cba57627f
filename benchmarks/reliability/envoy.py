"""Replicas behind a real Envoy: round robin, injected delays and aborts, and the same faults under load

Three replicas, one Envoy with gRPC health checks and the fault filter, one address for the SDK. The SDK's pings end at
Envoy, and health checks only keep new calls away from a hung replica: without `connection_keepalive` upstream those
that are on it would wait for its return or for their deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.reliability.fleet import Fleet, fleet, free_port, percentile
from benchmarks.reliability.record import Result
from benchmarks.reliability.sdk_load import SETTINGS, Account, enough, judge, load
from sync_r1.services.health import SERVICE
from sync_r1.services.local import processes
from sync_r1.trainer_client import RewardClient

ITEMS, SHORT_ITEMS = 100_000, 3_000
DELAY_S, DELAYED, ABORTED = "0.1s", 5, 3
_HUNG_S = 12.0
KEEPALIVE = {"interval": "5s", "timeout": "2s"}  # a service allows a ping each 5 s
_TYPES = "type.googleapis.com/envoy.extensions"


def bootstrap(
    port: int, admin: int, routing: dict[str, Any], clusters: dict[str, list[int]], faults: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Envoy's own configuration. `routing`: `route_config` or `rds`; `clusters`: name -> ports of its replicas."""
    router = {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{_TYPES}.filters.http.router.v3.Router"}}
    fault = {"name": "envoy.filters.http.fault", "typed_config": faults}
    connections = {
        "@type": f"{_TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "rewards", "codec_type": "HTTP2", **routing,
        "http_filters": [fault, router] if faults else [router],
    }  # fmt: skip
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": connections}]
    return {
        "node": {"id": "drill", "cluster": "drill"},
        "admin": {"address": _at(admin)},
        "static_resources": {
            "listeners": [{"name": "rewards", "address": _at(port), "filter_chains": [{"filters": filters}]}],
            "clusters": [_cluster(name, ports) for name, ports in clusters.items()],
        },
    }


def _cluster(name: str, replicas: list[int]) -> dict[str, Any]:
    http2 = {
        "@type": f"{_TYPES}.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {"connection_keepalive": KEEPALIVE}},
    }
    return {
        "name": name, "type": "STATIC", "connect_timeout": "1s", "lb_policy": "ROUND_ROBIN",
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2},
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        "health_checks": [{
            "timeout": "0.5s", "interval": "0.5s", "no_traffic_interval": "0.5s", "unhealthy_threshold": 2,
            "healthy_threshold": 1, "grpc_health_check": {"service_name": SERVICE},
        }],
        "load_assignment": {"cluster_name": name, "endpoints": [
            {"lb_endpoints": [{"endpoint": {"address": _at(port)}} for port in replicas]}
        ]},
    }  # fmt: skip


def _at(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _faulty(port: int, admin: int, replicas: list[int]) -> dict[str, Any]:
    def percent(value: int) -> dict[str, Any]:
        return {"numerator": value, "denominator": "HUNDRED"}

    faults = {
        "@type": f"{_TYPES}.filters.http.fault.v3.HTTPFault",
        "delay": {"fixed_delay": DELAY_S, "percentage": percent(DELAYED)},
        "abort": {"grpc_status": 14, "percentage": percent(ABORTED)},
    }
    route = {"match": {"prefix": "/"}, "route": {"cluster": "replicas", "timeout": "0s"}}
    hosts = [{"name": "rewards", "domains": ["*"], "routes": [route]}]
    return bootstrap(port, admin, {"route_config": {"virtual_hosts": hosts}}, {"replicas": replicas}, faults)


@contextlib.contextmanager
def envoy(running: Fleet) -> Iterator[tuple[str, int]]:
    """HOST:PORT of an Envoy before the replicas, and its admin port."""
    port, admin = free_port(), free_port()
    config = _faulty(port, admin, [replica.port for replica in running.replicas])
    with started(config, running.folder, admin):
        yield f"127.0.0.1:{port}", admin


@contextlib.contextmanager
def started(config: dict[str, Any], folder: Path, admin: int) -> Iterator[None]:
    """An Envoy with this configuration, once all its replicas are healthy. Raises RuntimeError after 60 s."""
    file, log = folder / "envoy.json", folder / "envoy.log"
    file.write_text(json.dumps(config))
    program = Path(sys.executable).parent / "envoy"
    command = [str(program), "-c", str(file), "--disable-hot-restart", "--concurrency", "1", "-l", "warning"]
    process = processes.spawn(command, log=log, environment=os.environ)
    try:
        for cluster in config["static_resources"]["clusters"]:
            count = len(cluster["load_assignment"]["endpoints"][0]["lb_endpoints"])
            asyncio.run(all_healthy(admin, count, cluster["name"]))
        yield
    except BaseException:
        print(processes.tail(log), file=sys.stderr)
        raise
    finally:
        processes.stop(process, grace_s=5.0)


def stats(admin: int) -> dict[str, int]:
    """Envoy's counters and gauges."""
    with urllib.request.urlopen(f"http://127.0.0.1:{admin}/stats?format=json", timeout=5) as response:
        found = json.load(response)["stats"]
    return {stat["name"]: stat["value"] for stat in found if "name" in stat}


async def all_healthy(admin: int, count: int, cluster: str = "replicas") -> None:
    """Wait until Envoy finds so many replicas healthy. Raises RuntimeError."""
    for _ in range(600):
        with contextlib.suppress(OSError):
            if stats(admin).get(f"cluster.{cluster}.membership_healthy") == count:
                return
        await asyncio.sleep(0.1)
    raise RuntimeError(f"Envoy did not find {count} replicas of {cluster!r} healthy within 60 s")


async def drill(running: Fleet, target: str, admin: int, short: bool) -> tuple[Account, dict[str, Any], list[str]]:
    """Load and faults together, until both are through."""
    over, names = asyncio.Event(), []
    wanted = SHORT_ITEMS if short else ITEMS
    async with RewardClient(target, SETTINGS) as client:
        await client.describe()
        loading = asyncio.ensure_future(load(client, over))
        try:
            if not short:
                first, second, third = running.replicas
                await asyncio.sleep(2.0)
                names.append("killed with -9")
                await first.end(signal.SIGKILL)
                await asyncio.sleep(1.0)
                await first.restart()
                await asyncio.sleep(2.0)
                names.append("hung (SIGSTOP)")
                second.send(signal.SIGSTOP)
                await asyncio.sleep(_HUNG_S)
                second.send(signal.SIGCONT)
                for replica in running.replicas:
                    await all_healthy(admin, 3)
                    await replica.end(signal.SIGTERM)
                    await replica.restart()
                names.append("restarted one by one")
                await all_healthy(admin, 3)
                names.append("two killed at once")
                await asyncio.gather(second.end(signal.SIGKILL), third.end(signal.SIGKILL))
                await asyncio.gather(second.restart(), third.restart())
            await enough(client, loading, wanted)
        finally:
            over.set()
        return await loading, client.stats(), names


def run(short: bool) -> Result:
    """See the module."""
    with fleet(3) as running, envoy(running) as (target, admin):
        account, counted, names = asyncio.run(drill(running, target, admin, short))
        seen = stats(admin)
    result = Result()
    judge(result, account, counted, SHORT_ITEMS if short else ITEMS)
    aborts, delays = (seen.get(f"http.rewards.fault.{kind}_injected", 0) for kind in ("aborts", "delays"))
    result.add(
        "Envoy's faults really happened", f"{aborts:,} calls aborted, {delays:,} delayed by {DELAY_S} of "
        f"{seen.get('http.rewards.downstream_rq_total', 0):,}", f"{ABORTED} % and {DELAYED} %", aborts > 0 < delays,
    )  # fmt: skip
    result.add(
        f"a replica hung for {_HUNG_S:g} s behind Envoy delays calls by Envoy's keepalive only",
        f"p50 {percentile(account.took_s, 0.5) * 1e3:.0f} ms, p99 {percentile(account.took_s, 0.99) * 1e3:.0f} ms, "
        f"longest {max(account.took_s):.1f} s of a call of 64 items",
        "longest ≤ 9 s (keepalive 5 + 2 s, and the retry)", max(account.took_s) <= 9,
    )  # fmt: skip
    result.notes.append(
        f"{account.seconds:.0f} s at {account.sent / account.seconds:,.0f} items/s; replicas: {', '.join(names)}. "
        "Retries are the SDK's; Envoy has no retry policy. The cores are the limit."
    )
    return result

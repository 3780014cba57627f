"""What `sync-r1 top` shows: rates and quantiles between two scrapes of each service's `/metrics`.

Counters and histograms only ever grow, so everything here is a difference of two scrapes over the time between them.
"""

from __future__ import annotations

import math
import time
import urllib.request
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from sync_r1.services.config import is_loopback

_TIMEOUT_S = 2.0
_MAX_BYTES = 16 * 1024 * 1024
Key = tuple[str, tuple[tuple[str, str], ...]]


@dataclass(frozen=True)
class Scrape:
    """All samples of one service at one moment (`time.monotonic()` seconds)."""

    at_s: float
    samples: dict[Key, float]


@dataclass(frozen=True)
class Row:
    """One service between two scrapes. Rates are per second; NaN where nothing happened in between."""

    reward: str
    ready: bool
    inflight_items: float
    inflight_limit: float
    items_per_s: float
    requests_per_s: float
    refused_per_s: float
    failed_share: float
    p50_s: float
    p99_s: float
    inference_share: float
    """Of the requests' time, the part spent on Triton."""
    median_score: float
    """Of all variants, on their raw scales; a histogram with negative buckets has no sum, hence no mean."""


def scrape(address: str) -> Scrape:
    """Read `http://ADDRESS/metrics`; ADDRESS is HOST:PORT. Raises OSError when nobody answers there."""
    # A proxy of the environment cannot reach this machine's own loopback, and would be told who is asked for.
    proxies: dict[str, str] | None = {} if is_loopback(address.rpartition(":")[0]) else None
    opener = urllib.request.build_opener(urllib.request.ProxyHandler(proxies))
    with opener.open(f"http://{address}/metrics", timeout=_TIMEOUT_S) as response:
        text = response.read(_MAX_BYTES).decode()
    samples = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    return Scrape(time.monotonic(), samples)


def row(before: Scrape, after: Scrape) -> Row:
    """What happened between two scrapes of one service."""
    seconds = max(after.at_s - before.at_s, 1e-9)

    def now(name: str) -> float:
        return sum(value for (found, _), value in after.samples.items() if found == name)

    def grown(name: str, **labels: str) -> float:
        wanted = set(labels.items())
        return sum(
            value - before.samples.get(key, 0.0)
            for key, value in after.samples.items()
            if key[0] == name and wanted <= set(key[1])
        )

    items = grown("sync_r1_items_total")
    busy_s = grown("sync_r1_request_seconds_sum")
    reward = next((dict(labels)["reward"] for name, labels in after.samples if name == "sync_r1_inflight_limit"), "?")
    return Row(
        reward=reward,
        ready=now("sync_r1_ready") > 0,
        inflight_items=now("sync_r1_inflight_items"),
        inflight_limit=now("sync_r1_inflight_limit"),
        items_per_s=items / seconds,
        requests_per_s=grown("sync_r1_requests_total") / seconds,
        refused_per_s=grown("sync_r1_refused_total") / seconds,
        failed_share=grown("sync_r1_items_total", outcome="failure") / items if items else math.nan,
        p50_s=_quantile(before, after, "sync_r1_request_seconds", 0.5),
        p99_s=_quantile(before, after, "sync_r1_request_seconds", 0.99),
        inference_share=grown("sync_r1_inference_seconds_sum") / busy_s if busy_s else math.nan,
        median_score=_quantile(before, after, "sync_r1_score", 0.5, component="value"),
    )


def _quantile(before: Scrape, after: Scrape, histogram: str, share: float, **labels: str) -> float:
    """As Prometheus' histogram_quantile: linear inside the bucket that holds the quantile; NaN without observations."""
    buckets: dict[float, float] = {}
    wanted = set(labels.items())
    for key, value in after.samples.items():
        if key[0] == f"{histogram}_bucket" and wanted <= set(key[1]):
            bound = float(dict(key[1])["le"])
            buckets[bound] = buckets.get(bound, 0.0) + value - before.samples.get(key, 0.0)
    bounds = sorted(buckets)
    total = buckets[bounds[-1]] if bounds else 0.0
    if total <= 0:
        return math.nan
    lower, below = min(0.0, bounds[0]), 0.0
    for bound in bounds:
        if buckets[bound] >= share * total:
            if math.isinf(bound):
                return lower
            return lower + (bound - lower) * (share * total - below) / max(buckets[bound] - below, 1e-12)
        lower, below = bound, buckets[bound]
    return lower

"""What Prometheus is told about one reward service: the only place where a metric has its name, labels and buckets.

You are between the front and whoever watches it. `Observer` (`observer.py`) reports every call here; gauges, cache and
team counters are read from their owners at the moment of a scrape. `docs/observability.md` lists the same names, and a
test holds the page and this module against each other. Units are Prometheus' base units (seconds, items, bytes).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sync_r1.protos.rewards.v1 import rewards_pb2
from sync_r1.services.access.quotas import Team
from sync_r1.services.routing import Route

_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
_ITEMS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
# Raw scales differ: cosines (-1 … 1), shares (0 … 1), LAION's 1 … 10, logits and percentages beyond.
_SCORES = (-2, -1, -0.5, -0.2, 0, *(step / 20 for step in range(1, 21)), 1.5, 2, 3, 4, 5, 6, 7, 8, 10, 20, 50, 100)
_DIFFERENCES = (-0.5, -0.2, -0.1, -0.05, -0.02, -0.01, 0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
_NUMBERED = re.compile(r"[_\[]?\d+\]?$")


class ServiceMetrics:
    """The metrics of one reward, in a registry of their own."""

    def __init__(self, reward: str) -> None:
        self.registry = CollectorRegistry()
        self._reward = reward

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"sync_r1_{name}", text, ("reward", *labels), registry=self.registry)

        def histogram(name: str, text: str, buckets: Iterable[float], *labels: str) -> Histogram:
            return Histogram(
                f"sync_r1_{name}", text, ("reward", *labels), registry=self.registry, buckets=tuple(buckets)
            )

        self._requests = counter("requests", "Score calls by gRPC status.", "code", "team")
        self._items = counter("items", "Items by outcome.", "variant", "outcome")
        self._failures = counter("failures", "Failed items by failure code.", "code")
        self._refused = counter("refused", "Calls refused before any work, by reason.", "reason")
        self._admission = histogram("admission_seconds", "From the call's start to its admission.", _SECONDS)
        self._prepare = histogram("prepare_seconds", "Decoding, resizing, tokenising.", _SECONDS)
        self._inference = histogram("inference_seconds", "Round trips to Triton, longest chain.", _SECONDS)
        self._request = histogram("request_seconds", "Whole call, refused ones included.", _SECONDS)
        self._request_items = histogram("request_items", "Items in an answered call.", _ITEMS)
        self._shadow_items = counter("shadow_items", "Items given to a shadow.", "variant", "release", "result")
        self._shadow_difference = histogram(
            "shadow_difference", "Shadow minus answer, both mapped to [0, 1].", _DIFFERENCES, "variant", "release"
        )
        loop_lag = histogram("event_loop_lag_seconds", "How late the event loop comes to what is due.", _SECONDS)
        self.loop_lag = loop_lag.labels(reward)
        self._score = histogram("score", "Scores and their components, raw scale.", _SCORES, "variant", "component")

    def answered(self, response: Any, *, team: str, seconds: float) -> None:
        """A `ScoreResponse` that goes out with status OK."""
        reward, variant = self._reward, response.variant
        self._requests.labels(reward, "OK", team).inc()
        self._request.labels(reward).observe(seconds)
        self._request_items.labels(reward).observe(len(response.outcomes))
        for histogram, nanoseconds in (
            (self._admission, response.timings.admission_ns),
            (self._prepare, response.timings.prepare_ns),
            (self._inference, response.timings.triton_ns),
        ):
            histogram.labels(reward).observe(nanoseconds / 1e9)
        # Children are looked up once per call, not once per item: that lookup is most of a metric's cost.
        values = self._score.labels(reward, variant, "value")
        components: dict[str, Any] = {}
        counts: dict[str, int] = {}
        for outcome in response.outcomes:
            kind = outcome.WhichOneof("result")
            counts[kind] = counts.get(kind, 0) + 1
            if kind == "score":
                values.observe(outcome.score.value)
                for component in outcome.score.components:
                    if component.name not in components:
                        # clause_1 … clause_n are one distribution: label values must not grow with what callers send.
                        label = _NUMBERED.sub("", component.name) or component.name
                        components[component.name] = self._score.labels(reward, variant, label)
                    components[component.name].observe(component.value)
            elif kind == "failure":
                code = rewards_pb2.FailureCode.Name(outcome.failure.code).removeprefix("FAILURE_CODE_")
                self._failures.labels(reward, code).inc()
        for kind, count in counts.items():
            self._items.labels(reward, variant, kind).inc(count)

    def aborted(self, code: str, *, team: str, seconds: float, refused: str = "") -> None:
        """A call that ended with another status; `refused` names why it was not even tried."""
        self._requests.labels(self._reward, code, team).inc()
        self._request.labels(self._reward).observe(seconds)
        if refused:
            self._refused.labels(self._reward, refused).inc()

    def shadowed(self, route: Route, result: str, items: int, differences: Iterable[float] = ()) -> None:
        """`items` that went through a shadow; `differences`: shadow minus answer, both on [0, 1]."""
        labels = (self._reward, route.variant, route.release.digest)
        self._shadow_items.labels(*labels, result).inc(items)
        histogram = self._shadow_difference.labels(*labels)
        for difference in differences:
            histogram.observe(difference)

    def watch(
        self,
        *,
        inflight_items: Callable[[], int],
        inflight_peak_items: Callable[[], int],
        inflight_limit: int,
        ready: Callable[[], bool],
        releases: Callable[[], Mapping[str, str]],
        cache_lookups: Callable[[], Mapping[str, int]],
        teams: Callable[[], Mapping[str, Team]],
    ) -> None:
        """Read these whenever Prometheus asks. `releases`: variant -> digest of the default; `cache_lookups`: hit and
        miss counts; `teams`: by name, "" is everybody where nobody is asked who they are.
        """

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"sync_r1_{name}", text, ("reward", *labels), registry=self.registry)

        gauge("inflight_items", "Items admitted and not yet answered.").labels(self._reward).set_function(
            inflight_items
        )
        gauge("inflight_peak_items", "Most items in work at any moment of the last minute.").labels(
            self._reward
        ).set_function(inflight_peak_items)
        gauge("inflight_limit", "Items that may be admitted at once.").labels(self._reward).set(inflight_limit)
        gauge("ready", "1 while the service says SERVING.").labels(self._reward).set_function(lambda: float(ready()))
        self.registry.register(_Owned(self._reward, releases, cache_lookups, teams))

    def listen(self, host: str, port: int) -> tuple[int, Callable[[], None]]:
        """Serve `/metrics` over HTTP from a thread; returns the port and how to end it. Raises OSError."""
        server, thread = start_http_server(port, host, self.registry)

        def close() -> None:
            server.shutdown()
            server.server_close()
            thread.join(5.0)

        return int(server.server_address[1]), close


class _Owned(Collector):
    """What others keep: the routes' default releases, the counters of the reference cache, and what teams have used."""

    def __init__(
        self,
        reward: str,
        releases: Callable[[], Mapping[str, str]],
        lookups: Callable[[], Mapping[str, int]],
        teams: Callable[[], Mapping[str, Team]],
    ) -> None:
        self._reward, self._releases, self._lookups, self._teams = reward, releases, lookups, teams

    def collect(self) -> Iterable[Metric]:
        info = GaugeMetricFamily(
            "sync_r1_release_info",
            "Always 1; the labels name the default release.",
            labels=("reward", "variant", "release"),
        )
        for variant, digest in self._releases().items():
            info.add_metric((self._reward, variant, digest), 1)
        cache = CounterMetricFamily(
            "sync_r1_reference_cache", "Lookups of reference pictures by digest.", labels=("reward", "result")
        )
        for result, count in self._lookups().items():
            cache.add_metric((self._reward, result), count)
        yield from (info, cache, *self._used())

    def _used(self) -> Iterable[Metric]:
        by_team = ("reward", "team")
        items = CounterMetricFamily("sync_r1_team_items", "Items admitted of a team.", labels=by_team)
        sizes = CounterMetricFamily("sync_r1_team_bytes", "Bytes of a team's admitted requests.", labels=by_team)
        over = CounterMetricFamily("sync_r1_team_over_quota", "Calls over a team's own quotas.", labels=by_team)
        inflight = GaugeMetricFamily("sync_r1_team_inflight_items", "Items of a team in work.", labels=by_team)
        for name, team in list(self._teams().items()):  # a copy: the event loop may add a team meanwhile
            for family, value in (
                (items, team.usage.items),
                (sizes, team.usage.bytes),
                (over, team.usage.over_quota),
                (inflight, team.inflight_items),
            ):
                family.add_metric((self._reward, name), value)
        return items, sizes, over, inflight

"""`RewardClient`: scores batches with one reward service.

    samples ─▶ pack ─▶ split into requests ─▶ one call each, retried ─▶ missing references resent ─▶ ScoredBatch

Every wait is bounded by the caller's `timeout_s`. Scoring is pure, so a retry is safe.
"""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

from sync_r1.protos.rewards.v1 import rewards_pb2
from sync_r1.reward_models.types import MissingReferences, Sample
from sync_r1.trainer_client.sdk import bounds, lifecycle, tracing, wire
from sync_r1.trainer_client.sdk.batching import Bounds, ItemGate, refused, split
from sync_r1.trainer_client.sdk.description import ServiceDescription, VariantDescription, from_wire
from sync_r1.trainer_client.sdk.endpoints import Endpoint
from sync_r1.trainer_client.sdk.errors import (
    ClientMisused,
    DeadlineExceeded,
    RewardClientError,
    ServiceBug,
    ServiceUnreachable,
)
from sync_r1.trainer_client.sdk.pool import EndpointPool
from sync_r1.trainer_client.sdk.releases import Part, one_release
from sync_r1.trainer_client.sdk.results import RequestTimings, ScoredBatch
from sync_r1.trainer_client.sdk.retry import Retrier
from sync_r1.trainer_client.sdk.sample_checks import call_arguments
from sync_r1.trainer_client.sdk.security import Credentials
from sync_r1.trainer_client.sdk.settings import DEFAULT_SETTINGS, ClientSettings
from sync_r1.trainer_client.sdk.stats import ClientStats
from sync_r1.trainer_client.sdk.wire import PackedSample


@dataclass(frozen=True)
class _Call:
    """What every request of one call of `score` shares."""

    samples: Sequence[PackedSample]
    description: ServiceDescription
    variant: VariantDescription
    release: str
    movable: bool
    """Whether the release is the SDK's own choice and not its caller's."""
    bounds: Bounds
    deadline_s: float
    request_id: str


class RewardClient:
    """Async client of one reward service, replicated or not.

    `endpoints` is "host:port", "dns:///name:port" for every address of a name, or a list of them; nothing is opened
    until the first call. The client belongs to the event loop it is first used on, until it is closed or that loop is,
    and to the process: ClientMisused says so elsewhere. `SyncRewardClient` is for code that has no loop.
    """

    def __init__(self, endpoints: str | Sequence[str], settings: ClientSettings = DEFAULT_SETTINGS) -> None:
        self.endpoints = bounds.addresses(endpoints)
        self.settings = settings
        self._credentials = Credentials(settings.token)
        self._stats = ClientStats()
        self._gate = ItemGate(settings.limits.max_inflight_items)
        self._calls = lifecycle.Calls()
        self._opened: tuple[EndpointPool, Retrier] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._described: ServiceDescription | None = None

    async def __aenter__(self) -> RewardClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the channels; calls under way end with ClientMisused, a later call opens them again.

        Raises ClientMisused on another event loop than the client's, while that one is open.
        """
        if self._opened is None or self._left_behind():
            return
        if self._loop is not asyncio.get_running_loop():
            raise ClientMisused("this RewardClient is open on another event loop; close() it there")
        (pool, _), self._opened = self._opened, None
        await self._calls.end("this RewardClient was closed while the call was under way")
        await pool.close()

    def stats(self) -> dict[str, Any]:
        """What this client has done so far: the counters of `ClientStats` and the state of each replica, for a log."""
        replicas = self._opened[0].endpoints if self._opened else []
        states = {
            endpoint.target: {
                "breaker": endpoint.breaker.state,
                "healthy": endpoint.healthy,
                "in_flight": endpoint.in_flight,
            }
            for endpoint in replicas
        }
        return self._stats.snapshot() | {"replicas": states}

    async def describe(self, *, refresh: bool = False, timeout_s: float | None = None) -> ServiceDescription:
        """What the service measures, needs and allows; asked once, then remembered. Raises RewardClientError."""
        return await self._calls.run(self._describe(self._deadline_s(timeout_s), refresh))

    async def wait_ready(self, timeout_s: float) -> None:
        """Return once one replica says it serves. Raises ServiceUnreachable with the last reason after `timeout_s`."""
        await self._calls.run(self._wait_ready(bounds.seconds("timeout_s", timeout_s)))

    async def _wait_ready(self, timeout_s: float) -> None:
        deadline_s, (pool, _), attempt = self._deadline_s(timeout_s), self._pool(), 0
        while True:
            reason = "it answers, but says that it is not serving"
            try:
                await pool.open()
                for endpoint in pool.endpoints:
                    if await endpoint.serving(min(deadline_s, time.monotonic() + self.settings.timeout.connect_s)):
                        return
            except (ServiceUnreachable, DeadlineExceeded) as error:
                reason = str(error)
            attempt += 1
            wait_s = min(self.settings.backoff.wait_s(attempt, random.random()), 1.0)
            if time.monotonic() + wait_s >= deadline_s:
                raise ServiceUnreachable(f"{', '.join(self.endpoints)} not ready within {timeout_s:g} s: {reason}")
            await asyncio.sleep(wait_s)

    async def score(
        self, samples: Sequence[Sample], *, variant: str = "", release: str = "", timeout_s: float | None = None
    ) -> ScoredBatch:
        """Score a batch of any size; one outcome for each sample, in order.

        `variant` and `release` (a digest) default to the service's own choice; all outcomes come from one release.
        Raises ServiceUnreachable, Overloaded, DeadlineExceeded, RequestRejected or ServiceBug when the batch as a whole
        could not be scored; a single bad item is its own `Failure`. BadArgument (a RequestRejected) says so before
        anything is sent, ClientMisused where the client cannot be used or was closed meanwhile.
        """
        samples = call_arguments(samples, variant, release)
        deadline_s = self._deadline_s(timeout_s)
        self._stats.calls += 1
        self._stats.items += len(samples)
        with tracing.span("sync_r1.reward", items=len(samples)) as span:
            batch = await self._calls.run(self._score(samples, variant, release, deadline_s))
            span.set(reward=batch.reward, variant=batch.variant, release=batch.release)
        return batch

    async def _score(self, samples: Sequence[Sample], variant: str, release: str, deadline_s: float) -> ScoredBatch:
        started_s = time.monotonic()
        description = await self._describe(deadline_s)
        chosen = description.variant(variant)
        limits = description.limits
        within = Bounds(
            max_items=min(limits.max_items, limits.max_inflight_items),
            max_bytes=min(limits.max_request_bytes, self.settings.limits.max_message_bytes),
            keep_groups=chosen.groupwise,
            wanted_items=self.settings.limits.max_items_per_request,
            max_text_bytes=limits.max_request_text_bytes or limits.max_request_bytes,
        )
        replicas = max(1, len(self._pool()[0].endpoints))
        self._gate.capacity = min(self.settings.limits.max_inflight_items, limits.max_inflight_items * replicas)
        packed = wire.pack(samples, chosen)
        call = _Call(packed, description, chosen, release, not release, within, deadline_s, uuid.uuid4().hex)
        outcomes = refused(packed, within)
        to_send = [position for position in range(len(packed)) if position not in outcomes]
        parts = await self._score_parts(call, to_send, inline=False) if to_send else []
        parts = await one_release(
            parts, lambda positions, pin: self._score_parts(replace(call, release=pin), positions, inline=False)
        )
        for part in parts:
            outcomes |= part.outcomes
        used = parts[0].release if parts else release or description.default_releases.get(chosen.name, "")
        if parts and used not in description.releases:  # its card, and map to [0, 1], may be others
            chosen = (await self._describe_as(parts[0], deadline_s)).variants.get(chosen.name, chosen)
        return ScoredBatch(
            outcomes=tuple(outcomes[position] for position in range(len(packed))),
            reward=description.reward,
            variant=chosen.name,
            release=used,
            described=chosen,
            timings=tuple(timing for part in parts for timing in part.timings),
            elapsed_s=time.monotonic() - started_s,
        )

    async def _describe_as(self, part: Part, deadline_s: float) -> ServiceDescription:
        """What the replica that scored `part` says of itself, or what is known where it does not answer."""
        before, self._described = self._described, None
        scored_by = {timing.endpoint for timing in part.timings}
        for endpoint in self._pool()[0].endpoints:
            if endpoint.target in scored_by:
                try:
                    self._described = from_wire(await endpoint.describe(deadline_s))
                    return self._described
                except RewardClientError:
                    break
        return before or await self._describe(deadline_s)

    async def _score_parts(self, call: _Call, positions: Sequence[int], *, inline: bool) -> list[Part]:
        """Split and send; `inline` = with every reference as a picture."""
        batches = split([call.samples[position] for position in positions], call.bounds, inline=inline)
        gate = asyncio.Semaphore(self.settings.limits.max_parallel_requests)

        async def one(batch: list[int]) -> list[Part]:
            async with gate:
                return await self._score_part(call, [positions[index] for index in batch], inline=inline)

        tasks = [asyncio.ensure_future(one(batch)) for batch in batches]
        try:
            return [part for parts in await asyncio.gather(*tasks) for part in parts]
        finally:
            while tasks:  # none is kept: a failed one holds its error, whose frames, this one too, hold the samples
                tasks.pop().cancel()

    async def _score_part(self, call: _Call, positions: list[int], *, inline: bool) -> list[Part]:
        """One request, and those that resend the items whose references the replica lacked."""
        samples = [call.samples[position] for position in positions]
        digests = {reference.sha256 for sample in samples for reference in sample.references}
        concepts = {wire.concept_of(sample) for sample in samples if sample.references}
        metadata = [("sync-r1-variant", call.variant.name), ("sync-r1-release", call.release)]
        self._stats.requests += 1

        async def attempt(endpoint: Endpoint) -> tuple[Endpoint, rewards_pb2.ScoreResponse, int]:
            message = wire.request(
                samples, variant=call.variant.name, release=call.release, request_id=call.request_id,
                known=endpoint.known_references, inline=inline,
            )  # fmt: skip
            self._stats.bytes_sent += message.ByteSize()
            sent_ns = time.perf_counter_ns()
            response = await endpoint.score(message, call.deadline_s, metadata)
            return endpoint, response, time.perf_counter_ns() - sent_ns

        queued_ns = time.perf_counter_ns()
        async with self._gate.hold(len(samples), call.deadline_s):
            waited_ns = time.perf_counter_ns() - queued_ns
            (endpoint, response, round_trip_ns), tries = await self._pool()[1].ask(
                attempt, call.deadline_s, concepts=concepts, hedge=True, release=call.release, movable=call.movable
            )
        results = wire.outcomes(samples, response, endpoint.target)
        endpoint.remember(digests)
        timings = RequestTimings(
            endpoint.target, len(samples), response.release, waited_ns, round_trip_ns, response.timings.admission_ns,
            response.timings.prepare_ns, response.timings.triton_ns, response.timings.total_ns, tries,
        )  # fmt: skip
        done, missing = {}, []
        for position, result in zip(positions, results):
            if isinstance(result, MissingReferences):
                endpoint.forget(result.sha256)
                missing.append(position)
            else:
                done[position] = result
        if missing and inline:
            raise ServiceBug(
                f"{endpoint.target} reports missing references, but every reference was sent with its item"
            )
        if call.variant.groupwise:  # a group is scored in one request, so all of it goes again
            groups = {call.samples[position].group for position in missing} - {""}
            missing = [p for p in positions if p in missing or call.samples[p].group in groups]
            done = {position: result for position, result in done.items() if position not in missing}
        self._stats.resent_items += len(missing)
        parts = [Part(done, response.variant, response.release, (timings,))]
        return parts + (await self._score_parts(call, missing, inline=True) if missing else [])

    async def _describe(self, deadline_s: float, refresh: bool = False) -> ServiceDescription:
        retrier = self._pool()[1]
        if self._described is None or refresh:
            message, _ = await retrier.ask(lambda endpoint: endpoint.describe(deadline_s), deadline_s)
            self._described = from_wire(message)
        return self._described

    def _deadline_s(self, timeout_s: float | None) -> float:
        bound_s = self.settings.timeout.total_s if timeout_s is None else bounds.seconds("timeout_s", timeout_s)
        return time.monotonic() + bound_s

    def _left_behind(self) -> bool:
        """Whether what is open is out of reach: of the process that this one was forked from, or of a closed loop."""
        return lifecycle.inherited() or (self._loop is not None and self._loop.is_closed())

    def _pool(self) -> tuple[EndpointPool, Retrier]:
        lifecycle.check_process()
        loop = asyncio.get_running_loop()
        if self._opened is not None and self._left_behind():
            lifecycle.closed(self._opened[0])
            self._opened = None
        if self._opened is None:
            pool = EndpointPool(self.endpoints, self.settings, self._credentials)
            self._opened, self._loop = (pool, Retrier(pool, self.settings, self._credentials, self._stats)), loop
            self._gate = ItemGate(self.settings.limits.max_inflight_items)  # its waiters belong to a loop
        if self._loop is not loop:
            raise ClientMisused(lifecycle.ELSEWHERE)
        return self._opened

"""The typed front of one reward: *translate → admit → call → translate*.

Every request resolves once to one variant and one release; all its graphs run in the versions of that release.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import logging
import time
import uuid
from collections.abc import Sequence
from functools import partial
from typing import Any

import grpc

from sync_r1.protos.rewards.v1 import rewards_pb2
from sync_r1.reward_models.cards import Part
from sync_r1.reward_models.rewards.base import Reward
from sync_r1.reward_models.runner import GraphRunner, RunContext, RunResult, Tensors
from sync_r1.reward_models.threads import in_thread
from sync_r1.reward_models.types import GraphDeadline, MissingReferences, Outcome, Sample
from sync_r1.services.access import status
from sync_r1.services.access.admission import Admission, ByteBudget
from sync_r1.services.access.interceptor import caller
from sync_r1.services.access.quotas import Team
from sync_r1.services.access.status import InvalidRequest
from sync_r1.services.config import Limits, ServiceConfig
from sync_r1.services.front import codec, responses
from sync_r1.services.front.reference_cache import ReferenceCache
from sync_r1.services.front.shadow import ShadowRunner
from sync_r1.services.health import SERVICE
from sync_r1.services.routing import Route, Routes
from sync_r1.services.telemetry.metrics import ServiceMetrics
from sync_r1.services.telemetry.tracing import tracer

logger = logging.getLogger(__name__)

_PARTS: dict[Part, Any] = {"picture": rewards_pb2.PART_PICTURE, "answer": rewards_pb2.PART_ANSWER}
_LOGGED_CHARACTERS = 10_000
"""Of a request's metadata, at most: callers decide what is in them."""


class RewardServicer:
    """Implements `RewardService` for one reward over one runner."""

    def __init__(
        self, routes: Routes, runner: GraphRunner, config: ServiceConfig, metrics: ServiceMetrics, budget: ByteBudget
    ) -> None:
        """`budget`: of the bytes of requests, of which shadows hold some."""
        self._routes = routes
        self._runner = runner
        self._limits = config.limits
        self._log_metadata = config.log_metadata
        self._admission = Admission(config.limits.max_inflight_items)
        self._references = ReferenceCache(config.reference_cache_bytes, config.reference_ttl_s)
        self._codec = codec.Codec(config.limits, self._references, config.decode_threads)
        self._decoded = ByteBudget(config.max_decoded_bytes, "decoded pictures", "max_decoded_bytes")
        self._shadows = ShadowRunner(metrics, config.limits.max_items, budget)

    @property
    def inflight_items(self) -> int:
        """Items admitted and not yet answered."""
        return self._admission.inflight_items

    @property
    def inflight_peak_items(self) -> int:
        """Most of them at any moment of the last minute."""
        return self._admission.peak_items

    @property
    def reference_lookups(self) -> dict[str, int]:
        """How often references were found ("hit") and not found ("miss") by their digest."""
        return self._references.lookups

    def handlers(self) -> grpc.GenericRpcHandler:
        """For `server.add_generic_rpc_handlers`. Score takes bytes: an unreadable request is the caller's error, and
        the generated glue would call it INTERNAL."""
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Score": grpc.unary_unary_rpc_method_handler(
                    self.score, response_serializer=rewards_pb2.ScoreResponse.SerializeToString
                ),
                "Describe": grpc.unary_unary_rpc_method_handler(
                    self.describe,
                    request_deserializer=rewards_pb2.DescribeRequest.FromString,
                    response_serializer=rewards_pb2.DescribeResponse.SerializeToString,
                ),
            },
        )

    async def close(self) -> None:
        """Give up shadows and end the decoding threads."""
        await self._shadows.close()
        self._codec.close()

    async def describe(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        """`RewardService.Describe`: costs no inference, answers while draining too."""
        return describe(self._routes, caller.get().within(self._limits))

    async def score(self, body: bytes, context: grpc.aio.ServicerContext) -> Any:
        """`RewardService.Score`. Statuses are those of `access/status.py`."""
        started_ns = time.perf_counter_ns()
        request_id = ""
        try:
            deadline_s = self._deadline_s(context)
            request = await in_thread(deadline_s, lambda: codec.parse(body, self._limits))
            request_id = request.request_id or uuid.uuid4().hex
            if self._log_metadata:
                await in_thread(deadline_s, lambda: _log_metadata(request.samples, request_id))
            route = self._routes.resolve(request.variant, request.release)
            run = RunContext(route.release, deadline_s, request_id, self._limits.max_request_tokens)
            team = caller.get()
            with self._admission.admit(len(request.samples)), team.admit(len(request.samples), len(body)):
                admitted_ns = time.perf_counter_ns()
                runner = _TimedRunner(self._runner)
                outcomes = await _within(run, self._call(request.samples, route.reward, runner, run, team))
                # The caller sends these again with their references: one item is charged once.
                team.refund(sum(isinstance(outcome, MissingReferences) for outcome in outcomes))
                write = partial(
                    responses.response, request, outcomes, reward=self._routes.reward, variant=route.variant,
                    release=route.release.digest,
                )  # fmt: skip
                response = await in_thread(deadline_s, write)
        except Exception as error:
            await status.abort(context, error, request_id=request_id, pushback_ms=self._admission.pushback_ms)
        if (shadow := self._routes.shadow) is not None:
            scoring = partial(self._shadow_call, request.samples, request_id, team)
            self._shadows.start(shadow, route, outcomes, scoring, request_id, len(body))
        response.request_id = request_id
        ended_ns = time.perf_counter_ns()
        response.timings.admission_ns = admitted_ns - started_ns
        response.timings.triton_ns = runner.busy_ns
        response.timings.prepare_ns = ended_ns - admitted_ns - runner.busy_ns
        response.timings.total_ns = ended_ns - started_ns
        return response

    async def _call(
        self, messages: Sequence[Any], reward: Reward, runner: GraphRunner, run: RunContext, team: Team
    ) -> list[Outcome | MissingReferences]:
        """Outcomes in order: what could not be decoded keeps its own, the rest is scored as one batch."""
        needs: dict[str, Any] = {
            "required_fields": reward.card.required_fields,
            "preparations": getattr(reward, "preparations", ()),  # a reward that does not say gets whole pictures
        }
        needed = partial(self._codec.needed_bytes, messages, **needs)
        size = 2 * await in_thread(run.deadline_s, needed)  # by picture, and as one batch
        if size > self._decoded.max_bytes:
            raise InvalidRequest(
                f"the pictures of this call take {size} bytes once they are decoded and prepared, and this service "
                f"works on {self._decoded.max_bytes} at most (max_decoded_bytes); send fewer of them in one call"
            )
        with self._decoded.hold(size):
            return await self._score_batch(messages, reward, runner, run, team, needs)

    async def _score_batch(
        self, messages: Sequence[Any], reward: Reward, runner: GraphRunner, run: RunContext, team: Team, needs: Any
    ) -> list[Outcome | MissingReferences]:
        with tracer.start_as_current_span("prepare"):
            decoded = await self._codec.samples(messages, team=team.name, deadline_s=run.deadline_s, **needs)
        if reward.card.groupwise:
            decoded = codec.whole_groups(decoded, messages)
        good = [sample for sample in decoded if isinstance(sample, Sample)]
        scored = await reward.score(good, runner, run) if good else []
        if len(scored) != len(good):
            raise RuntimeError(f"{reward.card.variant} gave {len(scored)} outcomes for {len(good)} samples")
        outcomes = iter(scored)
        return [next(outcomes) if isinstance(sample, Sample) else sample for sample in decoded]

    async def _shadow_call(
        self, messages: Sequence[Any], request_id: str, team: Team, route: Route
    ) -> list[Outcome | MissingReferences]:
        deadline_s = time.monotonic() + self._limits.max_deadline_ms / 1000
        run = RunContext(route.release, deadline_s, f"{request_id}-shadow", self._limits.max_request_tokens)
        return await _within(run, self._call(messages, route.reward, self._runner, run, team))

    def _deadline_s(self, context: grpc.aio.ServicerContext) -> float:
        """The caller's deadline on the monotonic clock, capped; the cap itself when there is none."""
        longest_s = self._limits.max_deadline_ms / 1000
        remaining_s = context.time_remaining()
        return time.monotonic() + (longest_s if remaining_s is None else min(remaining_s, longest_s))


class _TimedRunner:
    """Passes calls on, and sums up the time during which at least one of them was under way (`busy_ns`)."""

    def __init__(self, runner: GraphRunner) -> None:
        self._runner = runner
        self._running = 0
        self._since_ns = 0
        self.busy_ns = 0

    async def run(self, context: RunContext, graph: str, inputs: Tensors) -> RunResult:
        if self._running == 0:
            self._since_ns = time.perf_counter_ns()
        self._running += 1
        try:
            return await self._runner.run(context, graph, inputs)
        finally:
            self._running -= 1
            if self._running == 0:
                self.busy_ns += time.perf_counter_ns() - self._since_ns


def _log_metadata(messages: Sequence[Any], request_id: str) -> None:
    """One line with what the callers noted, by sample; what is longer than `_LOGGED_CHARACTERS` is cut."""
    if noted := {message.id: dict(message.metadata) for message in messages if message.metadata}:
        text = json.dumps(noted)[:_LOGGED_CHARACTERS]
        logger.info("metadata of the samples of %s: %s", request_id, text, extra={"request_id": request_id})


async def _within(run: RunContext, work: Any) -> Any:
    try:
        return await asyncio.wait_for(work, max(0.0, run.deadline_s - time.monotonic()))
    except asyncio.TimeoutError:
        raise GraphDeadline("the deadline passed") from None


def describe(routes: Routes, limits: Limits) -> Any:
    """The `DescribeResponse` of a service to a team with these limits."""
    response = rewards_pb2.DescribeResponse(
        reward=routes.reward,
        default_variant=routes.default_variant,
        default_releases=routes.default_releases,
        limits=rewards_pb2.Limits(**limits.model_dump()),
        server_version=importlib.metadata.version("sync-r1"),
        judges=_PARTS[routes.judges],
    )
    for route in routes.routes:
        card, release = route.reward.card, route.release
        if routes.default_releases[route.variant] == release.digest:
            response.variants.add(
                name=route.variant,
                summary=card.summary,
                source=card.source,
                required_fields=card.required_fields,
                raw_min=card.raw_min,
                raw_max=card.raw_max,
                affine_scale=card.affine_scale,
                affine_shift=card.affine_shift,
                preferred_image_size=card.preferred_image_size,
                groupwise=card.groupwise,
                card=card.to_json(),
            )
        message = response.releases.add(
            digest=release.digest, variant=route.variant, formula_version=release.formula_version
        )
        for pin in release.graphs:
            message.graphs.add(name=pin.name, version=pin.version, sha256=pin.sha256)
    return response

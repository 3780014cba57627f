"""A reward service on a real gRPC port whose behaviour a test writes down: faults that a real one shows too rarely.

Scores are the mean of the pixels, so a test can tell which item a score belongs to. Steps given to `script` are used up
one per Score call, before the normal behaviour.
"""

from __future__ import annotations

import asyncio
import hashlib
import signal
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import grpc
import grpc.aio
import numpy as np

from sync_r1.protos.rewards.v1 import rewards_pb2 as pb
from sync_r1.protos.rewards.v1 import rewards_pb2_grpc

Context = grpc.aio.ServicerContext
Step = Callable[[pb.ScoreRequest, Context], Awaitable[pb.ScoreResponse | None]]
RELEASE = "a" * 64


@dataclass
class ScriptedService(rewards_pb2_grpc.RewardServiceServicer):
    """Counts what it is asked; `port` is set by `start`."""

    reward: str = "aesthetic"
    required_fields: tuple[str, ...] = ("image",)
    groupwise: bool = False
    affine: tuple[float, float] = (1 / 255, 0.0)
    limits: pb.Limits = field(
        default_factory=lambda: pb.Limits(
            max_items=8, max_references=4, max_request_bytes=64 << 20, max_image_bytes=16 << 20, max_pixels=16_000_000,
            max_text_bytes=4096, max_inflight_items=64, max_deadline_ms=60_000,
        )
    )  # fmt: skip
    script: list[Step] = field(default_factory=list)
    release: str = RELEASE
    requests: list[pb.ScoreRequest] = field(default_factory=list)
    metadata: list[dict[str, str]] = field(default_factory=list)
    describes: int = 0
    serving: bool = True
    known: set[str] = field(default_factory=set)
    delay_s: float = 0.0
    """How long every Score call takes."""
    tokens: set[str] = field(default_factory=set)
    """Bearer tokens that are let in; none = everybody is."""
    credentials: grpc.ServerCredentials | None = None
    host: str = "127.0.0.1"
    cancelled: int = 0
    """Score calls that their caller cancelled."""
    port: int = 0
    server: grpc.aio.Server | None = None

    @property
    def target(self) -> str:
        return f"{self.host}:{self.port}"

    async def start(self, port: int = 0) -> ScriptedService:
        self.server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", 256 << 20),
                ("grpc.max_send_message_length", 256 << 20),
                ("grpc.so_reuseport", 0),
                ("grpc.http2.min_ping_interval_without_data_ms", 500),  # tests ask for signs of life often
            ]
        )
        rewards_pb2_grpc.add_RewardServiceServicer_to_server(self, self.server)
        health = grpc.unary_unary_rpc_method_handler(self._check)
        self.server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": health})]
        )
        address = f"{self.host}:{port}"
        if self.credentials is None:
            self.port = self.server.add_insecure_port(address)
        else:
            self.port = self.server.add_secure_port(address, self.credentials)
        await self.server.start()
        return self

    async def stop(self, grace_s: float | None = None) -> None:
        assert self.server is not None
        await self.server.stop(grace_s)

    async def _let_in(self, context: Context) -> None:
        bearer = dict(context.invocation_metadata()).get("authorization", "")
        if self.tokens and bearer.removeprefix("Bearer ") not in self.tokens:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "no valid token")

    async def _check(self, request: bytes, context: Context) -> bytes:
        return b"\x08\x01" if self.serving else b"\x08\x02"

    async def Describe(self, request: pb.DescribeRequest, context: Context) -> pb.DescribeResponse:
        await self._let_in(context)
        self.describes += 1
        variant = pb.Variant(
            name="mean", summary="mean pixel", source="tests", required_fields=self.required_fields, raw_min=0,
            raw_max=255, affine_scale=self.affine[0], affine_shift=self.affine[1], groupwise=self.groupwise,
            preferred_image_size=64 if "image" in self.required_fields else 0, card='{"licence": "none"}',
        )  # fmt: skip
        return pb.DescribeResponse(
            reward=self.reward, variants=[variant], default_variant="mean", limits=self.limits,
            releases=[pb.Release(digest=self.release, variant="mean")], default_releases={"mean": self.release},
            server_version="0",
        )  # fmt: skip

    async def Score(self, request: pb.ScoreRequest, context: Context) -> pb.ScoreResponse:
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        await self._let_in(context)
        try:
            if self.script:
                response = await self.script.pop(0)(request, context)
                if response is not None:
                    return response
            await asyncio.sleep(self.delay_s)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return self.scored(request)

    def scored(self, request: pb.ScoreRequest) -> pb.ScoreResponse:
        """What a healthy service answers."""
        for sample in request.samples:
            for reference in sample.concept.references:
                if reference.WhichOneof("source") != "sha256":
                    self.known.add(_digest(reference))
        return pb.ScoreResponse(
            outcomes=[self._outcome(sample) for sample in request.samples], reward=self.reward, variant="mean",
            release=request.release or self.release, request_id=request.request_id,
            timings=pb.Timings(admission_ns=1, prepare_ns=2, triton_ns=3, total_ns=6),
        )  # fmt: skip

    def _outcome(self, sample: pb.Sample) -> pb.Outcome:
        lacking = [r.sha256 for r in sample.concept.references if r.sha256 and r.sha256 not in self.known]
        if lacking:
            return pb.Outcome(id=sample.id, missing_references=pb.MissingReferences(sha256=lacking))
        if sample.prompt == "fail":
            failure = pb.Failure(code=pb.FAILURE_CODE_BAD_IMAGE, message="image: not decodable", field="image")
            return pb.Outcome(id=sample.id, failure=failure)
        if sample.prompt == "not applicable":
            return pb.Outcome(id=sample.id, not_applicable=pb.NotApplicable(reason="a landscape"))
        if sample.prompt == "nan":
            return pb.Outcome(id=sample.id, score=pb.Score(value=float("nan")))
        data = sample.image.raw.pixels or sample.image.encoded or sample.answer.encode()
        value = float(np.frombuffer(data, np.uint8).mean()) if data else 0.0
        components = [pb.Component(name="bytes", value=len(data))]
        return pb.Outcome(id=sample.id, score=pb.Score(value=value, components=components))


def _digest(reference: pb.Image) -> str:
    raw = reference.raw
    shape = b"%dx%d:" % (raw.height, raw.width) if reference.WhichOneof("source") == "raw" else b""
    return hashlib.sha256(shape + (reference.encoded or raw.pixels)).hexdigest()


def aborting(code: grpc.StatusCode, details: str, **trailers: str) -> Step:
    """A step that ends the call with a status; trailer names are written with underscores."""

    async def step(request: pb.ScoreRequest, context: Context) -> None:
        await context.abort(code, details, tuple((key.replace("_", "-"), value) for key, value in trailers.items()))

    return step


def overloaded(pushback_ms: int = 20) -> Step:
    return aborting(grpc.StatusCode.RESOURCE_EXHAUSTED, "queue full", grpc_retry_pushback_ms=str(pushback_ms))


def sleeping(seconds: float) -> Step:
    async def step(request: pb.ScoreRequest, context: Context) -> None:
        await asyncio.sleep(seconds)

    return step


async def _serve(port: int, delay_s: float) -> None:
    """A replica in a process of its own, which a test can kill and stop; SIGTERM drains it."""
    service = await ScriptedService(delay_s=delay_s).start(port)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    print(service.port, flush=True)
    await ended.wait()
    service.serving = False
    await service.stop(grace_s=30)


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), float(sys.argv[2])))

"""Hostile but sound calls: how long does one caller's request hold up everybody else's?

Three kinds of requests within all published limits, or just over one of them, go to real fronts (`sync-r1 up`). How
late a front's event loop comes to what is due it says itself (`sync_r1_event_loop_lag_seconds`, looked at every 50 ms).
Meanwhile another connection asks health every few milliseconds: what that waits is the loop, and the way there and back
through six threads that share two cores with Triton and the callers. Without hostile calls it is measured first.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks.reliability.fleet import free_port
from benchmarks.reliability.record import Result
from sync_r1.protos.rewards.v1 import rewards_pb2
from sync_r1.services.config import ServiceConfig
from sync_r1.services.health import SERVICE
from sync_r1.services.local import up
from sync_r1.services.telemetry.scrape import scrape

CALLS, SHORT_CALLS, AT_ONCE = 24, 3, 4
TARGET_S, DEADLINE_S, QUIET_S = 0.05, 10.0, 3.0
_EVERY_S = 0.002
_BIG = [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]


def _picture() -> rewards_pb2.Image:
    pixels = np.zeros((64, 64, 3), np.uint8)
    return rewards_pb2.Image(raw=rewards_pb2.RawImage(pixels=pixels.tobytes(), height=64, width=64))


def hostile_requests() -> dict[str, tuple[str, str, bytes]]:
    """What is sent -> (reward, variant, serialised request)."""
    commas = [rewards_pb2.Sample(id=str(n), image=_picture(), prompt="a," * 4096) for n in range(64)]
    words = " ".join(f"word{n} thing{n * 7}" for n in range(9))
    long = [
        rewards_pb2.Sample(id=str(n), question=f"what is {words} {n}?" * 8, answer=f"{words} {n}",
                           reference_answers=[f"{words} {n + 1}"])
        for n in range(60)
    ]  # fmt: skip
    choices = [rewards_pb2.Sample(id="0", answer="a", reference_answers=["a"], choices=[""] * 1_600_000)]
    requests = {
        '64 prompts of "a," × 4096': ("text-faithfulness", "clauses", commas),
        "1.6 million choices": ("understanding-correctness", "semantic", choices),
        "60 kB of long questions": ("understanding-correctness", "semantic", long),
    }
    return {
        name: (reward, variant, rewards_pb2.ScoreRequest(samples=samples, variant=variant).SerializeToString())
        for name, (reward, variant, samples) in requests.items()
    }


class Heartbeat:
    """Asks a front's health all the time, from a thread; `longest_s` is the longest it waited."""

    def __init__(self, address: str) -> None:
        self.longest_s, self.asked = 0.0, 0
        self._address, self._over = address, threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _ask(self) -> None:
        with grpc.insecure_channel(self._address, options=_BIG) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            stub.Check(health_pb2.HealthCheckRequest(), timeout=60.0)  # connecting is no part of it
            while not self._over.wait(_EVERY_S):
                started_s = time.monotonic()
                stub.Check(health_pb2.HealthCheckRequest(), timeout=60.0)
                self.longest_s = max(self.longest_s, time.monotonic() - started_s)
                self.asked += 1


def _send(channel: grpc.Channel, body: bytes) -> str:
    try:
        channel.unary_unary(f"/{SERVICE}/Score")(body, timeout=DEADLINE_S, metadata=(("x-byte-size", str(len(body))),))
    except grpc.RpcError as error:
        return str(error.code().name)
    return "OK"


def _looks(metrics: str) -> dict[float, float]:
    """Bucket, seconds -> how many looks at the loop found it late by that much or less."""
    name = "sync_r1_event_loop_lag_seconds_bucket"
    found = scrape(metrics).samples
    return {float(dict(labels)["le"]): value for (key, labels), value in found.items() if key == name}


def _lag(before: dict[float, float], after: dict[float, float]) -> tuple[int, int, float]:
    """Looks, those later than the target, and the bucket of the latest one, seconds."""
    grown = {bucket: int(after[bucket] - before[bucket]) for bucket in sorted(after)}
    looks = grown[math.inf]
    return looks, looks - grown[TARGET_S], next(bucket for bucket, count in grown.items() if count == looks)


def run(short: bool) -> Result:
    """See the module."""
    result, service = Result(), ServiceConfig(metrics_port=free_port())
    with up.start("pocket", service=service, rewards=["text-faithfulness", "understanding-correctness"]) as running:
        for name, (reward, _, body) in hostile_requests().items():
            address, metrics = running.endpoints[reward], running.metrics[reward]
            with Heartbeat(address) as quiet:
                time.sleep(0.5 if short else QUIET_S)
            before = _looks(metrics)
            with (
                grpc.insecure_channel(address, options=_BIG) as channel,
                ThreadPoolExecutor(AT_ONCE) as pool,
                Heartbeat(address) as heart,
            ):
                said = Counter(pool.map(partial(_send, channel), [body] * (SHORT_CALLS if short else CALLS)))
            looks, late, latest_s = _lag(before, _looks(metrics))
            answers = ", ".join(f"{count} {code}" for code, count in said.items())
            result.add(
                f"the event loop is not held up by {name}",
                f"{late} of {looks} looks later than {TARGET_S * 1000:.0f} ms, the latest within "
                f"{latest_s * 1000:.0f} ms; health, the whole way: {heart.longest_s * 1000:.0f} ms at the longest of "
                f"{heart.asked} (quiet: {quiet.longest_s * 1000:.0f} ms); calls: {answers}",
                f"<= {TARGET_S * 1000:.0f} ms", latest_s <= TARGET_S,
            )  # fmt: skip
    result.notes.append(f"{AT_ONCE} hostile calls at once, {DEADLINE_S:g} s each; the callers share the front's cores.")
    return result

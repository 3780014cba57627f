"""Fuzzing: hundreds of thousands of malformed requests and pictures

Three ways: atheris on parse and decode (`fuzz_codec.py`, steered by coverage), whole requests mutated and sent through
real gRPC to a front on the real Triton, and real picture files mutated and sent as items of sound requests. A sound
call in between must always be scored right.
"""

from __future__ import annotations

import asyncio
import io
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import grpc
import numpy as np
from PIL import Image

from benchmarks.reliability import coded
from benchmarks.reliability.fleet import Fleet, fleet, total
from benchmarks.reliability.process_use import Cores, shown
from benchmarks.reliability.record import Result
from sync_r1.protos.rewards.v1 import rewards_pb2

ATHERIS, REQUESTS, PICTURES = 150_000, 40_000, 40_000
SHORT = 20  # times fewer
PER_REQUEST = 8
_PARALLEL, _HANG_S = 32, 10.0
_SCORE = "/sync_r1.rewards.v1.RewardService/Score"


def files() -> list[bytes]:
    """Small sound files of each kind that is accepted, and of several modes."""
    rng, found = np.random.default_rng(0), []
    for kind, modes, options in (
        ("PNG", ("RGB", "L", "P", "RGBA", "1", "I;16"), {}),
        ("JPEG", ("RGB", "L", "CMYK"), {}),
        ("JPEG", ("RGB",), {"progressive": True}),
        ("WEBP", ("RGB", "RGBA"), {}),
        ("WEBP", ("RGB",), {"lossless": True}),
    ):
        for mode in modes:
            noise = Image.fromarray(rng.integers(0, 256, (12, 10, 3), dtype=np.uint8))
            image = noise.convert("L").convert("I").convert(mode) if mode == "I;16" else noise.convert(mode)
            buffer = io.BytesIO()
            image.save(buffer, kind, **options)
            found.append(buffer.getvalue())
    return found


def sound_requests() -> list[bytes]:
    """Serialised requests with every kind of field."""
    made = []
    for number, file in enumerate(files()):
        request = coded.request(range(number, number + 2), 4)
        first = request.samples[0]
        first.image.encoded, first.prompt, first.group = file, "a photo of <bo>", "one"
        first.concept.name, first.concept.info = "<bo>", "brown"
        first.concept.references.add(encoded=file)
        first.concept.references.add(sha256="0" * 64)
        first.metadata["step"], request.request_id = "7", f"request {number}"
        made.append(request.SerializeToString())
    return made


def mutated(data: bytes, rng: np.random.Generator, other: bytes) -> bytes:
    """One to eight changes: a bit, a byte, a hole, a repetition, foreign bytes, an end too soon, another's tail.

    Half of them keep every length, so that the message stays readable and its fields get strange values instead.
    """
    made, kinds = bytearray(data), int(rng.choice((2, 7)))
    for _ in range(rng.integers(1, 9)):
        if not made:
            break
        at = int(rng.integers(len(made)))
        size = int(rng.integers(1, 9))
        match int(rng.integers(kinds)):
            case 0:
                made[at] ^= 1 << int(rng.integers(8))
            case 1:
                made[at] = (0, 255, 127, 128)[int(rng.integers(4))]
            case 2:
                del made[at : at + size]
            case 3:
                made[at:at] = made[at : at + size]
            case 4:
                made[at:at] = rng.bytes(size)
            case 5:
                del made[at:]
            case _:
                made[at:] = other[at:]
    return bytes(made)


@dataclass
class Seen:
    """What came back."""

    sent: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: int = 0
    bugs: list[str] = field(default_factory=list)
    longest_s: float = 0.0


async def send(running: Fleet, count: int, make: Callable[[np.random.Generator], bytes]) -> Seen:
    """Send `count` bodies, some at once, each hundredth followed by a sound call."""
    seen, rng = Seen(), np.random.default_rng(1)
    async with grpc.aio.insecure_channel(running.replicas[0].target) as channel:
        score = channel.unary_unary(_SCORE, response_deserializer=rewards_pb2.ScoreResponse.FromString)

        async def worker() -> None:
            while seen.sent < count:
                seen.sent += 1
                if seen.sent % 100 == 0:
                    sound = coded.request([seen.sent])
                    number = seen.sent
                    answer = await score(sound.SerializeToString(), timeout=_HANG_S)
                    seen.wrong += coded.wrong([number], answer)  # "+= await" would lose what others added meanwhile
                body, started_s = make(rng), time.monotonic()
                try:
                    response = await score(body, timeout=_HANG_S)
                except grpc.aio.AioRpcError as error:
                    code = error.code().name
                    if code not in ("INVALID_ARGUMENT", "NOT_FOUND"):
                        seen.bugs.append(f"{code}: {error.details()}"[:200])
                else:
                    code = "OK"
                    for outcome in response.outcomes:
                        kind = outcome.WhichOneof("result") or "none"
                        if kind == "failure":
                            kind = rewards_pb2.FailureCode.Name(outcome.failure.code).removeprefix("FAILURE_CODE_")
                        seen.outcomes[kind] += 1
                        if kind in ("INTERNAL", "none", "UNSPECIFIED"):
                            seen.bugs.append(str(outcome)[:200])
                seen.statuses[code] += 1
                seen.longest_s = max(seen.longest_s, time.monotonic() - started_s)

        await asyncio.gather(*(worker() for _ in range(_PARALLEL)))
    return seen


def atheris(runs: int) -> tuple[int, int, str]:
    """(inputs tried, code it ended with, the end of what it said)."""
    with TemporaryDirectory(prefix="sync-r1-fuzz-") as folder:
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        for number, body in enumerate(sound_requests()):
            (corpus / str(number)).write_bytes(body)
        command = [
            sys.executable, "-m", "benchmarks.reliability.fuzz_codec", str(corpus), f"-atheris_runs={runs}", "-seed=1",
            "-max_len=4096", "-timeout=10", "-rss_limit_mb=1024", f"-artifact_prefix={folder}/", "-print_final_stats=1",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1200)
    said = done.stdout + done.stderr
    tried = re.search(r"number_of_executed_units: (\d+)", said) or re.search(r"Done (\d+)", said)
    return int(tried[1]) if tried else 0, done.returncode, said[-2000:]


def run(short: bool) -> Result:
    """See the module."""
    less = SHORT if short else 1
    tried, code, said = atheris(ATHERIS // less)
    requests, pictures = sound_requests(), files()

    def whole(rng: np.random.Generator) -> bytes:
        return mutated(requests[rng.integers(len(requests))], rng, requests[rng.integers(len(requests))])

    def in_items(rng: np.random.Generator) -> bytes:
        request = coded.request(range(PER_REQUEST))
        for sample in request.samples:
            sample.image.encoded = mutated(
                pictures[rng.integers(len(pictures))], rng, pictures[rng.integers(len(pictures))]
            )
        return request.SerializeToString()

    with fleet(1) as running:
        front = running.replicas[0]
        cores = Cores({"front": front.pid, "Triton": running.triton.pid}, "mutator and callers")
        through = asyncio.run(send(running, REQUESTS // less, whole))
        items = asyncio.run(send(running, PICTURES // less // PER_REQUEST, in_items))
        alive, limit = front.process is not None and front.process.poll() is None, shown(cores.used())
        logged = [record["exception"].splitlines()[-1] for record in front.records() if "exception" in record]
        left = total(asyncio.run(front.scrape()), "sync_r1_inflight_items") if alive else float("nan")
    result = Result()
    result.add(
        "parse and decode: no crash, no hang, no INTERNAL, one outcome for each item (atheris)",
        f"{tried:,} inputs, ended with code {code}", f"≥ {ATHERIS // less:,} inputs, code 0",
        code == 0 and tried >= ATHERIS // less,
    )  # fmt: skip
    if code:
        result.notes.append(f"atheris said: {said}")
    sent_pictures = items.sent * PER_REQUEST
    for name, seen, count in (
        ("mutated requests through real gRPC and Triton", through, through.sent),
        ("mutated PNG, JPEG and WebP files in sound requests", items, sent_pictures),
    ):
        result.add(
            f"{name}: no crash, hang or INTERNAL",
            f"{count:,} inputs: {dict(seen.statuses.most_common())}; items {dict(seen.outcomes.most_common())}; "
            f"longest {seen.longest_s:.2f} s; {len(seen.bugs)} bugs",
            f"0 bugs, none over {_HANG_S:g} s", alive and not seen.bugs and seen.longest_s < _HANG_S,
        )  # fmt: skip
        result.notes += [f"{name}: {bug}" for bug in seen.bugs[:3]]
    everything = tried + through.sent + sent_pictures
    result.notes += [f"the service logged {count} x {line}" for line, count in Counter(logged).most_common(5)]
    result.add(
        "all together", f"{everything:,} inputs; {through.wrong + items.wrong} of the sound calls in between were "
        f"scored wrong; {left:.0f} items in work at the end", f"≥ {200_000 // less:,}; 0; 0",
        everything >= 200_000 // less and not through.wrong + items.wrong and left == 0,
    )  # fmt: skip
    result.notes.append(f"Through gRPC (a closed loop, so the cores are the limit), {limit}. Atheris has one core.")
    return result

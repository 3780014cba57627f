"""The fault drills in their short form: what they promise without a clock; their figures are benchmarks/RELIABILITY.md.

A drill must be able to fail: what counts items is shown wrong, lost and doubled ones here.
"""

from __future__ import annotations

import asyncio
import importlib
from pathlib import Path

import numpy as np
import pytest

from benchmarks.reliability import __main__ as program
from benchmarks.reliability import coded, fuzz, record, sdk_load
from benchmarks.reliability.fleet import Cable, until
from sync_r1.protos.rewards.v1 import rewards_pb2
from sync_r1.reward_models.types import Failure, FailureCode, Score


def answered(*numbers: float) -> rewards_pb2.ScoreResponse:
    response = rewards_pb2.ScoreResponse()
    for number in numbers:
        response.outcomes.add(id=str(int(number))).score.value = number
    return response


def test_a_wrong_lost_or_exchanged_score_is_seen() -> None:
    assert coded.wrong([1, 70_000, 3], answered(1, 70_000, 3)) == 0
    assert coded.wrong([1, 2, 3], answered(1, 3, 2)) == 2
    assert coded.wrong([1, 2, 3], answered(1, 2)) == 1
    assert coded.wrong([1], answered(1, 1)) == 1


def test_the_account_tells_lost_doubled_and_misplaced_items_apart() -> None:
    class Batch:
        def __init__(self, *outcomes: object) -> None:
            self.outcomes = outcomes

    account = sdk_load.Account(sent=9)
    account.add(range(3), Batch(Score(0.0), Score(1.0), Score(2.0)), 0.1)
    account.add(range(3, 6), Batch(Score(4.0), Score(3.0), Failure(FailureCode.BAD_IMAGE, "bad", "image")), 0.1)
    assert (account.right, account.misplaced, account.failed, account.outcomes) == (3, 2, 1, 6)
    result = record.Result()
    counted = {"outcomes": {"OK": 7}, "requests": 6, "attempts": 7, "retries": 0}
    sdk_load.judge(result, account, counted, wanted=9)
    assert [row.met for row in result.rows] == [False, True]
    assert result.rows[0].figure.startswith("4 lost, 0 doubled, 2 misplaced; 3 have")


def test_the_picture_of_a_number_holds_it_whatever_its_size() -> None:
    for number in (0, 255, 256, 65_535, 65_536, coded.NUMBERS - 1):
        first = coded.pixels(number, 5)[0, 0]
        assert int(first @ np.array([65536, 256, 1])) == number


def test_mutants_differ_and_some_stay_readable() -> None:
    rng = np.random.default_rng(0)
    bodies = fuzz.sound_requests()
    mutants = [fuzz.mutated(bodies[0], rng, bodies[1]) for _ in range(200)]
    readable = 0
    for mutant in mutants:
        try:
            rewards_pb2.ScoreRequest.FromString(mutant)
            readable += 1
        except Exception:
            continue
    assert len(set(mutants)) > 190
    assert 10 < readable < 190


async def test_a_cut_cable_takes_bytes_and_passes_none_until_it_is_mended() -> None:
    got: list[bytes] = []
    wanted = 1

    async def arrived() -> bool:
        return len(got) == wanted

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            got.append(data)
        writer.close()

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    async with Cable(f"127.0.0.1:{server.sockets[0].getsockname()[1]}") as cable:
        host, _, port = cable.target.partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"there")
        assert await until(arrived, 10) < 10
        wanted = 2
        cable.cut = True
        writer.write(b"lost")
        await writer.drain()
        await asyncio.sleep(0.05)
        cable.mend()
        assert await asyncio.wait_for(reader.read(), 10) == b""  # the old connection is gone
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"again")
        assert await until(arrived, 10) < 10
        writer.close()
    server.close()
    assert got == [b"there", b"again"]


def test_the_page_says_what_is_met_missed_and_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "KEPT", tmp_path / "kept")
    monkeypatch.setattr(record, "PAGE", tmp_path / "page.md")
    result = record.Result()
    result.add("kept", "1", "1", True)
    result.add("broken", "2", "1", False, "pytest tests")
    result.add("unknown", "?", "1", None)
    record.keep("overload", "A drill", result, {"load before": "0.5"}, 61.0)
    record.gather(["envoy", "overload"])
    page = (tmp_path / "page.md").read_text()
    assert "1 of 3 rows are met, 1 missed, 1 could not be measured here." in page
    assert "| broken | `pytest tests` | 2 | 1 | **no** |" in page
    assert "| kept | `make drill NAME=overload` | 1 | 1 | yes |" in page
    assert "| unknown | `make drill NAME=overload` | ? | 1 | not measured |" in page


def test_every_drill_of_the_list_is_a_module_with_a_title() -> None:
    for name in program.DRILLS:
        module = importlib.import_module(f"benchmarks.reliability.{name}")
        assert (module.__doc__ or "").strip(), name
        assert callable(module.run)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "promises"),
    [
        ("overload", ["no wrong score"]),
        ("triton_killed", ["no score is wrong", "UNAVAILABLE"]),
        ("stub_killed", ["no score is wrong", "never a bug", "scores come again"]),
        ("rolling", ["batches of 256", "one release", "new release"]),
        ("other_weights", ["no score is of other weights", "UNAVAILABLE"]),
        ("replicas", ["none lost", "attempts are counted"]),
        ("envoy", ["none lost", "attempts are counted", "really happened"]),
        ("clients_killed", ["under way", "scores right"]),
        ("memory", ["scores are right"]),
        ("fuzz", ["atheris", "real gRPC", "files in sound requests", "all together"]),
    ],
)
def test_a_drill_keeps_what_it_promises_without_a_clock(name: str, promises: list[str]) -> None:
    result = importlib.import_module(f"benchmarks.reliability.{name}").run(True)
    print(record.text(name, result))
    for promise in promises:
        rows = [row for row in result.rows if promise in row.promise]
        assert rows, promise
        assert all(row.met for row in rows), rows

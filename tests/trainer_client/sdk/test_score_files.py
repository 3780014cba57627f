"""Files of scores over runs: every row keeps its own score, nothing of anybody's is lost, no row stops the others.

The service scores a picture by its mean pixel, over real gRPC, so a test can tell which row a score belongs to.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from scripted_service import Context, ScriptedService, Step, aborting
from table_runs import ended

from sync_r1.protos.rewards.v1 import rewards_pb2 as pb
from sync_r1.trainer_client import (
    ClientSettings,
    DeadlineExceeded,
    RewardClient,
    RewardClientError,
    ServiceBug,
    ServiceUnreachable,
    Timeout,
)
from sync_r1.trainer_client.evaluation.compare_scores import parse_side, score_sides
from sync_r1.trainer_client.sdk.sample_file import ScoreFileError
from sync_r1.trainer_client.sdk.score_file import ScoreFiles, score_file

IMPATIENT = ClientSettings(timeout=Timeout(total_s=2.0, connect_s=1.0))
PATIENT = ClientSettings()


@asynccontextmanager
async def serving(
    settings: ClientSettings = PATIENT, **options: Any
) -> AsyncIterator[tuple[ScriptedService, RewardClient]]:
    service = await ScriptedService(**options).start()
    try:
        async with RewardClient(service.target, settings) as client:
            yield service, client
    finally:
        await service.stop()


def answering(**options: Any) -> Any:
    """A service that scores the bytes of an answer: rows need no pictures."""
    limits = pb.Limits(
        max_items=64, max_references=4, max_request_bytes=64 << 20, max_image_bytes=16 << 20, max_pixels=16_000_000,
        max_text_bytes=1 << 20, max_inflight_items=64, max_deadline_ms=60_000,
    )  # fmt: skip
    return serving(required_fields=("answer",), limits=limits, **options)


def write(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def answers(count: int) -> list[dict[str, Any]]:
    return [{"id": f"row-{number}", "answer": chr(33 + number % 90) * (1 + number // 90)} for number in range(count)]


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def value_of(text: str) -> float:
    return float(np.frombuffer(text.encode(), np.uint8).mean())


def check_scores(source: Path, target: Path) -> None:
    """Each row has one line, in order, under its id, with its own score."""
    rows, found = lines(source), lines(target)
    for number, (row, line) in enumerate(zip(rows, found), start=1):
        assert line["id"] == row.get("id", str(number))
        assert line["score"]["value"] == value_of(row["answer"]), row
    assert len(found) >= len(rows)
    assert len({line["id"] for line in found}) == len(found)


# Rows


ROW = st.tuples(st.booleans(), st.sampled_from("abcdef"))  # with an id of its own?; the answer
EDIT = st.tuples(st.lists(ROW, min_size=1, max_size=6), st.floats(0, 1))  # the rows now; where the last run was cut


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=st.lists(EDIT, min_size=2, max_size=4))
def test_no_edit_of_the_input_and_no_kill_gives_a_row_anothers_score(
    edits: list[tuple[list[tuple[bool, str]], float]], tmp_path: Path
) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    for file in tmp_path.iterdir():
        file.unlink()

    async def story() -> None:
        async with answering() as (_, client):
            for rows, cut in edits:
                if target.exists():
                    content = target.read_bytes()
                    target.write_bytes(content[: round(cut * len(content))])
                write(source, [
                    {"answer": answer, **({"id": f"own-{number}"} if named else {})}
                    for number, (named, answer) in enumerate(rows)
                ])  # fmt: skip
                result = await score_file(client, source, target)
                assert (result.scored, result.failed) == (len(rows), 0)
                check_scores(source, target)

    asyncio.run(story())


async def test_an_inserted_row_moves_no_score_and_costs_one(tmp_path: Path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    rows = [{"answer": letter} for letter in "bcdef"]
    async with answering() as (service, client):
        await score_file(client, write(source, rows), target)
        service.requests.clear()
        result = await score_file(client, write(source, [{"answer": "a"}, *rows]), target)
    assert [[sample.answer for sample in request.samples] for request in service.requests] == [["a"]]
    assert (result.scored, result.done_before, result.superseded) == (6, 5, 0)
    check_scores(source, target)


async def test_a_picture_that_was_replaced_is_scored_again_and_its_old_score_kept_beside(tmp_path: Path) -> None:
    for number in range(3):
        Image.new("RGB", (8, 8), (number,) * 3).save(tmp_path / f"{number}.png")
    source = write(tmp_path / "in.jsonl", [{"id": str(n), "image": f"{n}.png"} for n in range(3)])
    target = tmp_path / "out.jsonl"
    async with serving() as (_, client):
        await score_file(client, source, target)
        before = lines(target)
        Image.new("RGB", (8, 8), (99,) * 3).save(tmp_path / "1.png")
        result = await score_file(client, source, target)
    after = lines(target)
    assert [one == other for one, other in zip(before, after)] == [True, False, True]
    assert after[1]["id"] == "1"
    assert after[1]["score"] != before[1]["score"]
    assert result.superseded == 1
    assert lines(tmp_path / "out.jsonl.superseded") == [before[1]]


async def test_scores_of_another_input_stay_in_the_file(tmp_path: Path) -> None:
    target = tmp_path / "out.jsonl"
    one, other = write(tmp_path / "1.jsonl", answers(5)), write(tmp_path / "2.jsonl", answers(9)[5:])
    async with answering() as (service, client):
        await score_file(client, one, target)
        first = lines(target)
        result = await score_file(client, other, target)
        assert lines(target)[4:] == first
        assert (result.scored, result.done_before) == (4, 0), "the summary is of this input"
        service.requests.clear()
        await score_file(client, one, target)
    assert not service.requests
    assert len(lines(target)) == 9


async def test_a_group_is_scored_again_when_one_of_its_members_changes(tmp_path: Path) -> None:
    def rows(last: str) -> list[dict[str, Any]]:
        found = [{"id": f"{group}{n}", "group": group, "answer": f"{group}{n}"} for n in range(2) for group in "ab"]
        return [*found, {"id": "x", "group": "b", "answer": last}]

    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    async with answering(groupwise=True) as (service, client):
        await score_file(client, write(source, rows("one")), target)
        check_scores(source, target)
        service.requests.clear()
        result = await score_file(client, write(source, rows("another")), target)
    assert sorted(sample.id for request in service.requests for sample in request.samples) == ["b0", "b1", "x"]
    assert result.done_before == 2
    check_scores(source, target)


# Failures


async def test_failures_are_tried_again_last_and_the_summary_is_of_all_runs(tmp_path: Path) -> None:
    rows = answers(70)
    for number, prompt in ((3, "fail"), (5, "not applicable"), (60, "fail")):
        rows[number]["prompt"] = prompt
    source, target = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    async with answering() as (service, client):
        for done_before in (0, 68):
            result = await score_file(client, source, target)
            assert (result.scored, result.failed, result.not_applicable) == (67, 2, 1)
            assert result.done_before == done_before
            assert [line["id"] for line in lines(target)] == [row["id"] for row in rows]
        service.requests.clear()
        rows.append({"id": "new", "answer": "new"})
        await score_file(client, write(source, rows), target)
        asked = [[sample.id for sample in request.samples] for request in service.requests]
    assert asked == [["new"], ["row-3", "row-60"]]


def refusing(code: grpc.StatusCode, poison: str) -> Step:
    async def step(request: pb.ScoreRequest, context: Context) -> None:
        if any(sample.answer == poison for sample in request.samples):
            await context.abort(code, f"cannot take {poison}")

    return step


@pytest.mark.parametrize("code", ["INVALID_ARGUMENT", "INTERNAL", "UNKNOWN", "RESOURCE_EXHAUSTED"])
@pytest.mark.parametrize("at", [0, 70, 129])
async def test_a_row_that_takes_its_whole_call_fails_alone(code: str, at: int, tmp_path: Path) -> None:
    rows = answers(130)
    rows[at]["answer"] = "poison"
    source, target = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    async with answering(script=[refusing(grpc.StatusCode[code], "poison")] * 1000) as (_, client):
        result = await score_file(client, source, target)
    assert (result.scored, result.failed) == (129, 1)
    failure = lines(target)[at]["failure"]
    assert "cannot take poison" in failure["message"]
    assert lines(target)[at]["id"] == f"row-{at}"


@pytest.mark.parametrize(
    ("code", "error"),
    [("INTERNAL", ServiceBug), ("PERMISSION_DENIED", RewardClientError), ("NOT_FOUND", RewardClientError)],
)
async def test_a_service_that_fails_for_every_row_is_an_error_not_a_file_of_failures(
    code: str, error: type[Exception], tmp_path: Path
) -> None:
    source, target = write(tmp_path / "in.jsonl", answers(130)), tmp_path / "out.jsonl"
    async with answering(script=[aborting(grpc.StatusCode[code], "broken")] * 1000) as (_, client):
        with pytest.raises(error, match="broken"):
            await score_file(client, source, target)
    assert not target.exists()


async def test_a_row_that_is_never_answered_fails_alone(tmp_path: Path) -> None:
    async def hangs(request: pb.ScoreRequest, context: Context) -> None:
        if any(sample.answer == "endless" for sample in request.samples):
            await asyncio.sleep(60)

    rows = answers(4)
    rows[1]["answer"] = "endless"
    source, target = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    async with answering(settings=IMPATIENT, script=[hangs] * 100) as (service, client):
        result = await score_file(client, source, target)
        assert (result.scored, result.failed) == (3, 1)
        assert lines(target)[1]["failure"]["retryable"]
        service.serving = False  # now it is not the row
        rows[2]["answer"] = "endless"
        with pytest.raises(DeadlineExceeded):
            await score_file(client, write(source, rows), target)
    assert [line["id"] for line in lines(target) if "score" in line] == ["row-0", "row-3"]


async def test_an_outage_in_the_middle_keeps_what_was_scored(tmp_path: Path) -> None:
    source, target = write(tmp_path / "in.jsonl", answers(200)), tmp_path / "out.jsonl"
    async with answering(settings=IMPATIENT) as (service, client):
        await score_file(client, source, whole := tmp_path / "whole.jsonl")
        served = 0

        async def stops(request: pb.ScoreRequest, context: Context) -> None:
            nonlocal served
            served += 1
            if served > 2:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "gone")

        service.script = [stops] * 1000
        with pytest.raises(ServiceUnreachable, match="gone"):
            await score_file(client, source, target)
        assert target.read_bytes() == whole.read_bytes()[: target.stat().st_size]
        assert len(lines(target)) == 128
        service.script = []
        await score_file(client, source, target)
    assert target.read_bytes() == whole.read_bytes()


# The output


NOT_OURS = {
    "one line of JSON": b'{"learning_rate": 1e-4, "notes": "three weeks of work"}',
    "lines of JSON": b'{"id": "1", "image": "a.png"}\n{"id": "2", "image": "b.png"}\n',
    "YAML": b"a: 1\nb: 2",
    "half an object": b'{\n  "a": 1',
    "a picture": b"\x89PNG\r\n\x1a\n\0\0",
    "an empty line": b"\n",
    "a score of somebody else": b'{"sync_r1_row": "", "id": "1", "score": {"value": 1}}\n',
    "two outcomes": b'{"id": "1", "score": {"value": 1, "components": {}}, "not_applicable": "x"}\n',
}


@pytest.mark.parametrize("behind", [b"", b"own"])
@pytest.mark.parametrize("name", NOT_OURS)
async def test_a_file_that_is_not_ours_keeps_every_byte(name: str, behind: bytes, tmp_path: Path) -> None:
    source, target = write(tmp_path / "in.jsonl", answers(2)), tmp_path / "out.jsonl"
    async with answering() as (_, client):
        own = b""
        if behind:
            await score_file(client, source, target)
            own = target.read_bytes()
        target.write_bytes(own + NOT_OURS[name])
        for rescore in (False, True):
            with pytest.raises(ScoreFileError, match=r"out.jsonl, line \d was not written by .*; give another"):
                await score_file(client, source, target, rescore=rescore)
    assert target.read_bytes() == own + NOT_OURS[name]
    assert sorted(os.listdir(tmp_path)) == ["in.jsonl", "out.jsonl"]


def as_itself(folder: Path) -> Path:
    return folder / "in.jsonl"


def as_hard_link(folder: Path) -> Path:
    (folder / "link").hardlink_to(folder / "in.jsonl")
    return folder / "link"


def as_symlink(folder: Path) -> Path:
    (folder / "other").touch()
    (folder / "link").symlink_to("other")
    return folder / "link"


def as_dangling_symlink(folder: Path) -> Path:
    (folder / "link").symlink_to("nowhere")
    return folder / "link"


def as_fifo(folder: Path) -> Path:
    os.mkfifo(folder / "pipe")
    return folder / "pipe"


@pytest.mark.parametrize(
    ("place", "said"),
    [
        (as_itself, "is the input itself; give another --output"),
        (as_hard_link, "is the input itself; give another --output"),
        (as_symlink, "is a symbolic link; give the file that it points to"),
        (as_dangling_symlink, "is a symbolic link"),
        (as_fifo, "is no regular file"),
        (lambda folder: Path(os.devnull), "is no regular file"),
        (lambda folder: folder, "is a folder"),
        (lambda folder: folder / "in.jsonl" / "x", "cannot write"),
        (lambda folder: folder / ("x" * 300), "cannot write .*: File name too long"),
        (lambda folder: folder / "a\0b", "cannot write .*null"),
    ],
)
def test_an_output_that_cannot_be_one_is_refused_in_one_sentence(
    place: Callable[[Path], Path], said: str, tmp_path: Path
) -> None:
    source = write(tmp_path / "in.jsonl", answers(2))
    target = place(tmp_path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ScoreFileError, match=said):
        ScoreFiles(source, target)
    assert sorted(tmp_path.iterdir()) == before
    assert lines(source) == answers(2)


async def test_one_output_is_written_by_one_run_at_a_time(tmp_path: Path) -> None:
    source, target = write(tmp_path / "in.jsonl", answers(3)), tmp_path / "out.jsonl"
    async with answering() as (_, client):
        await score_file(client, source, target)
        write(source, answers(3)[::-1])  # so that the file is replaced while it is held
        with ScoreFiles(source, target) as files:
            for _ in range(2):
                with pytest.raises(ScoreFileError, match="another `sync-r1 score` is writing"):
                    ScoreFiles(source, target)
                await files.score(client)
        with ScoreFiles(source, target):
            pass
    check_scores(source, target)


async def test_a_run_cut_at_any_byte_and_repeated_gives_the_same_file(tmp_path: Path) -> None:
    rows = answers(3)
    rows[1]["prompt"] = "fail"
    source, target = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    async with answering() as (_, client):
        await score_file(client, source, target)
        whole = target.read_bytes()
        for cut in [*range(100), *range(100, len(whole), 7), len(whole) - 1]:
            target.write_bytes(whole[:cut])
            await score_file(client, source, target)
            assert target.read_bytes() == whole, cut
    assert sorted(os.listdir(tmp_path)) == ["in.jsonl", "out.jsonl"]


# Releases and versions


async def test_another_release_is_refused_unless_asked_for_and_its_scores_are_kept_beside(tmp_path: Path) -> None:
    source, target = write(tmp_path / "in.jsonl", answers(5)), tmp_path / "out.jsonl"
    async with answering() as (service, client):
        await score_file(client, source, target)
        first = target.read_bytes()
        service.release = "b" * 64
        await client.describe(refresh=True)
        with pytest.raises(ScoreFileError, match=r"mean@aaaaaaaaaaaa, the service would give mean@b.*--rescore"):
            await score_file(client, source, target)
        assert target.read_bytes() == first
        result = await score_file(client, source, target, rescore=True)
        assert (result.scored, result.done_before, result.superseded) == (5, 0, 5)
        assert {line["release"] for line in lines(target)} == {"b" * 64}
        assert (tmp_path / "out.jsonl.superseded").read_bytes() == first
        service.requests.clear()
        result = await score_file(client, source, target, rescore=True)
    assert (result.done_before, result.superseded, service.requests) == (5, 0, [])
    check_scores(source, target)


class TwoReleases(ScriptedService):
    """Serves "b…" by default, and "a…" to whoever asks for it."""

    async def Describe(self, request: pb.DescribeRequest, context: Context) -> pb.DescribeResponse:
        described = await super().Describe(request, context)
        described.releases.add(digest="b" * 64, variant="mean")
        described.default_releases["mean"] = "b" * 64
        return described


async def test_a_file_goes_on_with_its_own_release_as_long_as_that_is_served(tmp_path: Path) -> None:
    source, target = write(tmp_path / "in.jsonl", answers(2)), tmp_path / "out.jsonl"
    async with answering() as (service, client):
        await score_file(client, source, target)
    service = await TwoReleases(required_fields=("answer",)).start()
    try:
        async with RewardClient(service.target) as client:
            result = await score_file(client, write(source, answers(4)), target)
            assert (result.scored, result.done_before) == (4, 2)
            assert {line["release"] for line in lines(target)} == {"a" * 64}
            result = await score_file(client, source, target, rescore=True)
            assert {line["release"] for line in lines(target)} == {"b" * 64}
    finally:
        await service.stop()


async def test_an_earlier_versions_output_is_refused_unless_it_may_be_scored_again(tmp_path: Path) -> None:
    source, target = write(tmp_path / "in.jsonl", answers(2)), tmp_path / "out.jsonl"
    old = {"id": "row-0", "reward": "aesthetic", "variant": "mean", "release": "a" * 64}
    kinds = [{"score": {"value": 1.0, "components": {}, "reason": ""}}, {"not_applicable": "x"}]
    written = "".join(json.dumps(old | kind) + "\n" for kind in kinds) + '{"id": "row-1", "rew'
    target.write_text(written)
    async with answering() as (_, client):
        with pytest.raises(ScoreFileError, match=r"earlier version.*its 2 rows cannot be matched.*--rescore"):
            await score_file(client, source, target)
        assert target.read_text() == written
        result = await score_file(client, source, target, rescore=True)
    assert result.superseded == 2
    assert (tmp_path / "out.jsonl.superseded").read_text() == written[: written.rindex("\n") + 1]
    check_scores(source, target)


async def test_scores_of_another_reward_are_never_replaced(tmp_path: Path) -> None:
    source, target = write(tmp_path / "in.jsonl", answers(2)), tmp_path / "out.jsonl"
    async with answering() as (_, client):
        await score_file(client, source, target)
    first = target.read_bytes()
    async with answering(reward="text-faithfulness") as (_, client):
        with pytest.raises(ScoreFileError, match="holds scores of aesthetic, but text-faithfulness answers"):
            await score_file(client, source, target, rescore=True)
    assert target.read_bytes() == first


# The command


def command(service: ScriptedService, source: Path, target: Path) -> list[str]:
    arguments = ["score", "aesthetic", "--endpoint", service.target, "--input", str(source), "--output", str(target)]
    return [sys.executable, "-m", "sync_r1.cli.main", *arguments]


async def test_a_killed_command_that_is_repeated_gives_the_file_of_one_that_was_not(tmp_path: Path) -> None:
    source, target = write(tmp_path / "in.jsonl", answers(300)), tmp_path / "out.jsonl"
    async with answering() as (service, client):
        await score_file(client, source, whole := tmp_path / "whole.jsonl")
        reached = asyncio.Event()

        async def hangs(request: pb.ScoreRequest, context: Context) -> None:
            if len(service.requests) > before + 2:
                reached.set()
                await asyncio.sleep(60)

        before = len(service.requests)
        service.script = [hangs] * 10
        process = await asyncio.create_subprocess_exec(*command(service, source, target), stdout=subprocess.DEVNULL)
        try:
            await asyncio.wait_for(reached.wait(), 280)
        finally:
            process.send_signal(signal.SIGKILL)
            await process.wait()
        assert 0 < target.stat().st_size < whole.stat().st_size
        service.script = []
        code, said = await ended(command(service, source, target))
    assert (code, "128 done before" in said) == (0, True)
    assert target.read_bytes() == whole.read_bytes()


async def test_the_exit_code_tells_whether_rows_failed_and_a_later_run_may_mend_it(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", [{"id": "1", "image": "later.png"}, {"id": "2", "image": "now.png"}])
    Image.new("RGB", (8, 8), (7, 7, 7)).save(tmp_path / "now.png")
    target = tmp_path / "out.jsonl"
    async with serving() as (service, _):
        for _ in range(2):
            code, said = await ended(command(service, source, target))
            assert (code, "1 scored, " in said, "; 1 failed, " in said) == (3, True, True)
        Image.new("RGB", (8, 8), (9, 9, 9)).save(tmp_path / "later.png")
        code, said = await ended(command(service, source, target))
        assert (code, "2 scored, " in said, "; 0 failed, 0 not applicable, 1 done before" in said) == (0, True, True)
    assert [line["id"] for line in lines(target)] == ["1", "2"]


async def test_a_full_disk_is_one_sentence_and_loses_nothing(tmp_path: Path) -> None:
    source, target = write(tmp_path / "in.jsonl", answers(300)), tmp_path / "out.jsonl"
    async with answering() as (service, client):
        await score_file(client, source, whole := tmp_path / "whole.jsonl")
        size = whole.stat().st_size
        limited = ["bash", "-c", f'ulimit -f {size // 2048}; exec "$@"', "bash", *command(service, source, target)]
        code, said = await ended(limited)
        assert (code, said.count("error: cannot write"), "Traceback" in said) == (1, 1, False)
        assert "run the same command again" in said
        assert 0 < target.stat().st_size < size
        assert whole.read_bytes().startswith(target.read_bytes())
        assert target.read_bytes().endswith(b"\n")
        code, _ = await ended(command(service, source, target))
    assert code == 0
    assert target.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("listening", [False, True], ids=["absent", "silent"])
async def test_an_absent_or_silent_service_ends_the_command_with_one_sentence(listening: bool, tmp_path: Path) -> None:
    source, target = write(tmp_path / "in.jsonl", answers(2)), tmp_path / "out.jsonl"
    service = ScriptedService(port=9)

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)
        writer.close()

    if listening:
        server = await asyncio.start_server(silent, "127.0.0.1", 0)
        service.port = server.sockets[0].getsockname()[1]
    code, said = await ended(command(service, source, target))
    if listening:
        server.close()
    assert code == 1
    assert said.count("\nerror: ") == 1
    assert service.target in said
    assert "Traceback" not in said
    assert not target.exists()


# Memory, and the sister command


async def test_memory_holds_an_index_not_the_rows(tmp_path: Path) -> None:
    count, text_bytes = 2000, 10_000
    with (tmp_path / "in.jsonl").open("w") as file:
        for number in range(count):
            file.write(json.dumps({"answer": f"{number:05}" * (text_bytes // 5)}) + "\n")
    async with answering() as (service, client):

        async def forgets(request: pb.ScoreRequest, context: Context) -> None:
            service.requests.clear()

        service.script = [forgets] * count
        tracemalloc.start()
        try:
            for _ in range(2):
                result = await score_file(client, tmp_path / "in.jsonl", tmp_path / "out.jsonl")
                assert result.scored == count
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 0.5 * count * text_bytes, f"{peak} bytes"


async def test_compare_takes_the_same_odd_rows_as_failures_of_both_sides(tmp_path: Path) -> None:
    rows = answers(4)
    rows[2]["answer"] = "poison"
    source = write(tmp_path / "in.jsonl", rows)
    with source.open("ab") as file:
        file.write(b'{"id": 5}\n{"id": "6", "answer": "caf\xe9"}\n')
    async with answering(script=[refusing(grpc.StatusCode.INTERNAL, "poison")] * 100) as (_, client):
        found, sides = await score_sides([parse_side("mean")] * 2, [client] * 2, source)
    assert [row.id for row in found] == ["row-0", "row-1", "row-2", "row-3", "line 5", "6"]
    for side in sides:
        assert np.isfinite(side.raw_N).tolist() == [True, True, False, True, False, False]

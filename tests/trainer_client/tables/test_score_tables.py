"""Whole data sets scored: one row out for each row in, in order, whatever interrupts the run."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path

import grpc
import pytest
from scripted_service import Context, ScriptedService
from table_runs import command, ended, picture, pictures, rows, score, serving, value_of

from sync_r1.protos.rewards.v1 import rewards_pb2 as pb
from sync_r1.trainer_client import ClientSettings, RewardClient, RewardUse, ServiceUnreachable, Timeout
from sync_r1.trainer_client.sdk.sample_file import ScoreFileError
from sync_r1.trainer_client.tables.files import InputOptions, TableFiles
from sync_r1.trainer_client.tables.lanes import CALLS_PER_REPLICA, TooManyFailed
from sync_r1.trainer_client.tables.run import RunOptions
from sync_r1.trainer_client.tables.table import Shard

# The table


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl"])
async def test_a_folder_gives_one_row_a_picture_in_order_with_the_scores_of_several_rewards(
    ending: str, tmp_path: Path
) -> None:
    folder, target = tmp_path / "in", tmp_path / f"out.{ending}"
    data = pictures(folder, 20)
    (folder / "000.txt").write_text('a red dog, "quoted"\nand a line\n')
    (folder / "000.xyz").write_text("no picture")
    (folder / ".hidden.png").write_bytes(b"")
    async with serving("aesthetic", "text-faithfulness") as services:
        summary = await score(services, folder, target)
    found = rows(target)
    assert [row["path"] for row in found] == list(data)
    assert [row["row"] for row in found] == list(range(1, 21))
    for row, content in zip(found, data.values()):
        for reward in ("aesthetic", "text-faithfulness"):
            assert row[f"{reward}.raw"] == value_of(content)
            assert row[f"{reward}.score"] == pytest.approx(value_of(content) / 255)
            assert (row[f"{reward}.outcome"], row[f"{reward}.release"]) == ("scored", "a" * 64)
            components = row[f"{reward}.components"]
            assert (json.loads(components) if isinstance(components, str) else components) == {"bytes": len(content)}
    assert found[0]["prompt"] == 'a red dog, "quoted"\nand a line'
    assert found[1]["prompt"] is None
    assert (summary.rows, summary.failed_rows, summary.uses["aesthetic"].scored) == (20, 0, 20)
    assert sorted(os.listdir(tmp_path)) == ["in", f"out.{ending}", f"out.{ending}.journal"]


async def test_rows_that_are_equal_are_scored_once_and_all_have_the_score(tmp_path: Path) -> None:
    data = picture(tmp_path / "a.png", 1)
    (tmp_path / "in.jsonl").write_text('{"image": "a.png"}\n' * 200)
    async with serving() as (service,):
        await score([service], tmp_path / "in.jsonl", tmp_path / "out.csv")
        before = len(service.requests)
        await score([service], tmp_path / "in.jsonl", tmp_path / "out.csv")
        assert len(service.requests) == before
    assert {row["aesthetic.raw"] for row in rows(tmp_path / "out.csv")} == {value_of(data)}
    assert [row["id"] for row in rows(tmp_path / "out.csv")] == [str(number) for number in range(1, 201)]


async def test_a_replica_has_several_calls_under_way(tmp_path: Path) -> None:
    pictures(tmp_path / "in", 400)
    under_way, most = 0, 0
    enough = asyncio.Event()

    async def waits(request: pb.ScoreRequest, context: Context) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        if under_way >= CALLS_PER_REPLICA:
            enough.set()
        await asyncio.wait_for(enough.wait(), 60)  # never answered before so many have come
        under_way -= 1

    limits = pb.Limits(
        max_items=64, max_references=4, max_request_bytes=64 << 20, max_image_bytes=16 << 20, max_pixels=16_000_000,
        max_text_bytes=4096, max_inflight_items=1024, max_deadline_ms=60_000,
    )  # fmt: skip
    async with serving(limits=limits, script=[waits] * 20) as services:
        summary = await score(services, tmp_path / "in", tmp_path / "out.parquet")
    assert summary.uses["aesthetic"].scored == 400
    assert most >= CALLS_PER_REPLICA


async def test_a_group_is_scored_whole_and_again_when_one_of_its_members_changes(tmp_path: Path) -> None:
    for number in range(12):
        picture(tmp_path / f"{number}.png", number)
    lines = [{"image": f"{number}.png", "group": f"g{number % 3}"} for number in range(12)]
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    async with serving(groupwise=True) as (service,):
        await score([service], source, tmp_path / "out.csv")
        for request in service.requests:
            groups = [sample.group for sample in request.samples]
            assert all(groups.count(group) == 4 for group in groups)
        service.requests.clear()
        picture(tmp_path / "4.png", 99)
        await score([service], source, tmp_path / "out.csv")
        assert [sample.group for request in service.requests for sample in request.samples] == ["g1"] * 4
        shards = [tmp_path / f"{index}.csv" for index in range(2)]
        for index, shard in enumerate(shards):
            how = InputOptions(shard=f"{index}/2")
            await score([service], source, shard, how, shard=Shard(index, 2))
    parts = [row for shard in shards for row in rows(shard)]
    assert sorted(parts, key=lambda row: row["row"]) == rows(tmp_path / "out.csv")


async def test_shards_are_together_the_whole_table(tmp_path: Path) -> None:
    pictures(tmp_path / "in", 20)
    async with serving() as services:
        await score(services, tmp_path / "in", tmp_path / "whole.parquet")
        found = []
        for index in range(3):
            target = tmp_path / f"{index}.parquet"
            summary = await score(
                services, tmp_path / "in", target, InputOptions(shard=f"{index}/3"), shard=Shard(index, 3)
            )
            assert summary.rows in (6, 7)
            found += rows(target)
    assert sorted(found, key=lambda row: row["row"]) == rows(tmp_path / "whole.parquet")


async def test_failures_are_tried_again_after_the_rows_that_never_were(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    pictures(folder, 6)
    (folder / "000.txt").write_text("fail")
    target = tmp_path / "out.jsonl"
    async with serving() as (service,):
        first = await score([service], folder, target)
        assert (first.failed_rows, first.uses["aesthetic"].scored) == (1, 5)
        assert "BAD_IMAGE" in first.failures[0]["reason"]
        service.requests.clear()
        picture(folder / "999.png", 999)
        again = await score([service], folder, target)
        asked = [[sample.prompt for sample in request.samples] for request in service.requests]
        assert (again.failed_rows, again.uses["aesthetic"].scored, asked) == (1, 6, [[""], ["fail"]])
        (folder / "000.txt").unlink()
        mended = await score([service], folder, target)
    assert (mended.failed_rows, mended.uses["aesthetic"].scored) == (0, 7)


async def test_a_run_breaks_off_when_more_rows_fail_than_are_allowed_and_keeps_its_scores(tmp_path: Path) -> None:
    data = pictures(tmp_path / "in", 100)
    for name in list(data)[::10]:
        (tmp_path / "in" / name).with_suffix(".txt").write_text("fail")
    async with serving() as (service,):
        with pytest.raises(TooManyFailed, match="more than --max-failed 3"):
            await score([service], tmp_path / "in", tmp_path / "out.csv", max_failed=3)
        assert not (tmp_path / "out.csv").exists()
        summary = await score([service], tmp_path / "in", tmp_path / "out.csv", max_failed=10)
    assert (summary.failed_rows, summary.uses["aesthetic"].scored) == (10, 90)


async def test_a_preset_has_a_total_of_the_rows_that_no_reward_failed_on(tmp_path: Path) -> None:
    data = pictures(tmp_path / "in", 3)
    names = list(data)
    (tmp_path / "in" / names[1]).with_suffix(".txt").write_text("fail")
    async with serving("aesthetic", "text-faithfulness") as services:
        clients = {service.reward: RewardClient(service.target) for service in services}
        with TableFiles(tmp_path / "in", tmp_path / "out.csv", list(clients), InputOptions(preset="x")) as files:
            uses = {name: (client, RewardUse(weight)) for (name, client), weight in zip(clients.items(), (0.5, 1.0))}
            await files.score(uses, RunOptions())
        for client in clients.values():
            await client.close()
    found = rows(tmp_path / "out.csv")
    assert found[0]["total"] == pytest.approx(1.5 * value_of(data[names[0]]) / 255)
    assert [row["total"] is None for row in found] == [False, True, False]


# Interruptions


def table_command(services: list[ScriptedService], folder: Path, *arguments: object) -> list[str]:
    """The command with several rewards."""
    endpoints = folder / "endpoints.json"
    endpoints.write_text(json.dumps({service.reward: service.target for service in services}))
    names = ",".join(service.reward for service in services)
    return command("score", names, *arguments, "--endpoints", endpoints)


async def test_a_killed_command_that_is_repeated_gives_the_table_of_one_that_was_not(tmp_path: Path) -> None:
    pictures(tmp_path / "in", 300)
    (tmp_path / "in" / "000.txt").write_text("fail")
    (tmp_path / "in" / "003.png").write_bytes(b"no picture at all")
    target, whole = tmp_path / "out.parquet", tmp_path / "whole.parquet"
    async with serving("aesthetic", "text-faithfulness") as services:
        await score(services, tmp_path / "in", whole)
        reached = asyncio.Event()
        slow = services[0]
        before = len(slow.requests)

        async def hangs(request: pb.ScoreRequest, context: Context) -> None:
            if len(slow.requests) > before + 10:
                reached.set()
                await asyncio.sleep(60)

        slow.script = [hangs] * 100
        arguments = table_command(services, tmp_path, tmp_path / "in", "-o", target)
        process = await asyncio.create_subprocess_exec(*arguments, stdout=subprocess.DEVNULL)
        try:
            await asyncio.wait_for(reached.wait(), 240)
            await asyncio.sleep(5)  # what was answered is in the journal by now: the command only waits
        finally:
            process.send_signal(signal.SIGKILL)
            await process.wait()
        assert not target.exists()
        slow.script = []
        slow.requests.clear()
        code, said = await ended(arguments)
        asked = sum(len(request.samples) for request in slow.requests)
    assert (code, "1 of 300 rows failed" in said) == (3, True), said
    assert 0 < asked < 300
    assert target.read_bytes() == whole.read_bytes()


KILLED = """
import os, signal, sys
real = getattr(os, sys.argv[1])
def kills(*arguments):
    if sys.argv[2] == "before": os.kill(os.getpid(), signal.SIGKILL)
    real(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(os, sys.argv[1], kills)
from sync_r1.cli.main import app
app(sys.argv[3:])
"""


@pytest.mark.parametrize(("call", "when"), [("fsync", "after"), ("replace", "before"), ("replace", "after")])
async def test_a_command_killed_while_it_writes_its_table_is_repeated_too(call: str, when: str, tmp_path: Path) -> None:
    pictures(tmp_path / "in", 10)
    target, whole = tmp_path / "out.parquet", tmp_path / "whole.parquet"
    async with serving() as services:
        await score(services, tmp_path / "in", whole)
        arguments = table_command(services, tmp_path, tmp_path / "in", "-o", target)
        for number in range(2):  # over no table, and over one
            picture(tmp_path / "in" / f"new-{number}.png", 50 + number) if number else None
            code, _ = await ended([sys.executable, "-c", KILLED, call, when, *arguments[3:]])
            assert code == -signal.SIGKILL
            asked = len(services[0].requests)
            code, said = await ended(arguments)
            assert code == 0, said
            assert len(services[0].requests) == asked, "everything was scored before"
            if not number:
                assert target.read_bytes() == whole.read_bytes()
    assert len(rows(target)) == 11
    assert sorted(os.listdir(tmp_path)) == [
        "endpoints.json", "in", "out.parquet", "out.parquet.journal", "whole.parquet", "whole.parquet.journal",
    ]  # fmt: skip


async def test_an_outage_ends_the_run_with_its_scores_kept(tmp_path: Path) -> None:
    pictures(tmp_path / "in", 200)
    async with serving() as (service,):
        served = 0

        async def stops(request: pb.ScoreRequest, context: Context) -> None:
            nonlocal served
            served += 1
            if served > 10:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "gone")

        service.script = [stops] * 1000
        impatient = ClientSettings(timeout=Timeout(total_s=2.0, connect_s=1.0))
        with pytest.raises(ServiceUnreachable, match="gone"):
            await score([service], tmp_path / "in", tmp_path / "out.csv", settings=impatient)
        service.script = []
        service.requests.clear()
        summary = await score([service], tmp_path / "in", tmp_path / "out.csv")
        asked = sum(len(request.samples) for request in service.requests)
    assert summary.uses["aesthetic"].scored == 200
    assert asked < 200


async def test_a_full_disk_is_one_sentence_and_the_next_run_goes_on(tmp_path: Path) -> None:
    lines = [json.dumps({"id": f"{number}", "answer": f"{number}" * 20}) for number in range(2000)]
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    target = tmp_path / "out.csv"
    async with serving(required_fields=("answer",)) as services:
        arguments = table_command(services, tmp_path, tmp_path / "in.jsonl", "-o", target)
        code, said = await ended(["bash", "-c", 'ulimit -f 100; exec "$@"', "bash", *arguments])
        assert (code, said.count("error: cannot write"), "Traceback" in said) == (1, 1, False), said
        code, said = await ended(arguments)
    assert code == 0, said
    assert len(rows(target)) == 2000


# The output


async def test_an_output_of_another_run_or_of_nobody_keeps_every_byte(tmp_path: Path) -> None:
    pictures(tmp_path / "in", 3)
    pictures(tmp_path / "other", 2)
    target = tmp_path / "out.csv"
    journal = tmp_path / "out.csv.journal"
    async with serving() as services:
        target.write_text("three weeks of work\n")
        with pytest.raises(ScoreFileError, match=r"out.csv has no out.csv.journal beside it"):
            await score(services, tmp_path / "in", target)
        journal.write_text("three weeks of work\n")
        with pytest.raises(ScoreFileError, match=r"out.csv.journal was not written by `sync-r1 score`"):
            await score(services, tmp_path / "in", target)
        assert (target.read_text(), journal.read_text()) == ("three weeks of work\n",) * 2
        target.unlink()
        journal.unlink()
        await score(services, tmp_path / "in", target)
        before = target.read_bytes()
        with pytest.raises(ScoreFileError, match=r"is of another run: its input 'in', not 'other'"):
            await score(services, tmp_path / "other", target)
        with pytest.raises(ScoreFileError, match=r"is of another run: its shard 'none', not '0/2'"):
            await score(services, tmp_path / "in", target, InputOptions(shard="0/2"), shard=Shard(0, 2))
        assert target.read_bytes() == before
        target.write_bytes(before + b"mine\n")
        with pytest.raises(ScoreFileError, match="was changed since"):
            await score(services, tmp_path / "in", target)
        assert target.read_bytes() == before + b"mine\n"


def test_an_output_that_cannot_be_one_is_refused_in_one_sentence(tmp_path: Path) -> None:
    pictures(tmp_path / "in", 1)
    (tmp_path / "link.csv").symlink_to("nowhere")
    (tmp_path / "folder.csv").mkdir()
    for name, said in (
        ("out.xlsx", "expected a name that ends with .parquet"), ("link.csv", "is a symbolic link"),
        ("folder.csv", "is a folder"), ("in/000.png/out.csv", "cannot write"),
    ):  # fmt: skip
        with pytest.raises(ScoreFileError, match=said):
            TableFiles(tmp_path / "in", tmp_path / name, ["aesthetic"], InputOptions())
    assert sorted(os.listdir(tmp_path)) == ["folder.csv", "in", "link.csv"]


async def test_one_output_is_written_by_one_run_at_a_time(tmp_path: Path) -> None:
    pictures(tmp_path / "in", 3)
    target = tmp_path / "out.csv"
    async with serving() as services:
        await score(services, tmp_path / "in", target)
        with TableFiles(tmp_path / "in", target, ["aesthetic"], InputOptions()):
            code, said = await ended(table_command(services, tmp_path, tmp_path / "in", "-o", target))
            assert code == 1
            assert "another `sync-r1 score` is writing" in said
        await score(services, tmp_path / "in", target)


async def test_another_release_is_refused_unless_asked_for(tmp_path: Path) -> None:
    pictures(tmp_path / "in", 3)
    target = tmp_path / "out.csv"
    async with serving() as (service,):
        await score([service], tmp_path / "in", target)
        service.release = "b" * 64
        with pytest.raises(ScoreFileError, match=r"mean@aaaaaaaaaaaa, the service would give mean@b.*--rescore"):
            await score([service], tmp_path / "in", target)
        await score([service], tmp_path / "in", target, rescore=True)
    assert {row["aesthetic.release"] for row in rows(target)} == {"b" * 64}


async def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    """Of 3 000 rows with answers of 12 kB; an index of ids is 16 bytes a row, and SQLite keeps 2 MB of pages."""
    count, text = 3000, "x" * 12_000
    with (tmp_path / "in.jsonl").open("w") as file:
        for number in range(count):
            file.write(json.dumps({"id": f"row {number}", "answer": f"{number} {text}"}) + "\n")
    limits = pb.Limits(
        max_items=64, max_references=4, max_request_bytes=64 << 20, max_image_bytes=16 << 20, max_pixels=16_000_000,
        max_text_bytes=1 << 20, max_inflight_items=1024, max_deadline_ms=60_000,
    )  # fmt: skip
    async with serving(required_fields=("answer",), limits=limits) as (service,):

        async def forgets(request: pb.ScoreRequest, context: Context) -> None:
            service.requests.clear()

        service.script = [forgets] * count
        tracemalloc.start()
        try:
            summary = await score([service], tmp_path / "in.jsonl", tmp_path / "out.parquet")
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert summary.uses["aesthetic"].scored == count
    assert peak < 0.6 * count * len(text), f"{peak} bytes"


# The command


async def test_one_command_scores_a_mixed_folder_and_says_what_failed(tmp_path: Path) -> None:
    data = pictures(tmp_path / "in", 30)
    (tmp_path / "in" / "000.txt").write_text("fail")
    target, told = tmp_path / "out.parquet", tmp_path / "summary.json"
    async with serving("aesthetic", "text-faithfulness") as services:
        arguments = table_command(services, tmp_path, tmp_path / "in", "-o", target, "--json", told)
        code, said = await ended(arguments)
        assert code == 3, said
        assert "row 1 (000.png), aesthetic: BAD_IMAGE: image: not decodable" in said
        assert "1 of 30 rows failed; they have outcome = failed in" in said
        (tmp_path / "in" / "000.txt").write_text("fine")
        code, said = await ended(arguments)
        assert code == 0, said
        code, said = await ended(command("view", target))
        assert code == 0, said
    summary = json.loads(told.read_text())
    assert (summary["rows"], summary["failed_rows"]) == (30, 0)
    mean = sum(map(value_of, data.values())) / 30
    assert summary["rewards"]["aesthetic"]["mean_raw"] == pytest.approx(mean)
    page = (tmp_path / "out.parquet.html").read_text()
    assert page.count("<img") >= 4 * 12
    parts = ("aesthetic: best", "text-faithfulness: worst", "Most disagreed", "No row failed")
    assert all(part in page for part in parts)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["aesthetic", "in"], "say where the scores go"),
        (["aesthetic", "-o", "x.csv"], "say what scores and what is scored"),
        (["aesthetic", "in", "-o", "x.csv", "--preset", "default"], "say what scores and what is scored"),
        (["a,b", "in", "-o", "x.csv"], "--endpoint is one service's"),
        (["aesthetic", "in", "-o", "x.csv", "--columns", "imag=file"], "expected FIELD=COLUMN"),
        (["aesthetic", "in", "-o", "x.csv", "--shard", "2/2"], "expected I/N"),
        (["--preset", "best", "in", "-o", "x.csv"], "there is no preset 'best'"),
        (["aesthetic", "nowhere", "-o", "x.csv"], "there is no nowhere"),
    ],
)
def test_a_wrong_option_is_answered_with_what_was_expected(arguments: list[str], said: str, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from sync_r1.cli.main import app

    pictures(tmp_path / "in", 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        done = CliRunner().invoke(
            app, ["score", *arguments, "--endpoint", "127.0.0.1:9"], env={"COLUMNS": "250", "NO_COLOR": "1"}
        )  # fmt: skip
    assert done.exit_code in (1, 2)
    assert said in done.output
    assert not (tmp_path / "x.csv").exists()
    assert not (tmp_path / "x.csv.journal").exists()


async def test_a_service_too_slow_for_several_calls_at_once_is_asked_one_at_a_time(tmp_path: Path) -> None:
    pictures(tmp_path / "in", 64 * 5)
    under_way, late = 0, 0

    async def busy(request: pb.ScoreRequest, context: Context) -> None:
        """Answers no call that has another one beside it."""
        nonlocal under_way, late
        under_way += 1
        try:
            for _ in range(0 if late else 100):  # the first one waits for company
                if under_way > 1:
                    break
                await asyncio.sleep(0.02)
            await asyncio.sleep(0.2)
            if under_way > 1:
                late += 1
                await asyncio.sleep(60)
        finally:
            under_way -= 1

    settings = ClientSettings(timeout=Timeout(total_s=5.0))
    limits = pb.Limits(
        max_items=64, max_references=4, max_request_bytes=64 << 20, max_image_bytes=16 << 20, max_pixels=16_000_000,
        max_text_bytes=4096, max_inflight_items=1024, max_deadline_ms=5000,
    )  # fmt: skip
    async with serving(limits=limits, script=[busy] * 1000) as (service,), RewardClient(service.target, settings) as at:
        with TableFiles(tmp_path / "in", tmp_path / "out.csv", ["aesthetic"], InputOptions()) as files:
            summary = await files.score({"aesthetic": (at, RewardUse(0.0))}, RunOptions())
    assert (summary.uses["aesthetic"].scored, summary.failed_rows) == (320, 0)
    assert late > 0

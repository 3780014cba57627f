"""Addresses that cannot be right are refused at once, and this machine's services are reached past any proxy."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_service import ScriptedService
from typer.testing import CliRunner

from sync_r1.cli.main import app
from sync_r1.trainer_client import (
    BadArgument,
    RewardClient,
    RewardEnsemble,
    SyncRewardClient,
)
from sync_r1.trainer_client.sdk.bounds import address, is_loopback

GOOD = ("localhost:9001", "127.0.0.1:1", "[::1]:65535", "dns:///rewards.svc:9001", "unix:/run/rewards.sock")


@pytest.mark.parametrize("target", GOOD)
def test_address_of_a_host_and_a_port_is_taken_as_it_is(target: str) -> None:
    assert RewardClient(target).endpoints == (target,)
    assert RewardClient([target, "other:1"]).endpoints == (target, "other:1")


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("http://localhost:9001", "without the scheme 'http://'.*tls="), ("https://rewards", "without the scheme"),
        ("grpc://localhost:9001", "without the scheme 'grpc://'"), ("dns:rewards:9001", "dns:///NAME:PORT"),
        ("dns://8.8.8.8/rewards:9001", "dns:///NAME:PORT"), ("localhost", "names no port"),
        ("dns:///rewards", "names no port"), (":9001", "names no port"), ("::1:9001", "names no port"),
        ("localhost:", "a port from 1 to 65535"), ("localhost:http", "a port from 1 to 65535"),
        ("localhost:0", "a port from 1 to 65535"), ("localhost:65536", "a port from 1 to 65535"),
        ("localhost:9001/", "a port from 1 to 65535"), ("user@host:9001", "a port from 1 to 65535"),
        ("a b:9001", "a port from 1 to 65535"), ("", "at least one endpoint"), (" ", "at least one endpoint"),
        (None, "at least one endpoint"), ([], "at least one endpoint"), (9001, "at least one endpoint"),
        (["localhost:9001", None], "at least one endpoint"),
    ],
)  # fmt: skip
def test_address_that_cannot_be_right_is_refused_when_the_client_is_made(target: str, words: str) -> None:
    for make in (RewardClient, SyncRewardClient):
        with pytest.raises(BadArgument, match=words):
            make(target)
    with pytest.raises(BadArgument, match=words):
        RewardEnsemble.from_endpoints({"aesthetic": target}, weights={"aesthetic": 1.0})


@given(st.text(max_size=20))
def test_any_text_is_an_address_or_refused_in_words(text: str) -> None:
    with contextlib.suppress(BadArgument):
        assert address(text) == text


def test_loopback_is_told_from_other_machines() -> None:
    assert all(map(is_loopback, ("localhost:1", "127.9.9.9:1", "[::1]:1", "unix:/a", "dns:///localhost:1")))
    assert not any(map(is_loopback, ("10.0.0.1:1", "localhost.evil.com:1", "a.localhost:1", "127.0.0.1.evil:1")))


_CLIENT = """
import sys, numpy as np
from sync_r1.trainer_client import ClientSettings, Sample, SyncRewardClient, Timeout, picture
with SyncRewardClient(sys.argv[1], ClientSettings(Timeout(20, 2))) as client:
    try:
        print(client.score([Sample(image=picture(np.full((4, 4, 3), 7, np.uint8)))]).outcomes[0].value)
    except Exception as error:
        print(type(error).__name__, error)
"""


async def _with_a_dead_proxy(target: str) -> str:
    """What a client in a process of its own says, where http_proxy names a proxy that is not there."""
    env = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _CLIENT, target, env=env | {"http_proxy": "http://127.0.0.1:9"}, stdout=subprocess.PIPE,
    )  # fmt: skip
    out, _ = await asyncio.wait_for(process.communicate(), 120)
    return out.decode()


async def test_loopback_never_goes_through_a_proxy() -> None:
    service = await ScriptedService().start()
    for host in ("127.0.0.1", "localhost", "dns:///localhost"):
        assert (await _with_a_dead_proxy(f"{host}:{service.port}")).startswith("7.0")
    await service.stop()


async def test_proxy_in_the_way_of_another_machine_is_named() -> None:
    said = await _with_a_dead_proxy("192.0.2.1:9001")
    assert "ServiceUnreachable nothing answers at 192.0.2.1:9001" in said
    assert "http_proxy is set, so gRPC goes through that proxy unless no_proxy lists the host" in said


# --- commands -----------------------------------------------------------------------------------------------------


async def _command(*arguments: str) -> tuple[int, str]:
    """On a thread of its own, since commands run an event loop."""
    result = await asyncio.to_thread(CliRunner().invoke, app, arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


async def test_commands_at_an_absent_service_or_a_wrong_address_end_in_one_sentence(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"id": "1", "image": "a.png"}) + "\n")
    service = await ScriptedService().start()
    await service.stop()
    for where, words in ((service.target, "nothing answers"), ("http://x:1", "without the scheme"), ("x", "no port")):
        for command in (
            ["score", "aesthetic", "--input", str(rows), "--output", str(tmp_path / "out"), "--endpoint", where],
            ["compare", "a", "b", "--input", str(rows), "--endpoint", where],
            ["describe", where],
        ):
            code, out = await _command(*command)
            assert (code, words in out.replace("\n", "")) == (1, True), out


async def test_comparison_in_which_nothing_was_scored_is_no_normal_end(tmp_path: Path) -> None:
    service = await ScriptedService(required_fields=("image", "answer")).start()
    (tmp_path / "a.png").write_bytes(b"not a picture, but sent as it is")
    rows = tmp_path / "rows.jsonl"
    ask = ("compare", "mean", "mean", "--input", str(rows), "--endpoint", service.target)
    rows.write_text(json.dumps({"id": "1", "image": "a.png", "answer": "yes"}) + "\n")
    assert (await _command(*ask))[0] == 0
    rows.write_text(json.dumps({"id": "1", "image": "a.png"}) + "\n")
    code, out = await _command(*ask)
    assert (code, "no item was scored by both" in out) == (3, True)
    await service.stop()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "seed=-1"], "key 'seed'"), (["--set", "score_timeout_s=.inf"], "key 'score_timeout_s'"),
        (["--set", "rewards.aesthetic.weight=.inf"], "weight"),
        (["--set", "outage_budget_s=1000000000000"], "outage_budget_s"),
        (["--set", "objective.beta=.nan"], "key 'objective.beta'"), (["--set", "optimiser.betas=[0.9, 1.5]"], "betas"),
        (["--set", "selector.weights={aesthetic: -1}"], "weights"),
        (["--set", "evaluation.seed=-1"], "evaluation.seed"),
        (["--set", "sampling.prompts=3", "--world-size", "4"], "too few for 4 processes"),
        (["--set", "combination=gdpo", "--world-size", "2"], "gdpo"),
    ],
)  # fmt: skip
async def test_check_refuses_what_no_run_can_mean(arguments: list[str], words: str) -> None:
    code, out = await _command("train", "--check", *arguments)
    assert (code, words in out.replace("\n", " "), "sound" in out) == (1, True, False), out

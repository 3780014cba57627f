"""What docs/fault-drills.md tells a user to do by hand works as it stands, and shows what the page says."""

from __future__ import annotations

import ast
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "fault-drills.md").read_text()
BIN = Path(sys.executable).parent


def _free_ports() -> int:
    """The first of a hundred ports that nobody uses, most likely."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return min(int(probe.getsockname()[1]), 65400)


def _block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    return found[1]


def _until(holds: Callable[[], object], more: Callable[[], str] = str) -> None:
    for _ in range(1200):
        if holds():
            return
        time.sleep(0.1)
    pytest.fail(f"it did not come true in two minutes{more()}")


class Terminal:
    """A command of the page, running, with what it has said."""

    def __init__(self, command: str, folder: Path) -> None:
        self._log = folder / f"{len(list(folder.iterdir()))}.log"
        environment = dict(os.environ, PATH=f"{BIN}:{os.environ['PATH']}", COLUMNS="200", PYTHONUNBUFFERED="1")
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                command.split("#")[0].split(), stdout=log, stderr=log, env=environment, cwd=folder
            )

    @property
    def said(self) -> str:
        return self._log.read_text()

    def until(self, holds: Callable[[str], object]) -> None:
        _until(lambda: holds(self.said), lambda: f"; the command said:\n{self.said[-3000:]}")

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(60)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str], Terminal]]:
    """Starts a command of the page; whatever still runs at the end of the test is ended."""
    started: list[Terminal] = []

    def begin(command: str) -> Terminal:
        started.append(Terminal(command, tmp_path))
        return started[-1]

    yield begin
    for terminal in reversed(started):
        if terminal.process.poll() is None:
            terminal.end()


def _counted(said: str) -> tuple[dict[str, int], dict[str, int]]:
    """Calls and attempts by the last line of the callers."""
    lines = re.findall(r"^calls: (\{.*\}) attempts: (\{.*\})$", said, re.MULTILINE)
    return (ast.literal_eval(lines[-1][0]), ast.literal_eval(lines[-1][1])) if lines else ({}, {})


@pytest.mark.slow
def test_the_page_can_be_replayed(start: Callable[[str], Terminal], tmp_path: Path) -> None:
    first = _free_ports()
    ports = {str(9001 + index): str(first + index) for index in range(5)}
    ports |= {str(9101 + index): str(first + 20 + index) for index in range(5)}

    def with_ports(text: str) -> str:
        return re.sub(r"\b9[01]0[1-5]\b", lambda port: ports[port[0]], text)

    up_command, serve_command, top_command = with_ports(_block("sh")).splitlines()
    (tmp_path / "callers.py").write_text(_block("python"))
    both = [with_ports("127.0.0.1:9004"), with_ports("127.0.0.1:9005")]
    up = start(up_command)
    up.until(lambda said: said.rstrip().endswith("┘"))
    triton = re.search(r"Triton +│ (\S+) +│ \S+ +│ (\d+)", up.said)
    assert triton is not None
    serve_command = serve_command.replace("TRITON", triton[1])
    second = start(serve_command)
    second.until(lambda said: "listens on" in said)
    callers = start(f"{sys.executable} callers.py 4 {' '.join(both)}")
    callers.until(lambda said: _counted(said)[0].keys() == set(both))
    top = start(f"{top_command.split('#')[0]} --interval 0.5 --looks 1")
    assert top.process.wait(60) == 0
    assert top.said.count("│ ready") == 2

    second.end(signal.SIGKILL)
    callers.until(lambda said: _counted(said)[1].get("ServiceUnreachable", 0) > 0)
    share = _counted(callers.said)[0][both[1]]
    second = start(serve_command)
    callers.until(lambda said: _counted(said)[0][both[1]] > share)  # it gets its share back
    assert second.end() == 0
    assert "0 items are left in work" in second.said.splitlines()[-1]
    lines = callers.said.count("\n")
    callers.until(lambda said: said.count("\n") > lines + 1)
    assert _counted(callers.said)[0].keys() == set(both), "a call has failed"

    callers.end(signal.SIGKILL)
    page = with_ports("http://127.0.0.1:9104/metrics")
    cancelled = re.compile(r'^sync_r1_requests_total\{code="CANCELLED",.*\} [1-9]', re.MULTILINE)
    _until(lambda: cancelled.search(urllib.request.urlopen(page, timeout=20).read().decode()))

    second = start(serve_command)
    second.until(lambda said: "listens on" in said)
    os.kill(int(triton[2]), signal.SIGKILL)
    up.until(lambda said: "starting Triton again (1 of 3)" in said)
    second.until(lambda said: "now SERVING" in said.partition("NOT_SERVING")[2])  # by itself
    assert up.process.poll() is None

"""Live reward services for a run: those whose endpoints are given, or a child process that `sync-r1 up` starts.

The trainer talks to services over gRPC only and never imports them, so starting them means starting the command.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sync_r1.reward_models.child_process import ends_with_us
from sync_r1.reward_models.errors import SyncR1Error

START_TIMEOUT_S = 3600.0
"""`up` bounds its own steps by what it has to export and load, and ends with a reason; this is for one that hangs."""
STOP_TIMEOUT_S = 20.0


class ServicesError(SyncR1Error, RuntimeError):
    """The services could not be started; the message has the end of their log."""


def read_endpoints(file: Path) -> dict[str, str]:
    """{reward: "host:port"} from a file that `sync-r1 up --endpoints-file` wrote. Raises ServicesError."""
    try:
        endpoints = json.loads(file.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise ServicesError(f"cannot read endpoints from {file}: {error}; `sync-r1 up` writes such a file") from error
    if not isinstance(endpoints, dict) or not all(isinstance(target, str) for target in endpoints.values()):
        raise ServicesError(f'{file}: expected {{"reward name": "host:port", …}}, got {str(endpoints)[:80]}')
    return endpoints


@contextmanager
def live_services(
    profile: str, folder: Path, *, also: Sequence[str] = (), judges: str = "", timeout_s: float = START_TIMEOUT_S
) -> Iterator[dict[str, str]]:
    """Run `sync-r1 up` while the block lasts; gives {reward: "host:port"} once all of them are healthy.

    `also`: further profiles served beside it; `judges`: file of the judges' endpoints (docs/judges.md), "" = none. The
    output goes to `folder/services.log`. Raises ServicesError when it ends early or is not ready within
    `timeout_s`.
    """
    endpoints_file, log_file = folder / "endpoints.json", folder / "services.log"
    endpoints_file.unlink(missing_ok=True)
    command = [sys.executable, "-m", "sync_r1.cli.main", "up", "--profile", profile]
    command += ["--endpoints-file", str(endpoints_file)]
    command += [part for name in also for part in ("--also", name)] + (["--judges", judges] if judges else [])
    with log_file.open("ab") as log:
        # A session of its own: Ctrl-C then reaches the trainer only, which finishes its checkpoint before it stops the
        # services.
        process = subprocess.Popen(
            ends_with_us(command),
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    try:
        _wait(process, endpoints_file, log_file, timeout_s)
        yield read_endpoints(endpoints_file)
    finally:
        _stop(process)


def _wait(process: subprocess.Popen[bytes], endpoints_file: Path, log_file: Path, timeout_s: float) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not endpoints_file.exists():
        if process.poll() is not None:
            raise ServicesError(
                f"`sync-r1 up` ended with code {process.returncode}; its log {log_file} ends:\n{_tail(log_file)}"
            )
        if time.monotonic() > deadline_s:
            raise ServicesError(
                f"`sync-r1 up` was not ready within {timeout_s:g} s; its log {log_file} ends:\n{_tail(log_file)}"
            )
        time.sleep(0.1)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM drains; whoever is left after `STOP_TIMEOUT_S` is killed with its children."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _tail(log_file: Path) -> str:
    return "\n".join(log_file.read_text(errors="replace").splitlines()[-15:])

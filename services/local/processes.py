"""Child processes that never outlive their parent: how `up` and the embedded Triton start and stop programs.

Start children from a thread that lives as long as they should (the main thread): see `reward_models/child_process.py`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from sync_r1.reward_models.child_process import ends_with_us


def spawn(command: Sequence[str], *, log: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start `command` in a session of its own (a Ctrl-C reaches only us), with all its output appended to `log`."""
    with log.open("ab") as output:
        return subprocess.Popen(
            ends_with_us(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            start_new_session=True,
        )


def stop(process: subprocess.Popen[bytes], *, grace_s: float) -> int:
    """Ask the process to end (SIGTERM), wait up to `grace_s`, then kill its whole group. Returns its exit code."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace_s)
    # Its children (Triton's Python stubs) are in the same group; normally they are gone by now.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait(10)


def tail(log: Path, lines: int = 30) -> str:
    """The last lines of a log, indented, for an error message; tables are left out."""
    text = log.read_text(errors="replace") if log.exists() else ""
    last = [line for line in text.splitlines() if line.strip() and line[0] not in "+|"][-lines:]
    return "\n".join("    " + line[:400].rstrip() for line in last) or "    (nothing was logged)"


def children(pid: int) -> list[int]:
    """Processes that the threads of this one have started."""
    found: list[int] = []
    with contextlib.suppress(OSError):  # it ends
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                found += map(int, (thread / "children").read_text().split())
    return found


def state(pid: int) -> tuple[str, str]:
    """Name and state letter of a process; a process that is gone has ended."""
    try:
        name, _, rest = Path(f"/proc/{pid}/stat").read_text().partition("(")[2].rpartition(")")
    except OSError:
        return "", "X"
    return name, rest.split()[0]

"""Child processes that never outlive their parent: how `up` and the embedded Triton start and stop programs.

A child is started through a two-line Python launcher that asks the kernel to end it when its parent dies
(`PR_SET_PDEATHSIG`), then becomes the program. So nothing is left behind even when the parent is killed with SIGKILL.
The kernel ties that to the *thread* that started the child: start children from a thread that lives as long as they
should (the main thread).
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

# Runs before the program: 1 is PR_SET_PDEATHSIG. The parent may already be gone by then, hence the check of its pid.
_LAUNCHER = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, int(sys.argv[2]))
if os.getppid() != int(sys.argv[1]): sys.exit(1)
os.execv(sys.argv[3], sys.argv[3:])
"""


def spawn(command: Sequence[str], *, log: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start `command` in a session of its own (a Ctrl-C reaches only us), with all its output appended to `log`."""
    launcher = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), str(int(signal.SIGTERM))]
    with log.open("ab") as output:
        return subprocess.Popen(
            [*launcher, *command],
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

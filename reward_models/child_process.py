"""The one way to start a program that never outlives the process that started it, for services and trainer alike.

A two-line Python launcher asks the kernel to end it when its parent dies (`PR_SET_PDEATHSIG`), then becomes the
program, so nothing is left behind even when the parent is killed with SIGKILL. The kernel ties that to the *thread*
that started the child: start children from a thread that lives as long as they should (the main thread).
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

# Runs before the program: 1 is PR_SET_PDEATHSIG. The parent may already be gone by then, hence the check of its pid.
_LAUNCHER = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, int(sys.argv[2]))
if os.getppid() != int(sys.argv[1]): sys.exit(1)
os.execv(sys.argv[3], sys.argv[3:])
"""


def ends_with_us(command: Sequence[str], by: signal.Signals = signal.SIGTERM) -> list[str]:
    """`command` (its first part a path) so that the child gets a signal when the calling thread's process dies."""
    return [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), str(int(by)), *command]

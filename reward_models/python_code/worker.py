"""A worker: the process that loads one own function and calls it, until the service ends it or is gone.

`services/runners/python_worker.py` starts this module with the number of its end of a socket pair. It is told the
function, answers that it is ready or why not, and from then on answers each unit (some rows) with their outcomes;
before every further call that a unit takes it says that it goes on. What the function prints, and the trace of what it
raises, goes to the service's log by stdout and stderr.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

from sync_r1.reward_models.python_code import frames
from sync_r1.reward_models.python_code.calling import Caller
from sync_r1.reward_models.python_code.function import PythonFunction
from sync_r1.reward_models.python_code.loading import LoadError, load
from sync_r1.reward_models.types import RewardError

_FIRST_TO_GO = "1000"
"""Where memory runs out the kernel ends a worker, which is replaced, and not the service."""


class _TooLate(RewardError):
    """Nobody waits for the outcomes any more."""


class _Worker:
    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def run(self) -> None:
        """Until the service has closed its end."""
        first = frames.receive(self._connection.recv_into)
        if first is None:
            return
        told, _ = first
        sys.path[:] = told["path"]
        try:
            function = PythonFunction.from_json(told["function"])
            caller = Caller(function, load(function))
        except LoadError as error:
            self._say({"problem": str(error)})
            return
        self._say({"ready": True})
        while (unit := frames.receive(self._connection.recv_into)) is not None:
            self._say(self._answer(caller, *unit))

    def _answer(self, caller: Caller, unit: dict[str, Any], pixels: bytearray) -> dict[str, Any]:
        calls = 0

        def before_call() -> None:
            nonlocal calls
            if time.monotonic() > unit["deadline_s"]:
                raise _TooLate
            if calls:
                self._say({"goes_on": True})
            calls += 1

        try:
            rows = frames.read_rows(unit["rows"], unit["shapes"], pixels, caller.pictures)
            outcomes = caller.outcomes(rows, before_call)
        except _TooLate:
            return {"too_late": True}
        finally:
            sys.stdout.flush()
        told = [frames.write_outcome(outcome) for outcome in outcomes]
        return {"outcomes": told, "out_of_memory": caller.out_of_memory}

    def _say(self, message: dict[str, Any]) -> None:
        self._connection.sendall(b"".join(frames.frame(message)))


def main() -> None:
    """Entry point of the module."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_FIRST_TO_GO)
    faulthandler.enable()
    descriptor = int(sys.argv[1])
    os.set_inheritable(descriptor, False)
    sys.argv[1:] = []
    with contextlib.suppress(ConnectionError), socket.socket(fileno=descriptor) as connection:
        _Worker(connection).run()


if __name__ == "__main__":
    main()

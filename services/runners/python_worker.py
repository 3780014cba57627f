"""One worker process of an own function, seen from the service (`reward_models/python_code/worker.py` is its inside).

It is killed with its whole process group, and by the kernel when the thread that started it is gone. What it prints is
read all the time, logged up to a bound and dropped beyond it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import Any

from sync_r1.reward_models.child_process import ends_with_us
from sync_r1.reward_models.errors import SyncR1Error
from sync_r1.reward_models.python_code.frames import HEAD, Buffer, frame
from sync_r1.reward_models.python_code.function import PythonFunction
from sync_r1.reward_models.python_code.loading import LoadError

logger = logging.getLogger(__name__)

_MODULE = "sync_r1.reward_models.python_code.worker"
_MAX_REPLY_BYTES = 64 << 20
_MAX_PRINTED_BYTES = 64 << 20
"""Of one call; a function that prints more is ended."""
_LOGGED_BYTES, _LOGGED_EVERY_S, _LONGEST_LINE = 64 << 10, 60.0, 4000
_LAST_WORDS_S, _END_S = 0.5, 5.0


class WorkerLost(SyncR1Error):
    """The process is gone or was ended; the message is half a sentence that begins with a verb."""

    def __init__(self, reason: str, *, may_pass: bool = False) -> None:
        super().__init__(reason)
        self.may_pass = may_pass
        """Whether the same item may succeed another time."""


class PythonWorker:
    """A started worker. Used from the event loop that started it."""

    def __init__(self, function: PythonFunction) -> None:
        self._function = function
        self._replies: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self._reason = ""
        self._printed = 0
        self.exited = asyncio.Event()
        """Set once the process has ended."""

    @classmethod
    async def start(cls, function: PythonFunction) -> PythonWorker:
        """Start one and wait until it has loaded the function. Raises LoadError."""
        worker = cls(function)
        try:
            await worker._spawn()
            worker.send({"function": function.to_json(), "path": sys.path})
            told = await worker.reply(function.options.start_timeout_s)
            if "problem" in told:
                raise LoadError(told["problem"])
        except WorkerLost as lost:
            await worker.close()
            raise LoadError(f"{function.where}.function: {function} {lost} while it was loaded") from None
        except BaseException:
            await worker.close()
            raise
        return worker

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    def send(self, message: dict[str, Any], pixels: list[Buffer] | None = None) -> None:
        """Write a frame; nothing is raised where the process is gone, `reply` says so."""
        for part in frame(message, pixels or []):
            self._writer.write(part)

    async def reply(self, timeout_s: float) -> dict[str, Any]:
        """The next reply. Raises WorkerLost, where none came in time too."""
        try:
            told = await asyncio.wait_for(self._replies.get(), timeout_s)
        except asyncio.TimeoutError:
            self.end(f"did not answer within {timeout_s:g} s")
            told = None
        self._printed = 0
        if told is None:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.exited.wait(), _END_S)
            raise self.lost()
        return told

    def end(self, reason: str) -> None:
        """Kill it and what it started; the first reason is why it was lost."""
        self._reason = self._reason or reason
        with suppress(ProcessLookupError, PermissionError):  # it is gone with all that it started
            os.killpg(self._process.pid, signal.SIGKILL)

    def lost(self) -> WorkerLost:
        """Why it is gone."""
        if self._reason:
            return WorkerLost(self._reason)
        code = self._process.returncode
        if code is None:
            self.end("stopped talking")
            return WorkerLost(self._reason)
        if code == -signal.SIGKILL:
            return WorkerLost("was killed (SIGKILL, as happens where memory runs out)", may_pass=True)
        if code < 0:
            return WorkerLost(f"ended with {signal.Signals(-code).name}")
        return WorkerLost(f"ended its process with code {code}")

    async def close(self) -> None:
        """End it and forget it."""
        if not hasattr(self, "_process"):
            return
        self.end("was not needed any more")
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self.exited.wait(), _END_S)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._writer.close()
        self._output.close()

    async def _spawn(self) -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        with theirs:
            command = ends_with_us([sys.executable, "-m", _MODULE, str(theirs.fileno())], signal.SIGKILL)
            self._process = subprocess.Popen(  # noqa: ASYNC220 (the kernel ties it to this thread, the event loop's)
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                pass_fds=(theirs.fileno(),), start_new_session=True,
            )  # fmt: skip
        self._reader, self._writer = await asyncio.open_connection(sock=ours)
        printed = asyncio.StreamReader()
        self._output, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(printed), self._process.stdout
        )
        self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._hear(printed))]
        self._tasks.append(asyncio.create_task(self._watch(self._tasks[0])))

        def wait() -> None:
            self._process.wait()
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self.exited.set)

        threading.Thread(target=wait, name=f"wait-{self._process.pid}", daemon=True).start()

    async def _listen(self) -> None:
        """Replies, until its end of the socket is closed."""
        try:
            while True:
                text_size, size = HEAD.unpack(await self._reader.readexactly(HEAD.size))
                if text_size > _MAX_REPLY_BYTES or size:
                    self.end(f"answered with {text_size + size} bytes (at most {_MAX_REPLY_BYTES})")
                    return
                self._replies.put_nowait(json.loads(await self._reader.readexactly(text_size)))
        except ValueError:
            self.end("answered with something that is no reply")
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._replies.put_nowait(None)

    async def _watch(self, listening: asyncio.Task[None]) -> None:
        """A process that it started may hold its end of the socket open: then nothing comes any more either."""
        await self.exited.wait()
        await asyncio.wait({listening}, timeout=_LAST_WORDS_S)
        listening.cancel()

    async def _hear(self, printed: asyncio.StreamReader) -> None:
        """What it prints: lines for the log, and how many bytes."""
        room, since_s = _LOGGED_BYTES, time.monotonic()
        while chunk := await printed.read(1 << 16):
            self._printed += len(chunk)
            if self._printed > _MAX_PRINTED_BYTES:
                self.end(f"printed more than {_MAX_PRINTED_BYTES >> 20} MiB")
            if time.monotonic() - since_s > _LOGGED_EVERY_S:
                room, since_s = _LOGGED_BYTES, time.monotonic()
            if room > 0:
                for line in chunk[:room].decode(errors="replace").splitlines():
                    logger.info("worker %d of %s: %s", self.pid, self._function, line[:_LONGEST_LINE])
                room -= len(chunk)
                if room <= 0:
                    logger.warning("worker %d of %s prints too much; the rest is dropped", self.pid, self._function)

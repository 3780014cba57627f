"""`TritonSupervisor`: restarts the embedded Triton when it, or a Python process of one of its graphs, has ended.

Triton starts no other Python process for one that was killed (the kernel does that when memory runs out), goes on
saying "ready", and ends itself when one is stopped. A restart takes seconds, on the same port; fronts find it by
themselves.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType

from sync_r1.services.local.embedded import EmbeddedTriton, TritonStartError

RESTARTS, WINDOW_S = 3, 600.0
"""More restarts than this within so many seconds, and it is given up."""
_LOOK_S = 0.5


class TritonSupervisor:
    """Watches `triton`, which runs, until the block is left. `say` is told of each restart, one line."""

    def __init__(self, triton: EmbeddedTriton, say: Callable[[str], None] = lambda line: None) -> None:
        self._triton, self._say = triton, say
        self._over = threading.Event()
        # What a thread starts ends with it (`processes.py`): this one lives until the block is left.
        self._thread = threading.Thread(target=self._watch, name="triton-supervisor", daemon=True)
        self._restarted_s: deque[float] = deque()
        self._not_started = ""
        self.failure = ""
        """Why Triton was given up, one sentence; empty while it was not."""

    def __enter__(self) -> TritonSupervisor:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._triton.give_up_starting()
        self._thread.join()

    @property
    def restarts(self) -> int:
        """How often Triton was restarted within the window."""
        return len(self._restarted_s)

    def _watch(self) -> None:
        while not self._over.wait(_LOOK_S):
            if not self.failure and (trouble := self._not_started or self._triton.trouble()):
                self._restart(trouble)

    def _restart(self, trouble: str) -> None:
        now_s = time.monotonic()
        while self._restarted_s and now_s - self._restarted_s[0] > WINDOW_S:
            self._restarted_s.popleft()
        if len(self._restarted_s) >= RESTARTS:
            self.failure = (
                f"{trouble}, after {RESTARTS} restarts within {WINDOW_S / 60:.0f} minutes: it is given up; processes "
                "that are killed again and again mostly lack memory (`dmesg` says so): serve fewer graphs, or give more"
            )
            return
        self._restarted_s.append(now_s)
        self._say(f"Triton again ({len(self._restarted_s)} of {RESTARTS}): {trouble}")
        try:
            self._triton.restart()
            self._not_started = ""
        except (TritonStartError, OSError) as error:
            first = str(error).splitlines()[0].removesuffix(" The end of its log:").rstrip(".")
            self._not_started = f"the embedded Triton could not be started again ({first})"

"""`LoopLag`: how late the event loop comes to what is due, which is what every other call of the service waits too."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

EVERY_S = 0.05


class LoopLag:
    """From `start` to `stop`, tells `observe` every 50 ms how many seconds late the loop was."""

    def __init__(self, observe: Callable[[float], None]) -> None:
        self._observe = observe
        self._next: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Look from now on; on the loop that is running."""
        loop = asyncio.get_running_loop()
        due_s = loop.time() + EVERY_S

        def look() -> None:
            self._observe(max(0.0, loop.time() - due_s))
            self.start()

        self._next = loop.call_at(due_s, look)

    def stop(self) -> None:
        """No look from now on."""
        if self._next is not None:
            self._next.cancel()
            self._next = None

"""Where a step's time goes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Phases:
    """Seconds spent per phase of one step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {"gate": 0.0}
        """A run without a gate waits for none."""

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        started_s = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - started_s

"""The SDK for code without an event loop: scripts, torch training loops, notebooks.

Thin on purpose: each class owns one thread that runs an event loop, and hands it the async call. Because the loop is
not the caller's, this works inside Jupyter, where another loop already runs.
"""

from __future__ import annotations

import asyncio
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any, TypeVar

from sync_r1.reward_models.types import Sample
from sync_r1.trainer_client.sdk import lifecycle
from sync_r1.trainer_client.sdk.client import RewardClient
from sync_r1.trainer_client.sdk.description import ServiceDescription
from sync_r1.trainer_client.sdk.ensemble import EnsembleResult, RewardEnsemble
from sync_r1.trainer_client.sdk.errors import ClientMisused
from sync_r1.trainer_client.sdk.results import ScoredBatch
from sync_r1.trainer_client.sdk.settings import DEFAULT_SETTINGS, ClientSettings

Result = TypeVar("Result")
Self = TypeVar("Self", bound="_LoopThread")
_JOIN_S = 5.0


class _Runner:
    """A thread that runs an event loop, and whoever waits for it: they hear of its end, whatever ends it."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._waiting: set[Future[Any]] = set()
        self._ending = False
        self._thread = threading.Thread(target=self._run, name="sync-r1-client", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive() and not self._ending

    def call(self, work: Coroutine[Any, Any, Result]) -> Result:
        """The result of `work` on the loop. Raises what it raises, and ClientMisused when the thread ends meanwhile."""
        if threading.current_thread() is self._thread:
            work.close()
            raise ClientMisused("a sync client cannot be used on its own thread: it would wait for itself")
        try:
            future = asyncio.run_coroutine_threadsafe(work, self.loop)
        except RuntimeError as error:  # the loop was closed a moment ago
            work.close()
            raise ClientMisused("this client was closed by another thread as the call began") from error
        self._waiting.add(future)
        if not self.alive:  # it ended before it could see this one
            future.cancel()
        try:
            return future.result()  # bounded: every coroutine of the SDK ends by its own deadline
        except BaseException as error:
            if future.cancelled() and not self.alive:
                raise ClientMisused("the thread of this client ended while the call was under way") from error
            future.cancel()  # Ctrl-C while waiting must not leave the call running
            raise
        finally:
            self._waiting.discard(future)

    def end(self) -> None:
        """Stop the loop, end the thread and close the loop."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        if threading.current_thread() is not self._thread:
            self._thread.join(_JOIN_S)

    def _run(self) -> None:
        try:
            self.loop.run_forever()
        finally:
            self._ending = True
            left = asyncio.all_tasks(self.loop)
            for task in left:
                task.cancel()
            if left:
                self.loop.run_until_complete(asyncio.wait(left, timeout=_JOIN_S))
            self.loop.close()
            for future in list(self._waiting):
                future.cancel()


class _LoopThread(ABC):
    """An event loop on a thread of its own, started by the first call; leaving the context closes both."""

    def __init__(self) -> None:
        self._renew()

    def _renew(self) -> None:
        self._pid, self._lock = os.getpid(), threading.Lock()
        self._runner: _Runner | None = None

    def _run(self, work: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
        lifecycle.check_process()
        if self._pid != os.getpid():  # forked before anything was opened: the thread is the parent's
            self._renew()
        with self._lock:
            if self._runner is None or not self._runner.alive:
                self._runner = _Runner()
            runner = self._runner
        return runner.call(work())

    @abstractmethod
    async def _close(self) -> None:
        """Close what the loop runs."""

    def close(self) -> None:
        """Close the channels and end the thread; calling it twice does nothing.

        Calls under way on other threads end with ClientMisused; a later call opens everything again.
        """
        if self._pid != os.getpid():
            return  # channels and thread are the parent's
        with self._lock:
            runner, self._runner = self._runner, None
        if runner is not None and runner.alive:
            runner.call(self._close())
            runner.end()

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class SyncRewardClient(_LoopThread):
    """`RewardClient` without `await`; the same arguments, results and errors."""

    def __init__(self, endpoints: str | Sequence[str], settings: ClientSettings = DEFAULT_SETTINGS) -> None:
        self._client = RewardClient(endpoints, settings)
        super().__init__()

    def score(
        self, samples: Sequence[Sample], *, variant: str = "", release: str = "", timeout_s: float | None = None
    ) -> ScoredBatch:
        """See `RewardClient.score`."""
        return self._run(lambda: self._client.score(samples, variant=variant, release=release, timeout_s=timeout_s))

    def describe(self, *, refresh: bool = False, timeout_s: float | None = None) -> ServiceDescription:
        """See `RewardClient.describe`."""
        return self._run(lambda: self._client.describe(refresh=refresh, timeout_s=timeout_s))

    def wait_ready(self, timeout_s: float) -> None:
        """See `RewardClient.wait_ready`."""
        self._run(lambda: self._client.wait_ready(timeout_s))

    def stats(self) -> dict[str, Any]:
        """See `RewardClient.stats`."""
        return self._client.stats()

    async def _close(self) -> None:
        await self._client.close()


class SyncRewardEnsemble(_LoopThread):
    """`RewardEnsemble` without `await`. The ensemble and its clients must not be used on another event loop."""

    def __init__(self, ensemble: RewardEnsemble) -> None:
        self._ensemble = ensemble
        super().__init__()

    def score(self, samples: Sequence[Sample], *, timeout_s: float | None = None) -> EnsembleResult:
        """See `RewardEnsemble.score`."""
        return self._run(lambda: self._ensemble.score(samples, timeout_s=timeout_s))

    def wait_ready(self, timeout_s: float) -> None:
        """See `RewardEnsemble.wait_ready`."""
        self._run(lambda: self._ensemble.wait_ready(timeout_s))

    def stats(self) -> dict[str, dict[str, Any]]:
        """See `RewardEnsemble.stats`."""
        return self._ensemble.stats()

    async def _close(self) -> None:
        await self._ensemble.close()

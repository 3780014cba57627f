"""The SDK for code without an event loop: scripts, torch training loops, notebooks.

Thin on purpose: each class owns one thread that runs an event loop, and hands it the async call. Because the loop is
not the caller's, this works inside Jupyter, where another loop already runs.
"""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Sequence
from types import TracebackType
from typing import Any, TypeVar

from sync_r1.reward_models.types import Sample
from sync_r1.trainer_client.sdk.client import RewardClient
from sync_r1.trainer_client.sdk.description import ServiceDescription
from sync_r1.trainer_client.sdk.ensemble import EnsembleResult, RewardEnsemble
from sync_r1.trainer_client.sdk.results import ScoredBatch
from sync_r1.trainer_client.sdk.settings import DEFAULT_SETTINGS, ClientSettings

Result = TypeVar("Result")
Self = TypeVar("Self", bound="_LoopThread")


class _LoopThread(ABC):
    """An event loop on a thread of its own; leaving the context closes both."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="sync-r1-client", daemon=True)
        self._thread.start()

    def _run(self, work: Coroutine[Any, Any, Result]) -> Result:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()  # bounded: every coroutine of the SDK ends by its own deadline
        except BaseException:
            future.cancel()  # Ctrl-C while waiting must not leave the call running
            raise

    @abstractmethod
    async def _close(self) -> None:
        """Close what the loop runs."""

    def close(self) -> None:
        """Close the channels and end the thread; calling it twice does nothing."""
        if self._thread.is_alive():
            self._run(self._close())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(timeout=5)
            self._loop.close()

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
        return self._run(self._client.score(samples, variant=variant, release=release, timeout_s=timeout_s))

    def describe(self, *, refresh: bool = False, timeout_s: float | None = None) -> ServiceDescription:
        """See `RewardClient.describe`."""
        return self._run(self._client.describe(refresh=refresh, timeout_s=timeout_s))

    def wait_ready(self, timeout_s: float) -> None:
        """See `RewardClient.wait_ready`."""
        self._run(self._client.wait_ready(timeout_s))

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
        return self._run(self._ensemble.score(samples, timeout_s=timeout_s))

    def wait_ready(self, timeout_s: float) -> None:
        """See `RewardEnsemble.wait_ready`."""
        self._run(self._ensemble.wait_ready(timeout_s))

    def stats(self) -> dict[str, dict[str, Any]]:
        """See `RewardEnsemble.stats`."""
        return self._ensemble.stats()

    async def _close(self) -> None:
        await self._ensemble.close()

"""`RewardEnsemble`: several rewards asked at once, and one total for each item.

    samples ─┬▶ concept-consistency ──────┐
             ├▶ text-faithfulness ────────┤   raw ─▶ [0, 1] ─▶ failure policy ─▶ combination ─▶ total_N, valid_N
             ├▶ understanding-correctness ┤
             └▶ aesthetic ────────────────┘

A score that failed is never a number: arrays hold NaN where their mask says False, so index with the mask
(`total_N[valid_N]`), never multiply by it. Policies act before any baseline is computed from the group.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from sync_r1.reward_models.types import Sample
from sync_r1.trainer_client.sdk import bounds, lifecycle, tracing
from sync_r1.trainer_client.sdk import combination as combine
from sync_r1.trainer_client.sdk.client import RewardClient
from sync_r1.trainer_client.sdk.combination import Bools, Floats, Ints
from sync_r1.trainer_client.sdk.ensemble_result import EnsembleResult, RewardResult, nothing_scored, reward_result
from sync_r1.trainer_client.sdk.errors import (
    BadArgument,
    RequestRejected,
    RewardClientError,
    RewardFailed,
    without_frames,
)
from sync_r1.trainer_client.sdk.presets import preset_named
from sync_r1.trainer_client.sdk.reward_use import FailurePolicy, RewardUse, named_use, reward_of
from sync_r1.trainer_client.sdk.sample_checks import call_arguments
from sync_r1.trainer_client.sdk.settings import DEFAULT_SETTINGS, ClientSettings

__all__ = ["Combination", "EnsembleResult", "RewardEnsemble", "RewardResult"]

Combination = Literal["weighted_sum", "gdpo"]


class RewardEnsemble:
    """Asks every reward at once and combines the answers."""

    def __init__(
        self, rewards: Mapping[str, tuple[RewardClient, RewardUse]], *, combination: Combination = "weighted_sum"
    ) -> None:
        """`rewards`: reward, as its service calls itself, or `REWARD/VARIANT` -> (client, how it takes part).

        Uses of one service may share a client. Raises ValueError for a name and a use that disagree on the variant.
        """
        if not any(use.weight > 0 for _, use in rewards.values()):
            raise BadArgument("expected at least one reward with a weight > 0")
        if combination not in ("weighted_sum", "gdpo"):
            raise BadArgument(f"expected the combination 'weighted_sum' or 'gdpo', got {combination!r}")
        self.rewards = {name: (client, named_use(name, use)) for name, (client, use) in rewards.items()}
        self.combination = combination
        self._calls = lifecycle.Calls()

    @classmethod
    def from_endpoints(
        cls,
        endpoints: Mapping[str, str | Sequence[str]],
        *,
        preset: str = "default",
        weights: Mapping[str, float] | None = None,
        policy: FailurePolicy = "drop_item",
        combination: Combination = "weighted_sum",
        settings: ClientSettings = DEFAULT_SETTINGS,
    ) -> RewardEnsemble:
        """An ensemble of the rewards of `preset` (`presets.py`), or of those named in `weights`, at reward name ->
        "host:port" (or several replicas').
        """
        uses = preset_named(preset).uses if weights is None else {name: RewardUse(w) for name, w in weights.items()}
        wanted = {reward_of(name) for name in uses}
        if missing := wanted - endpoints.keys():
            raise BadArgument(f"no endpoint for {sorted(missing)}; endpoints are given for {sorted(endpoints)}")
        clients = {reward: RewardClient(endpoints[reward], settings) for reward in wanted}
        return cls(
            {name: (clients[reward_of(name)], replace(use, policy=policy)) for name, use in uses.items()},
            combination=combination,
        )

    async def wait_ready(self, timeout_s: float) -> None:
        """Return once every service is ready. Raises ServiceUnreachable naming the one that is not, RequestRejected
        for one that does not offer the variant that is wanted of it.
        """
        timeout_s = bounds.seconds("timeout_s", timeout_s)
        await self._calls.run(self._wait_ready(timeout_s))

    async def _wait_ready(self, timeout_s: float) -> None:
        await asyncio.gather(*(client.wait_ready(timeout_s) for client in self._clients))
        for name, (client, use) in self.rewards.items():
            offered = (await client.describe(timeout_s=timeout_s)).variants
            if use.variant and use.variant not in offered:
                raise RequestRejected(
                    f"{reward_of(name)} at {client.endpoints} has no variant {use.variant!r}, which {name!r} of this "
                    f"ensemble needs; it has {sorted(offered)}. Serve a profile that has it, or choose another"
                )

    def only(self, names: Collection[str]) -> RewardEnsemble:
        """The same clients, weights and policies, for some of the rewards. Raises ValueError when none has a weight."""
        return RewardEnsemble(
            {name: reward for name, reward in self.rewards.items() if name in names}, combination=self.combination
        )

    async def close(self) -> None:
        """Close every client; calls under way end with ClientMisused, a later call opens them again."""
        await asyncio.gather(*(client.close() for client in self._clients))

    @property
    def _clients(self) -> set[RewardClient]:
        return {client for client, _ in self.rewards.values()}

    def stats(self) -> dict[str, dict[str, Any]]:
        """Reward name -> what its client has done so far (`RewardClient.stats`)."""
        return {name: client.stats() for name, (client, _) in self.rewards.items()}

    async def score(self, samples: Sequence[Sample], *, timeout_s: float | None = None) -> EnsembleResult:
        """Score N samples with every reward at once; takes as long as the slowest, at most `timeout_s`.

        Raises RewardFailed for a failed item, and the RewardClientError of a failed call, of a reward whose policy is
        `required`. A RequestRejected (unknown variant, wrong service on a port) is raised whatever the policy, unless
        the reward is only monitored: it would fail every time. BadArgument and ClientMisused as `RewardClient.score`.
        """
        samples = call_arguments(samples, "", "")
        if timeout_s is not None:
            timeout_s = bounds.seconds("timeout_s", timeout_s)
        return await self._calls.run(self._score(samples, timeout_s))

    async def _score(self, samples: Sequence[Sample], timeout_s: float | None) -> EnsembleResult:
        started_s = time.monotonic()
        with tracing.span("sync_r1.ensemble", items=len(samples)):
            tasks = [
                asyncio.ensure_future(self._score_one(name, client, use, samples, timeout_s))
                for name, (client, use) in self.rewards.items()
            ]
            try:
                results = dict(zip(self.rewards, await asyncio.gather(*tasks)))
            finally:
                while tasks:  # none is kept: a failed one holds its error, whose frames hold the samples
                    tasks.pop().cancel()
        groups_N = combine.group_numbers([_group(sample) for sample in samples])
        contributions, total_N, valid_N = self._combine(results, groups_N)
        return EnsembleResult(results, contributions, total_N, valid_N, groups_N, time.monotonic() - started_s)

    async def _score_one(
        self, name: str, client: RewardClient, use: RewardUse, samples: Sequence[Sample], timeout_s: float | None
    ) -> RewardResult:
        started_s = time.monotonic()
        if use.timeout_s is not None:
            timeout_s = use.timeout_s if timeout_s is None else min(timeout_s, use.timeout_s)
        try:
            batch = await client.score(samples, variant=use.variant, release=use.release, timeout_s=timeout_s)
            if batch.reward != reward_of(name):
                raise RequestRejected(
                    f"expected {reward_of(name)} at {client.endpoints}, but {batch.reward} answers there"
                )
            result = reward_result(batch, use.affine)
        except RewardClientError as error:
            fatal = use.policy == "required" or (isinstance(error, RequestRejected) and use.policy != "monitor_only")
            if fatal:
                raise
            without_frames(error)  # the result keeps it
            return nothing_scored(reward_of(name), use, len(samples), error, time.monotonic() - started_s)
        if use.policy == "required" and result.failures:
            position, failure = next(iter(result.failures.items()))
            raise RewardFailed(
                f"{name} could not score {len(result.failures)} of {len(samples)} samples; first samples[{position}] "
                f"(id {getattr(samples[position], 'id', '')!a:.60}): {failure.code.value} {failure.field}, "
                f"{failure.message}"
            )
        return result

    def _combine(self, results: Mapping[str, RewardResult], groups_N: Ints) -> tuple[dict[str, Floats], Floats, Bools]:
        uses = {name: use for name, (_, use) in self.rewards.items() if use.policy != "monitor_only"}
        failed_R_N = np.stack([results[name].failed_N for name in uses])
        scores_R_N = np.stack([results[name].scores_N for name in uses])
        weights_R = np.array([use.weight for use in uses.values()])
        kept_N = combine.kept_items(failed_R_N, [use.policy for use in uses.values()], groups_N)
        counted_R_N = np.stack([results[name].valid_N for name in uses]) & kept_N
        if self.combination == "gdpo":
            contributions_R_N = combine.gdpo(scores_R_N, counted_R_N, weights_R, groups_N)
        else:
            contributions_R_N = combine.weighted_sum(scores_R_N, counted_R_N, weights_R)
        total_N = contributions_R_N.sum(0)
        return dict(zip(uses, contributions_R_N)), total_N, np.isfinite(total_N)


def _group(sample: Sample) -> str:
    """Its group; an item whose group is no text has failed and stands alone."""
    group = getattr(sample, "group", "")
    return group if isinstance(group, str) else ""

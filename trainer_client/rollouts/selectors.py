"""The selectors that act after the reward, and the one that a configuration asks for.

`NoSelection` learns from everything, `DynamicSampling` (DAPO) drops groups without spread, `MaxVariance` (PODS) keeps
part of each group; `dgs.py` has the gate on previews. A new selector is a class with its configuration in
`config/selectors.py` and its behaviour in this folder, named in `_MAKERS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from sync_r1.reward_models.cards import BUILT_IN_REWARDS, Part
from sync_r1.trainer_client.config import DapoConfig, DgsConfig, PlainConfig, PodsConfig, SelectorConfig
from sync_r1.trainer_client.rollouts.dgs import DynamicGroupScaling
from sync_r1.trainer_client.rollouts.plain_groups import NoSelection
from sync_r1.trainer_client.rollouts.selection import (
    Selected,
    Selector,
    max_variance_subset,
)
from sync_r1.trainer_client.sdk.combination import Bools, Floats, Ints

_MEMORY = 0.8
"""Weight of the past in the running share of informative groups."""


class DynamicSampling(NoSelection):
    """DAPO's dynamic sampling (arXiv 2503.14476): groups whose rewards do not differ teach nothing and are dropped, and
    others are drawn in their place.

    DAPO samples again, within the step, until the batch is full. Here the step draws more groups from the start, as
    many as the running share of informative ones asks for and at most `max_rounds` times `prompts`, and what is more
    than `prompts` enters the loss as well. The batch then has the wanted size on average instead of exactly; in return
    a step stays one round of sampling and one of scoring, which overlap. DAPO's rewards are 0 or 1, so "do not differ"
    is exact there; these rewards are continuous, so it is a standard deviation of at most `min_std`.
    """

    def __init__(self, config: DapoConfig, group_size: int) -> None:
        super().__init__(group_size)
        self.config = config
        self._informative = 1.0

    def groups(self, prompts: int) -> int:
        return min(math.ceil(prompts / self._informative), prompts * self.config.max_rounds)

    def choose(self, groups_N: Ints, rewards_N: Floats, valid_N: Bools, rng: np.random.Generator) -> Bools:
        """Valid members of groups with spread. Updates the running share."""
        chosen_N = np.zeros(len(groups_N), np.bool_)
        informative = []
        for group in np.unique(groups_N[valid_N]):
            members_N = (groups_N == group) & valid_N
            informative.append(float(rewards_N[members_N].std()) > self.config.min_std)
            chosen_N |= members_N & informative[-1]
        if informative:
            share = float(np.mean(informative))
            # Never 0: `groups` divides by it, and its bound decides then.
            self._informative = max(_MEMORY * self._informative + (1 - _MEMORY) * share, 1e-3)
        return chosen_N

    def observe(self, selected: Selected, total_N: Floats, image_N: Floats, valid_N: Bools) -> dict[str, float]:
        return {"informative_groups": self._informative}

    def state_dict(self) -> dict[str, Any]:
        return {"informative": self._informative}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._informative = float(state["informative"])


class MaxVariance(NoSelection):
    """PODS (arXiv 2504.13818): finish `candidates` trajectories per group and learn from the `group_size` of them whose
    rewards vary most; advantages are taken within those. Sampling is cheap beside the update, so this buys contrast.
    """

    def __init__(self, config: PodsConfig, group_size: int) -> None:
        super().__init__(config.candidates)
        self._kept = group_size

    def choose(self, groups_N: Ints, rewards_N: Floats, valid_N: Bools, rng: np.random.Generator) -> Bools:
        chosen_N = np.zeros(len(groups_N), np.bool_)
        for group in np.unique(groups_N[valid_N]):
            members = np.flatnonzero((groups_N == group) & valid_N)
            chosen_N[members[max_variance_subset(rewards_N[members], self._kept)]] = True
        return chosen_N


_Maker = Callable[[Any, int, np.random.Generator, Mapping[str, Part]], Selector]
_MAKERS: dict[type, _Maker] = {
    PlainConfig: lambda config, group_size, rng, judges: NoSelection(group_size),
    DgsConfig: DynamicGroupScaling,
    DapoConfig: lambda config, group_size, rng, judges: DynamicSampling(config, group_size),
    PodsConfig: lambda config, group_size, rng, judges: MaxVariance(config, group_size),
}


def make_selector(
    config: SelectorConfig,
    group_size: int,
    rng: np.random.Generator,
    judges: Mapping[str, Part] = BUILT_IN_REWARDS,
) -> Selector:
    """The selector that `config` asks for; `rng` makes the random choices of its rollouts, which differ by process.

    `judges`: reward -> which part of a trajectory it judges, for a gate.
    """
    return _MAKERS[type(config)](config, group_size, rng, judges)

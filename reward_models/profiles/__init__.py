"""Profiles: which graphs there are, and which variants of which reward run them.

    profile = load_profile("pocket")
    profile.rewards["concept-consistency"].variants["dino"].score(samples, runner, context)

A profile is a YAML file (`files.py` says what may stand in it, `reading.py` what it takes from others); `*.yaml` beside
this file are built in. Reading one loads and exports nothing: digests of graph files are computed when a release is
first asked for. Cards say then already which graphs were exported with random weights.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

from sync_r1.reward_models.cards import BUILT_IN_REWARDS, Part
from sync_r1.reward_models.graphs.spec import GraphSpec
from sync_r1.reward_models.profiles.files import ProfileFile
from sync_r1.reward_models.profiles.graph_origins import graph_spec
from sync_r1.reward_models.profiles.reading import profile_path, read_profile
from sync_r1.reward_models.profiles.variant_files import VariantFile
from sync_r1.reward_models.profiles.variants import build_reward
from sync_r1.reward_models.releases import Release
from sync_r1.reward_models.rewards.base import Reward
from sync_r1.reward_models.types import ProfileError, UnknownVariant


@dataclass(frozen=True)
class ServedReward:
    """One reward as a profile serves it."""

    name: str
    judges: Part
    """Which part of a trajectory it is credit for."""
    default_variant: str
    variants: dict[str, Reward]
    graphs: dict[str, GraphSpec]
    """All graphs of the profile."""

    @cached_property
    def releases(self) -> dict[str, Release]:
        """Variant -> the release that scores it. Raises GraphFileMissing when a weights file is absent or changed."""
        return {name: self.release(name) for name in self.variants}

    def release(self, variant: str) -> Release:
        """The release of one variant; reads only the graphs it needs. Raises UnknownVariant and GraphFileMissing."""
        if variant not in self.variants:
            raise UnknownVariant(f"{self.name} has no variant {variant!r}; it has {sorted(self.variants)}")
        reward = self.variants[variant]
        pins = tuple(self.graphs[graph].pin for graph in reward.graphs)
        return Release(self.name, variant, reward.card.formula_version, pins)


@dataclass(frozen=True)
class Profile:
    """Graphs and rewards by name."""

    name: str
    graphs: dict[str, GraphSpec]
    rewards: dict[str, ServedReward]


def load_profile(name_or_path: str, *, before_fetch: bool = False) -> Profile:
    """Read a profile: the name of a built-in one ("pocket") or the path of a YAML file. Raises ProfileError.

    `before_fetch`: own graph files that are absent are not missed yet, because a bundle brings them.
    """
    path = profile_path(name_or_path)
    file, own_graphs = read_profile(path)
    try:
        return build_profile(file, own_graphs, before_fetch=before_fetch)
    except ProfileError as error:
        raise ProfileError(f"profile {path}: {error}") from error


def build_profile(file: ProfileFile, own_graphs: Collection[str] = (), *, before_fetch: bool = False) -> Profile:
    """Graphs and rewards of a whole file (`reading.py`); graphs not in `own_graphs` only if a variant runs them.

    Raises ProfileError.
    """
    graphs = {name: graph_spec(name, graph, before_fetch=before_fetch) for name, graph in file.graphs.items()}
    rewards = {}
    for name, reward in file.rewards.items():
        judges = reward.judges or BUILT_IN_REWARDS[name]
        variants = {variant: _variant(name, judges, variant, one, graphs) for variant, one in reward.variants.items()}
        rewards[name] = ServedReward(name, judges, reward.default, variants, graphs)
    used = {graph for served in rewards.values() for reward in served.variants.values() for graph in reward.graphs}
    for name in set(graphs) - used - set(own_graphs):
        del graphs[name]
    return Profile(file.name, graphs, rewards)


def _variant(name: str, judges: Part, variant: str, file: VariantFile, graphs: dict[str, GraphSpec]) -> Reward:
    """One variant of the reward `name`. Raises ProfileError for one that cannot see what its reward judges."""
    where = f"rewards.{name}.variants.{variant}"
    try:
        reward = build_reward(name, variant, file, graphs)
    except ProfileError as error:
        raise ProfileError(f"{where}: {error}") from error
    required = reward.card.required_fields
    if judges == "answer" and "image" in required:  # an answer is also scored where no picture is drawn of it
        raise ProfileError(f"{where}: {name} judges answers, but this variant needs the picture (`image`)")
    if judges == "picture" and "image" not in required:
        raise ProfileError(f"{where}: {name} judges pictures, but this variant sees none, only {', '.join(required)}")
    return reward

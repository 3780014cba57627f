"""Profiles: which graphs there are, and which variants of which reward run them.

    profile = load_profile("pocket")
    profile.rewards["concept-consistency"].variants["dino"].score(samples, runner, context)

A profile is a YAML file (`files.py` says what may stand in it); `*.yaml` beside this file are built in. Reading one
loads and exports nothing: digests of graph files are computed when a release is first asked for. Cards say then already
which graphs were exported with random weights.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from sync_r1.reward_models.graphs.spec import GraphSpec
from sync_r1.reward_models.profiles.files import ProfileFile
from sync_r1.reward_models.profiles.graph_origins import graph_spec
from sync_r1.reward_models.profiles.variants import build_reward
from sync_r1.reward_models.releases import Release
from sync_r1.reward_models.rewards.base import Reward
from sync_r1.reward_models.types import ProfileError, UnknownVariant

_BUILT_IN = Path(__file__).parent


@dataclass(frozen=True)
class ServedReward:
    """One of the four rewards as a profile serves it."""

    name: str
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


def load_profile(name_or_path: str) -> Profile:
    """Read a profile: the name of a built-in one ("pocket") or the path of a YAML file. Raises ProfileError."""
    built_in = _BUILT_IN / f"{name_or_path}.yaml"
    path = built_in if built_in.is_file() else Path(name_or_path)
    if not path.is_file():
        names = sorted(file.stem for file in _BUILT_IN.glob("*.yaml"))
        raise ProfileError(f"there is no profile {name_or_path!r}: neither a file nor one of {names}")
    try:
        raw = yaml.safe_load(path.read_text())
        own = set(raw.get("graphs") or {}) if isinstance(raw, dict) else set()
        return build_profile(ProfileFile.model_validate(_with_base(raw)), own)
    except (ValidationError, yaml.YAMLError, ProfileError) as error:
        raise ProfileError(f"profile {path}: {error}") from error


def _with_base(raw: Any) -> Any:
    """A file's content with the graphs and rewards of its base that it does not state itself."""
    if not (isinstance(raw, dict) and raw.get("base")):
        return raw
    path = _BUILT_IN / f"{raw['base']}.yaml"
    if not path.is_file():
        raise ProfileError(f"there is no built-in profile {raw['base']!r} to be its `base`")
    base = _with_base(yaml.safe_load(path.read_text()))
    return raw | {part: base[part] | (raw.get(part) or {}) for part in ("graphs", "rewards")}


def build_profile(file: ProfileFile, own: Collection[str] = ()) -> Profile:
    """Graphs and rewards of a validated file; graphs not in `own` only if a variant runs them. Raises ProfileError."""
    graphs = {name: graph_spec(name, graph) for name, graph in file.graphs.items()}
    rewards = {}
    for field, info in type(file.rewards).model_fields.items():
        reward, name = getattr(file.rewards, field), str(info.alias or field)
        variants = {variant: build_reward(name, variant, one, graphs) for variant, one in reward.variants.items()}
        rewards[name] = ServedReward(name, reward.default, variants, graphs)
    used = {graph for served in rewards.values() for reward in served.variants.values() for graph in reward.graphs}
    for name in set(graphs) - used - set(own):
        del graphs[name]
    return Profile(file.name, graphs, rewards)

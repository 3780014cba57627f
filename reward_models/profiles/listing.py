"""What a profile offers, variant by variant, for `sync-r1 rewards`: nothing is served, exported or run to say it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sync_r1.reward_models.cards import Part
from sync_r1.reward_models.graphs.spec import GraphSpec
from sync_r1.reward_models.profiles import load_profile
from sync_r1.reward_models.profiles.reading import profile_path, read_profile

Weights = Literal["at hand", "absent", "random", "none", "endpoint", "function"]
"""`random`: exported to try it out. `none`: a formula without a model. `endpoint`: a judge has them, wherever it runs.
`function`: what an own function needs, it alone knows.
"""


@dataclass(frozen=True)
class ListedVariant:
    """One variant of one reward."""

    reward: str
    judges: Part
    variant: str
    is_default: bool
    kind: str
    """As the profile says it: what scores."""
    summary: str
    required: tuple[str, ...]
    """Paths in `Sample`."""
    optional: tuple[str, ...]
    """Paths in `Sample` that it reads where an item has them."""
    raw_min: float
    raw_max: float
    affine_scale: float
    affine_shift: float
    weights: Weights
    graphs: tuple[str, ...]
    absent: tuple[str, ...]
    """For each graph whose file is not there: its name, and the cure."""


def list_variants(name_or_path: str) -> list[ListedVariant]:
    """All variants of a profile in the order in which they are served. Raises ProfileError, and GraphFileMissing for a
    damaged record of an export. An own graph file that is not there is absent, as any other is.
    """
    profile = load_profile(name_or_path, before_fetch=True)
    file, _ = read_profile(profile_path(name_or_path))
    listed = []
    for served in profile.rewards.values():
        for variant, reward in served.variants.items():
            card, graphs = reward.card, [served.graphs[graph] for graph in reward.graphs]
            absent = tuple(f"graph {graph.name!r}: {graph.absent}" for graph in graphs if graph.absent)
            listed.append(
                ListedVariant(
                    reward=served.name,
                    judges=served.judges,
                    variant=variant,
                    is_default=variant == served.default_variant,
                    kind=file.rewards[served.name].variants[variant].kind,
                    summary=card.summary,
                    required=card.required_fields,
                    optional=reward.optional_fields,
                    raw_min=card.raw_min,
                    raw_max=card.raw_max,
                    affine_scale=card.affine_scale,
                    affine_shift=card.affine_shift,
                    weights=_weights(graphs),
                    graphs=reward.graphs,
                    absent=absent,
                )
            )
    return listed


def _weights(graphs: Sequence[GraphSpec]) -> Weights:
    if not graphs:
        return "none"
    if any(graph.absent for graph in graphs):
        return "absent"
    if any(graph.random_weights for graph in graphs):
        return "random"
    if any(graph.judge is not None for graph in graphs):
        return "endpoint"
    return "function" if any(graph.python is not None for graph in graphs) else "at hand"

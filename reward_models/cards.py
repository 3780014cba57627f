"""Cards: what a variant measures, where its definition comes from, and what it must not be used for.

`Describe` serves them, the docs are generated from them, and the trainer maps raw scores to [0, 1] with them.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Literal

Part = Literal["picture", "answer"]
"""Of a trajectory: what a reward judges, hence which tokens it is credit for."""
BUILT_IN_REWARDS: dict[str, Part] = {
    "concept-consistency": "picture",
    "text-faithfulness": "picture",
    "understanding-correctness": "answer",
    "aesthetic": "picture",
}
"""The rewards of the built-in profiles, in the order in which they are served, and what each judges."""


@dataclass(frozen=True)
class Card:
    """One variant of one reward, described."""

    reward: str
    """e.g. "concept-consistency"."""
    variant: str
    """e.g. "clip_i"."""
    summary: str
    """What it measures, in one line."""
    source: str
    """Paper or public code the definition comes from."""
    licence: str
    """Licence of the weights."""
    required_fields: tuple[str, ...]
    """Paths in `Sample`, e.g. "concept.references"."""
    raw_min: float
    """Lowest value the formula can give."""
    raw_max: float
    """Highest value the formula can give."""
    affine_scale: float
    """`unit = clip(raw * affine_scale + affine_shift, 0, 1)`."""
    affine_shift: float
    formula_version: str
    """Changes whenever the same graph outputs would give another score."""
    preprocessing: str = ""
    """What happens to the input before the graph, in one line."""
    preferred_image_size: int = 0
    """Longest side in pixels worth sending; 0 = pictures are not used."""
    groupwise: bool = False
    """Whether an item's score depends on the rest of its group."""
    validity: dict[str, float] = field(default_factory=dict)
    """Measured: name of the check -> figure."""
    validity_command: str = ""
    """The command that measures `validity` again."""
    failure_modes: tuple[str, ...] = ()
    """Known ways in which the number misleads."""

    def to_unit(self, raw: float) -> float:
        """Map a raw score to [0, 1] by the suggested affine map, clipped."""
        return min(1.0, max(0.0, raw * self.affine_scale + self.affine_shift))

    def to_json(self) -> str:
        """The whole card as a JSON object."""
        return json.dumps(asdict(self), sort_keys=True)

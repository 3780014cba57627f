"""The words of the domain: what is scored (`Sample`), and the three things that can come back.

A score is never a placeholder: an item ends as `Score`, `NotApplicable` or `Failure`, and only `Score` holds a number.

    Sample ──▶ Reward.score ──▶ Outcome = Score | NotApplicable | Failure

Errors of this package:

    RewardError
    ├── UnknownVariant      the reward has no such variant
    ├── UnknownRelease      no release with that digest is served
    ├── ProfileError        a profile does not exist or is not valid
    └── GraphError          a graph could not be run
        ├── GraphUnavailable    nobody answers; another replica may
        ├── GraphOverloaded     its queue is full; later may work
        └── GraphDeadline       the caller's time is up
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np
import numpy.typing as npt

from sync_r1.reward_models.errors import SyncR1Error

Pixels = npt.NDArray[np.uint8]
"""A decoded picture: uint8, (height, width, 3), RGB."""


class RewardError(SyncR1Error):
    """Base of everything this package raises on purpose."""


class UnknownVariant(RewardError):
    """The reward has no variant of that name; the message lists those it has."""


class UnknownRelease(RewardError):
    """No release with that digest is served; the message lists those that are."""


class ProfileError(RewardError):
    """The profile does not exist or is not valid; the message says where and why."""


class GraphError(RewardError):
    """A graph could not be run for a reason that concerns the whole call, not one item."""


class GraphUnavailable(GraphError):
    """Nobody answers where the graph should run; another replica may."""


class GraphOverloaded(GraphError):
    """The queue of the graph is full; a later call may succeed."""


class GraphDeadline(GraphError):
    """The caller's deadline passed before the graph answered."""


class RequestTooLong(GraphError):
    """The texts of the call are more than a service works on in one call; fewer items may do."""


class FailureCode(str, Enum):
    """Why one item has no score; the values equal the names in `rewards.proto` without their prefix."""

    BAD_IMAGE = "BAD_IMAGE"
    BAD_TEXT = "BAD_TEXT"
    MISSING_FIELD = "MISSING_FIELD"
    NON_FINITE = "NON_FINITE"
    JUDGE_UNPARSABLE = "JUDGE_UNPARSABLE"
    INTERNAL = "INTERNAL"
    BAD_REFERENCE = "BAD_REFERENCE"


@dataclass(frozen=True)
class Score:
    """A measured value on its variant's raw scale, and what it was made of. Both are finite."""

    value: float
    components: dict[str, float] = field(default_factory=dict)
    reason: str = ""
    """A judge's own words; empty where nobody was asked."""

    def __post_init__(self) -> None:
        for name, value in (("value", self.value), *self.components.items()):
            if not math.isfinite(value):
                raise ValueError(f"a score must be finite, but {name} is {value}; return a Failure instead")


@dataclass(frozen=True)
class NotApplicable:
    """The question does not apply to this item; neither a failure nor a zero."""

    reason: str


@dataclass(frozen=True)
class Failure:
    """This item could not be scored. `field` is the path of the offending field, e.g. `concept.references[2]`."""

    code: FailureCode
    message: str
    field: str = ""
    retryable: bool = False


Outcome = Score | NotApplicable | Failure


@dataclass(frozen=True)
class MissingReferences:
    """Between client and service only: the replica lacks the references with these digests, the item comes again."""

    sha256: tuple[str, ...]


@dataclass(frozen=True)
class Picture:
    """A decoded picture and the digest of the bytes it came from (work is shared between equal digests).

    Pictures of one digest are equal and hash alike, so they can be keys and be compared.
    """

    pixels: Pixels = field(compare=False)
    sha256: str

    def prepared(self, by: Callable[[Pixels], Any]) -> Any:
        """What `by` makes of the pixels."""
        return by(self.pixels)


@dataclass(frozen=True)
class Concept:
    """A personal concept such as <bo>: its class, its reference pictures and what is known about it."""

    name: str = ""
    class_noun: str = ""
    references: tuple[Picture, ...] = ()
    info: str = ""
    extra_info: tuple[str, ...] = ()
    conversation_type: str = ""


@dataclass(frozen=True)
class Sample:
    """One item to be scored. A reward's `required_fields` say which of these must be set."""

    id: str = ""
    group: str = ""
    image: Picture | None = None
    prompt: str = ""
    concept: Concept = Concept()
    question: str = ""
    answer: str | None = None
    reference_answers: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    target: int | None = None
    nouns: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict, hash=False)
    """The caller's own notes, such as a dataset's row; only own functions read them, and they come back to nobody."""

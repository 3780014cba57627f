"""Two scorings of the same samples compared: do they rank alike, does one score higher, where do they differ most?

`score_sides` asks two variants, releases or endpoints of one reward for a file's samples; `compare` is a pure function
of what they answered. Before a release becomes the default, this tells what would change.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from sync_r1.reward_models.errors import UserError
from sync_r1.reward_models.types import Failure, Outcome, Sample, Score
from sync_r1.trainer_client.sdk.client import RewardClient
from sync_r1.trainer_client.sdk.combination import Floats, Ints
from sync_r1.trainer_client.sdk.description import ServiceDescription
from sync_r1.trainer_client.sdk.errors import RequestRejected
from sync_r1.trainer_client.sdk.isolated_scoring import IsolatedScoring
from sync_r1.trainer_client.sdk.picture_files import PictureFiles, Unreadable
from sync_r1.trainer_client.sdk.reward_use import AffineMap
from sync_r1.trainer_client.sdk.sample_file import SampleFile, SampleRow, parts

OUTCOMES = ("scored", "failed", "not applicable")
_SIDE = re.compile(
    r"(?P<endpoint>(?:dns:///)?[^/@\s]+:\d+)?/?(?P<variant>[A-Za-z0-9_.-]*)(?:@(?P<release>[0-9a-f]{4,64}))?"
)
_FEWEST = 3
"""Pairs below which no correlation is given."""


@dataclass(frozen=True)
class Side:
    """What is asked: any part may be "", which is the default there."""

    endpoint: str
    variant: str
    release: str
    """The first digits of its digest, at least four."""


@dataclass(frozen=True)
class ScoredSide:
    """What answered."""

    endpoint: str
    reward: str
    variant: str
    release: str
    outcomes: tuple[Outcome, ...]
    units_N: Floats
    """On the card's [0, 1], NaN where there is no score."""
    raw_N: Floats

    @property
    def name(self) -> str:
        """As it may be asked for again."""
        return f"{self.variant}@{self.release[:12]}"


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % bootstrap interval over items (percentiles)."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class Difference:
    """One item, and what each side said of it."""

    id: str
    row: int
    """Its position in the input."""
    a: float
    b: float


@dataclass(frozen=True)
class Comparison:
    """What `compare` found; correlations are None with fewer than three pairs, or where a side gives one score only."""

    items: int
    pairs: int
    """Items that both scored: the rest of the figures is about these."""
    outcomes: dict[str, int]
    """Items by "A's outcome / B's outcome", each one of `OUTCOMES`."""
    agreement: float
    """Share of items with the same outcome on both sides."""
    spearman: Estimate | None
    kendall: Estimate | None
    """τ-b, which allows for ties."""
    shift: Estimate | None
    """Mean of B − A on the cards' [0, 1]."""
    distance: float | None
    """Mean of |B − A|."""
    most_different: tuple[Difference, ...]
    """By |B − A|, largest first."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def parse_side(text: str) -> Side:
    """`VARIANT`, `VARIANT@RELEASE`, `@RELEASE`, `HOST:PORT` or `HOST:PORT/VARIANT@RELEASE`. Raises UserError."""
    match = _SIDE.fullmatch(text)
    if match is None or not text:
        raise UserError(
            f"{text!r} names nothing to compare; expected VARIANT, VARIANT@RELEASE, @RELEASE, HOST:PORT or "
            "HOST:PORT/VARIANT@RELEASE, a release by four digits of its digest or more"
        )
    return Side(*(match[part] or "" for part in ("endpoint", "variant", "release")))


async def score_sides(
    sides: Sequence[Side],
    clients: Sequence[RewardClient],
    source: Path,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[list[SampleRow], list[ScoredSide]]:
    """(the rows of `source`, what each side says of them). `clients` are those of the sides' endpoints.

    A row that is no sample, or whose picture cannot be read, is a failure on both sides. Raises ScoreFileError,
    UserError when the sides are of two rewards, and what `RewardClient.score` raises where no row is at fault.
    """
    described = [await client.describe() for client in clients]
    if len(rewards := {one.reward for one in described}) > 1:
        raise UserError(f"expected two scorings of one reward, but {' and '.join(sorted(rewards))} answer")
    asked = [resolve(side, one) for side, one in zip(sides, described)]
    scorings = [
        IsolatedScoring(client, one.variant(variant), release)
        for client, one, (variant, release) in zip(clients, described, asked)
    ]
    requests = list(parts(SampleFile(source)))
    rows = [one.row for part in requests for one in part]
    pictures = PictureFiles(source.parent, max_bytes=max(one.limits.max_image_bytes for one in described))
    answers: list[list[Outcome]] = [[] for _ in sides]
    for part in requests:
        read: list[Sample | Failure] = []
        for one_row in part:
            try:
                read.append(pictures.to_sample(one_row))
            except Unreadable as error:
                read.append(error.failure)
        samples = [one for one in read if isinstance(one, Sample)]
        for scoring, own in zip(scorings, answers):
            scored = iter(await scoring.score(samples) if samples else ())
            own += [one if isinstance(one, Failure) else next(scored) for one in read]
        on_progress(len(answers[0]), len(rows))
    return rows, [
        _scorer(client.endpoints[0], one, variant, release, outcomes)
        for client, one, (variant, release), outcomes in zip(clients, described, asked, answers)
    ]


def resolve(side: Side, described: ServiceDescription) -> tuple[str, str]:
    """(variant, whole digest) of what `side` means at this service. Raises RequestRejected listing what there is."""
    found = [
        (variant, digest)
        for digest, variant in described.releases.items()
        if digest.startswith(side.release) and side.variant in ("", variant)
    ]
    if not side.release:
        variant = described.variant(side.variant).name
        return variant, described.default_releases[variant]
    if len(found) != 1:
        known = ", ".join(f"{variant}@{digest[:12]}" for digest, variant in described.releases.items())
        many = "several releases" if found else "no release"
        raise RequestRejected(f"{described.reward} has {many} {side.variant}@{side.release}; it has {known}")
    return found[0]


def compare(ids: Sequence[str], a: ScoredSide, b: ScoredSide, *, shown: int = 10, resamples: int = 1_000) -> Comparison:
    """What differs between two scorings of the same items; the `shown` most different ones are named.

    Intervals are over `resamples` draws of the items, always the same ones.
    """
    estimate = partial(_estimate, resamples=resamples)
    kinds = [(_kind(one), _kind(other)) for one, other in zip(a.outcomes, b.outcomes)]
    both = np.flatnonzero(np.isfinite(a.units_N) & np.isfinite(b.units_N))
    units, raws = np.stack([a.units_N[both], b.units_N[both]]), np.stack([a.raw_N[both], b.raw_N[both]])
    apart = units[1] - units[0]
    # Ranks are those of the raw scores: the cards' maps cut off what lies beyond their ends.
    varied = len(both) >= _FEWEST and all(len(np.unique(side)) > 1 for side in raws)
    order = both[np.argsort(-np.abs(apart), kind="stable")][:shown]
    counts = Counter(f"{one} / {other}" for one, other in kinds)
    return Comparison(
        items=len(ids),
        pairs=len(both),
        outcomes={key: counts[key] for one in OUTCOMES for other in OUTCOMES if (key := f"{one} / {other}") in counts},
        agreement=sum(one == other for one, other in kinds) / len(kinds),
        spearman=estimate(partial(_correlation, stats.spearmanr, raws), len(both)) if varied else None,
        kendall=estimate(partial(_correlation, stats.kendalltau, raws), len(both)) if varied else None,
        shift=estimate(lambda picked: float(apart[picked].mean()), len(both)) if len(both) else None,
        distance=float(np.abs(apart).mean()) if len(both) else None,
        most_different=tuple(
            Difference(ids[row], int(row), float(a.units_N[row]), float(b.units_N[row])) for row in order
        ),
    )


def _correlation(measure: Callable[..., Any], raws_2_N: Floats, picked: Ints) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.ConstantInputWarning)  # of a resample; its NaN is left out
        return float(measure(*raws_2_N[:, picked]).statistic)


def _estimate(statistic: Callable[[Ints], float], items: int, resamples: int) -> Estimate:
    """A resample in which a side is constant tells nothing of its rank correlation, and is left out."""
    rng = np.random.default_rng(0)
    drawn = [statistic(rng.integers(items, size=items)) for _ in range(resamples)]
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return Estimate(statistic(np.arange(items)), float(low), float(high))


def _scorer(
    endpoint: str, described: ServiceDescription, variant: str, release: str, outcomes: list[Outcome]
) -> ScoredSide:
    card = described.variant(variant)
    if card.affine_scale == 0:
        raise RequestRejected(f"{described.reward}/{variant} publishes no map to [0, 1], so scores cannot be compared")
    raw_N = np.array([one.value if isinstance(one, Score) else np.nan for one in outcomes])
    units_N = AffineMap(card.affine_scale, card.affine_shift).to_units(raw_N)
    return ScoredSide(endpoint, described.reward, variant, release, tuple(outcomes), units_N, raw_N)


def _kind(outcome: Outcome) -> str:
    return OUTCOMES[0] if isinstance(outcome, Score) else OUTCOMES[1] if isinstance(outcome, Failure) else OUTCOMES[2]

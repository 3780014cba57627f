"""One release for all of a call: what to do when parts of it were scored by different ones, as while one is rolled out.

The service's replicas differ then, and each answers by its own default. Only the SDK's own pin is chosen here; a
release that the caller asked for is never left.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from sync_r1.reward_models.types import Outcome
from sync_r1.trainer_client.sdk.errors import ReleaseNotFound, ServiceUnreachable
from sync_r1.trainer_client.sdk.results import RequestTimings

_ROUNDS = 3


@dataclass(frozen=True)
class Part:
    """The outcomes of one request, by position in the call."""

    outcomes: dict[int, Outcome]
    variant: str
    release: str
    timings: tuple[RequestTimings, ...]


Rescore = Callable[[Sequence[int], str], Awaitable[list[Part]]]
"""(positions, the release to pin, "" for none) -> their parts. Raises ReleaseNotFound when no replica has it."""


async def one_release(parts: list[Part], rescore: Rescore) -> list[Part]:
    """The parts, all of one release: whatever another one scored is scored again.

    The release that scored most comes first. Where no replica has it any more (the last one that did was just
    replaced), the pin moves to the next, so that in the end the whole call is scored by the newer release. Raises
    ServiceUnreachable when releases come and go faster than that.
    """
    for _ in range(_ROUNDS):
        items = Counter[str]()
        for part in parts:
            items[part.release] += len(part.outcomes)
        if len(items) <= 1:
            return parts
        for release, _ in items.most_common():
            agreed = [part for part in parts if part.release == release]
            others = sorted(position for part in parts if part.release != release for position in part.outcomes)
            try:
                parts = agreed + await rescore(others, release)
                break
            except ReleaseNotFound:
                continue
        else:
            parts = await rescore(sorted(position for part in parts for position in part.outcomes), "")
    if len({part.release for part in parts}) > 1:
        raise ServiceUnreachable(
            f"the releases of the service changed {_ROUNDS} times while one call was scored; try again once the "
            "roll-out is over, or pin a release"
        )
    return parts

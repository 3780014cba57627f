"""Cutting a call into requests that a service accepts, and holding back what is more than it should have at once."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from sync_r1.reward_models.types import Failure, FailureCode, Outcome
from sync_r1.trainer_client.sdk.errors import DeadlineExceeded, RequestRejected
from sync_r1.trainer_client.sdk.lifecycle import within
from sync_r1.trainer_client.sdk.wire import PackedSample, reference_bytes

_REQUEST_OVERHEAD_BYTES = 1024  # variant, release, request id


@dataclass(frozen=True)
class Bounds:
    """What one request may hold, and whether a group must stay in one piece."""

    max_items: int
    max_bytes: int
    keep_groups: bool
    wanted_items: int
    """What it should hold at most; only a group that must stay in one piece may be larger, up to `max_items`."""
    max_text_bytes: int = 1 << 62
    """Beside its pictures."""


class ItemGate:
    """Lets at most `capacity` items be under way, first come, first served. `capacity` may be changed at any time."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.items = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def hold(self, items: int, deadline_s: float) -> AsyncIterator[None]:
        """Hold `items` for the block; more than the capacity go alone. Raises DeadlineExceeded if there is no room."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((items, turn))
        self._let_in()
        try:
            await self._wait(turn, items, deadline_s)
            yield
        finally:
            if turn.done():
                self.items -= items
            else:
                self._waiting.remove((items, turn))
            self._let_in()

    async def _wait(self, turn: asyncio.Future[None], items: int, deadline_s: float) -> None:
        try:
            await within(asyncio.shield(turn), deadline_s - time.monotonic())
        except asyncio.TimeoutError:
            raise DeadlineExceeded(
                f"{items} items waited in this client until the caller's time was up: {self.items} items of other "
                f"requests were under way, and at most {self.capacity} may be"
            ) from None

    def _let_in(self) -> None:
        while self._waiting and (self.items == 0 or self.items + self._waiting[0][0] <= self.capacity):
            items, turn = self._waiting.popleft()
            self.items += items
            turn.set_result(None)


def split(samples: Sequence[PackedSample], bounds: Bounds, *, inline: bool) -> list[list[int]]:
    """Positions in `samples`, request by request; each request as even in size as the limits allow.

    With `inline` every reference counts for every sample; otherwise once for each request, which is how they are sent.
    With `keep_groups` samples of one group (a sample without a group is its own) share a request. Raises
    RequestRejected when a single unit does not fit, naming it, its size and the limit.
    """
    units = _units(samples, bounds.keep_groups)
    most_items = min(bounds.max_items, bounds.wanted_items)
    requests_at_least = -(-len(samples) // most_items)
    target_items = most_items if bounds.keep_groups else -(-len(samples) // requests_at_least)
    room_bytes = bounds.max_bytes - _REQUEST_OVERHEAD_BYTES
    batches: list[list[int]] = []
    batch: list[int] = []
    batch_bytes, batch_texts, batch_references = 0, 0, set[str]()
    for unit in units:
        _check_unit(samples, unit, bounds, room_bytes, inline)
        added = _cost(samples, unit, set() if inline else batch_references, inline)
        texts = sum(_text_bytes(samples[i]) for i in unit)
        full = batch_bytes + added > room_bytes or batch_texts + texts > bounds.max_text_bytes - _REQUEST_OVERHEAD_BYTES
        if batch and (len(batch) + len(unit) > target_items or full):
            batches.append(batch)
            batch, batch_bytes, batch_texts, batch_references = [], 0, 0, set()
            added = _cost(samples, unit, batch_references, inline)
        batch.extend(unit)
        batch_bytes += added
        batch_texts += texts
        batch_references |= {reference.sha256 for i in unit for reference in samples[i].references}
    if batch:
        batches.append(batch)
    return batches


def refused(samples: Sequence[PackedSample], bounds: Bounds) -> dict[int, Outcome]:
    """Failures of the items that cannot be sent, by position; the rest of the call is.

    Those that do not fit the contract, that are larger than a request may be, or whose group is and must stay whole.
    """
    failures: dict[int, Outcome] = {}
    for position, packed in enumerate(samples):
        failure = packed.failure or _too_large(packed, bounds)
        if failure is not None:
            failures[position] = failure
    if bounds.keep_groups:
        left = [position for position in range(len(samples)) if position not in failures]
        room = bounds.max_bytes - _REQUEST_OVERHEAD_BYTES
        for unit in _units([samples[position] for position in left], keep_groups=True):
            members = [left[index] for index in unit]
            size = _cost(samples, members, set(), inline=True)  # a replica may lack the references
            if size > room:
                message = (
                    f"the {len(members)} samples of group {samples[members[0]].group!r} must stay together and take "
                    f"{size} bytes, a request may hold {room}; send smaller pictures or groups"
                )
                failures |= dict.fromkeys(members, Failure(FailureCode.BAD_IMAGE, message, "image"))
    return failures


def _too_large(sample: PackedSample, bounds: Bounds) -> Failure | None:
    texts, text_room = _text_bytes(sample), bounds.max_text_bytes - _REQUEST_OVERHEAD_BYTES
    if texts > text_room:
        message = f"the texts of the sample take {texts} bytes, those of a request may take {text_room}; shorten them"
        return Failure(FailureCode.BAD_TEXT, message)
    size, room = sample.size_bytes + reference_bytes(sample), bounds.max_bytes - _REQUEST_OVERHEAD_BYTES
    if size <= room:
        return None
    what = f"the sample takes {size} bytes with its references, a request may hold {room}"
    if sample.body.ByteSize() > room:
        return Failure(FailureCode.BAD_TEXT, f"{what}; its texts alone are too long")
    return Failure(FailureCode.BAD_IMAGE, f"{what}; send smaller pictures", "image")


def _text_bytes(sample: PackedSample) -> int:
    """Bytes of everything but pictures, the digests of references included."""
    return sample.body.ByteSize() + 80 * len(sample.references)


def _units(samples: Sequence[PackedSample], keep_groups: bool) -> list[list[int]]:
    if not keep_groups:
        return [[position] for position in range(len(samples))]
    units: dict[tuple[str, int], list[int]] = {}
    for position, packed in enumerate(samples):
        group = packed.group
        units.setdefault((group, -1 if group else position), []).append(position)
    return list(units.values())


def _cost(samples: Sequence[PackedSample], unit: list[int], present: set[str], inline: bool) -> int:
    """Bytes that a unit adds to a request in which the references `present` already stand."""
    if inline:
        return sum(samples[i].size_bytes + reference_bytes(samples[i]) for i in unit)
    fresh = {reference.sha256: len(reference.data) for i in unit for reference in samples[i].references}
    digests = sum(len(samples[i].references) for i in unit) * 80
    return sum(samples[i].size_bytes for i in unit) + digests + sum(fresh[key] for key in fresh.keys() - present)


def _check_unit(
    samples: Sequence[PackedSample], unit: list[int], bounds: Bounds, room_bytes: int, inline: bool
) -> None:
    if len(unit) > bounds.max_items:
        raise RequestRejected(
            f"group {samples[unit[0]].group!r} has {len(unit)} samples, but the service takes at most "
            f"{bounds.max_items} in a request and this reward must see a whole group; use smaller groups"
        )
    size = _cost(samples, unit, set(), inline)
    if size > room_bytes:
        raise RequestRejected(
            f"{len(unit)} samples that must stay together, beginning with {samples[unit[0]].id!r}, take {size} bytes, "
            f"but a request may hold {room_bytes}; send smaller pictures or groups"
        )

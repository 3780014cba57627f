"""Decodes the pictures of requests, in threads: each one picture at a time, of which only what graphs take is kept.

Memory is bounded three ways: what is kept by the service's budget (`needed_bytes`), what a picture takes while it is
decoded by the number of threads, and two at a time where it is large.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from typing import Any

from sync_r1.reward_models.image_headers import read_header
from sync_r1.reward_models.images import ImageError, ImageLimits, decode, from_raw
from sync_r1.reward_models.inputs.preparation import Preparation, needed_bytes, prepare
from sync_r1.reward_models.rewards.base import failure_of
from sync_r1.reward_models.types import Failure, GraphDeadline, Picture
from sync_r1.services.config import Limits
from sync_r1.services.front.reference_cache import ReferenceCache

IMAGE = -1
_LARGE_PIXELS, _LARGE_AT_ONCE = 1_000_000, 2
Place = tuple[int, int]
"""(item, index of its reference, or IMAGE)."""
Decoded = Picture | ImageError | Failure
"""A Failure is of a bug of ours."""


class PictureDecoder:
    """`threads` pictures are decoded at once; references go through the cache."""

    def __init__(self, limits: Limits, cache: ReferenceCache, threads: int) -> None:
        self._limits = limits
        self._image_limits = ImageLimits(max_bytes=limits.max_image_bytes, max_pixels=limits.max_pixels)
        self._cache = cache
        self._threads = threads
        self._large = threading.BoundedSemaphore(_LARGE_AT_ONCE)
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="decode")

    def close(self) -> None:
        """End the threads; what they decode now is finished first."""
        self._executor.shutdown(wait=True, cancel_futures=True)

    def needed_bytes(
        self, messages: Sequence[Any], looks_at: frozenset[str], preparations: tuple[Preparation, ...]
    ) -> int:
        """At most how many bytes `decode` leaves of the pictures of these messages, by their headers alone."""
        total = 0
        for message in messages:
            for _, image in _inline_pictures(message, looks_at, self._limits.max_references):
                size = _size_of(image)
                # What is too large is refused before it is decoded, what has no header cannot be.
                if size is not None and size[0] * size[1] <= self._limits.max_pixels:
                    total += needed_bytes(*size, preparations)
        return total

    async def decode(
        self,
        messages: Sequence[Any],
        looks_at: frozenset[str],
        team: str,
        deadline_s: float,
        preparations: tuple[Preparation, ...],
    ) -> dict[Place, Decoded]:
        """What came of each inline picture of the fields `looks_at`, by its place; see `Codec.samples`."""
        jobs = {
            (item, place): image
            for item, message in enumerate(messages)
            for place, image in _inline_pictures(message, looks_at, self._limits.max_references)
        }
        if not jobs:
            return {}
        # One slice per thread: a task for each picture would cost more than hashing a small raw one.
        places = list(jobs)
        slices = [places[start :: self._threads] for start in range(min(self._threads, len(places)))]
        loop = asyncio.get_running_loop()
        decode_some = partial(self._decode_some, jobs, team=team, deadline_s=deadline_s, preparations=preparations)
        parts = await asyncio.gather(*(loop.run_in_executor(self._executor, decode_some, part) for part in slices))
        return {place: result for part in parts for place, result in part.items()}

    def _decode_some(
        self,
        jobs: dict[Place, Any],
        places: list[Place],
        *,
        team: str,
        deadline_s: float,
        preparations: tuple[Preparation, ...],
    ) -> dict[Place, Decoded]:
        """In a thread: one picture's pixels at a time."""
        results: dict[Place, Decoded] = {}
        for place in places:
            if time.monotonic() > deadline_s:
                raise GraphDeadline("the deadline passed while pictures were decoded")
            decode = self._decode if place[1] == IMAGE else partial(self._reference, team=team)
            height, width = _size_of(jobs[place]) or (0, 0)
            with self._large if height * width > _LARGE_PIXELS else nullcontext():
                results[place] = _prepared(decode(jobs[place]), preparations)
        return results

    def _reference(self, image: Any, team: str) -> Decoded:
        """A reference, known by the digest that the contract gives its kind: that of a file, or of pixels and shape."""
        if image.WhichOneof("source") == "encoded":
            known = self._cache.get(team, hashlib.sha256(image.encoded).hexdigest())
            if known is not None:
                return known
        decoded = self._decode(image)
        if isinstance(decoded, Picture):
            self._cache.put(team, decoded.sha256, decoded)
        return decoded

    def _decode(self, image: Any) -> Decoded:
        try:
            if image.WhichOneof("source") == "raw":
                return from_raw(image.raw.pixels, image.raw.height, image.raw.width, self._image_limits)
            return decode(image.encoded, self._image_limits)
        except ImageError as error:
            return error
        except Exception as error:
            return failure_of(error)


def _prepared(decoded: Decoded, preparations: tuple[Preparation, ...]) -> Decoded:
    if not isinstance(decoded, Picture):
        return decoded
    try:
        return prepare(decoded, preparations)
    except Exception as error:
        return failure_of(error)


def _size_of(image: Any) -> tuple[int, int] | None:
    """(height, width) of an inline picture."""
    if image.WhichOneof("source") == "raw":
        return image.raw.height, image.raw.width
    header = read_header(image.encoded)
    return (header.height, header.width) if header is not None else None


def _inline_pictures(message: Any, looks_at: frozenset[str], max_references: int) -> Iterator[tuple[int, Any]]:
    """The pictures of one item that must be decoded, each with its place: `IMAGE` or the reference's index."""
    if "image" in looks_at and message.image.WhichOneof("source") in ("encoded", "raw"):
        yield IMAGE, message.image
    if "concept.references" in looks_at and len(message.concept.references) <= max_references:
        for index, reference in enumerate(message.concept.references):
            if reference.WhichOneof("source") in ("encoded", "raw"):
                yield index, reference

"""What service and worker say to each other, over a socket that nothing else uses: JSON, and pixels as they are.

12 bytes: length of the JSON, length of what follows it; the JSON; pixels, one picture after the other
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sync_r1.reward_models.python_code.function import Row
from sync_r1.reward_models.types import Failure, FailureCode, NotApplicable, Outcome, Score

HEAD = struct.Struct("!IQ")
Buffer = bytes | memoryview


def frame(message: Any, pixels: Sequence[Buffer] = ()) -> list[Buffer]:
    """The parts of one frame, to be written one after the other."""
    text = json.dumps(message).encode()
    return [HEAD.pack(len(text), sum(len(one) for one in pixels)) + text, *pixels]


@dataclass(frozen=True)
class WrittenRows:
    """Rows as they travel."""

    rows: list[dict[str, Any]]
    """Without their pictures."""
    shapes: list[tuple[int, ...]]
    """Of the pictures, in the order of rows, arguments and places in a list."""
    pixels: list[Buffer]


def write_rows(rows: Iterable[Row]) -> WrittenRows:
    """Rows as they travel; pixels are not copied."""
    written = WrittenRows([], [], [])

    def write(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            written.shapes.append(value.shape)
            written.pixels.append(np.ascontiguousarray(value).data.cast("B"))
            return None
        return [write(one) for one in value] if isinstance(value, list) else value

    written.rows.extend({name: write(value) for name, value in row.items()} for row in rows)
    return written


def read_rows(
    rows: Sequence[dict[str, Any]], shapes: Sequence[Sequence[int]], pixels: bytearray, pictures: Collection[str]
) -> list[Row]:
    """What `write_rows` was given. `pictures`: the arguments that are some; they are the function's own to write to."""
    coming, start = iter(shapes), 0

    def read(value: Any) -> Any:
        nonlocal start
        if isinstance(value, list):
            return [read(one) for one in value]
        shape = tuple(next(coming))
        array = np.frombuffer(pixels, np.uint8, math.prod(shape), start).reshape(shape)
        start += array.nbytes
        return array

    return [{name: read(value) if name in pictures else value for name, value in row.items()} for row in rows]


def write_outcome(outcome: Outcome) -> dict[str, Any]:
    """One outcome as JSON."""
    if isinstance(outcome, Score):
        return {"score": outcome.value, "components": outcome.components}
    if isinstance(outcome, NotApplicable):
        return {"reason": outcome.reason}
    return {"code": outcome.code.value, "message": outcome.message}


def read_outcome(told: dict[str, Any]) -> Outcome:
    """What `write_outcome` was given. Raises ValueError, KeyError or TypeError for anything else."""
    if "score" in told:
        components = {str(name): float(value) for name, value in told["components"].items()}
        return Score(float(told["score"]), components)
    if "reason" in told:
        return NotApplicable(str(told["reason"]))
    return Failure(FailureCode(told["code"]), str(told["message"]))


def receive(read: Callable[[memoryview], int]) -> tuple[Any, bytearray] | None:
    """One frame by blocking reads; None where the other end is gone."""
    head = _exactly(read, HEAD.size)
    if head is None:
        return None
    text_size, size = HEAD.unpack(head)
    text, pixels = _exactly(read, text_size), _exactly(read, size)
    return None if text is None or pixels is None else (json.loads(text), pixels)


def _exactly(read: Callable[[memoryview], int], size: int) -> bytearray | None:
    buffer = bytearray(size)
    view, filled = memoryview(buffer), 0
    while filled < size:
        got = read(view[filled:])
        if not got:
            return None
        filled += got
    return buffer

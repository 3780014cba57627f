"""Calls an own function on items, and checks what comes back: one outcome for each item, whatever it does.

An item's result is a number, a mapping of numbers with `score` among them, or None where the question does not apply.
A batch's result is a list of those, one for each item; a batch that fails is halved, so that what one item does wrong
stays with it.
"""

from __future__ import annotations

import logging
import math
import uuid
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any

from PIL import Image

from sync_r1.reward_models.python_code.function import PythonFunction, Row
from sync_r1.reward_models.python_code.loading import place_of
from sync_r1.reward_models.types import Failure, FailureCode, NotApplicable, Outcome, Score

logger = logging.getLogger(__name__)

_NONE = NotApplicable("the reward's function returned None: its question does not apply to this item")
_MAX_COMPONENTS, _LONGEST_NAME = 256, 128
_EXPECTED = "a number, a mapping of numbers with `score` among them, or None"


class Caller:
    """A loaded function, ready to be called. Used from one thread at a time."""

    def __init__(self, function: PythonFunction, target: Callable[..., Any]) -> None:
        self._function, self._target = function, target
        self._pil = [one for one in function.signature.parameters if one.as_pil]
        self.pictures = frozenset(
            one.name for one in function.signature.parameters if one.is_picture or one.is_pictures
        )
        """The arguments that are pictures."""
        self.out_of_memory = False
        """Whether memory ran out in a call; such a process is better replaced."""

    def outcomes(self, rows: Sequence[Row], before_call: Callable[[], None] = lambda: None) -> list[Outcome]:
        """One outcome for each row, in order. `before_call` is called before each call of the function, and whatever it
        raises ends the work."""
        rows = [self._converted(row) for row in rows]
        if self._function.signature.batch:
            return self._batch(rows, before_call)
        found = []
        for row in rows:
            before_call()
            found.append(self._item(row))
        return found

    def _converted(self, row: Row) -> Row:
        return dict(row) | {
            one.name: [Image.fromarray(each) for each in row[one.name]]
            if one.is_pictures
            else Image.fromarray(row[one.name])
            for one in self._pil
        }

    def _item(self, row: Row) -> Outcome:
        try:
            result = self._target(**row)
        except BaseException as error:
            return self._raised(error)
        return self._outcome(result)

    def _batch(self, rows: list[Row], before_call: Callable[[], None]) -> list[Outcome]:
        before_call()
        columns = {one.name: [row[one.name] for row in rows] for one in self._function.signature.parameters}
        try:
            results = self._target(**columns)
            results = results.tolist() if hasattr(results, "tolist") else results  # an array, a tensor
        except BaseException as error:
            failure = self._raised(error) if len(rows) == 1 or isinstance(error, MemoryError) else None
        else:
            if isinstance(results, list | tuple) and len(results) == len(rows):
                return [self._outcome(result) for result in results]
            failure = self._failure(f"returned {_counted(results)} for {len(rows)} items; expected a list of as many")
        if failure is not None and (len(rows) == 1 or self.out_of_memory):
            return [failure] * len(rows)
        middle = len(rows) // 2
        return self._batch(rows[:middle], before_call) + self._batch(rows[middle:], before_call)

    def _raised(self, error: BaseException) -> Failure:
        self.out_of_memory |= isinstance(error, MemoryError)
        error_id = uuid.uuid4().hex[:12]
        logger.error("%s: error %s at one item", self._function, error_id, exc_info=error)
        kind, place = type(error).__name__, place_of(error, self._function)
        return self._failure(f"raised {kind} ({place}; error {error_id}: the service's log has its trace)")

    def _outcome(self, result: Any) -> Outcome:
        if result is None:
            return _NONE
        if not isinstance(result, Mapping):
            return self._score(result, {})
        if "score" not in result:
            return self._failure(f"returned a mapping without `score`, with {_names(result)}; expected {_EXPECTED}")
        components = {str(name): one for name, one in result.items() if name != "score"}
        if len(components) > _MAX_COMPONENTS or any(len(name) > _LONGEST_NAME for name in components):
            return self._failure(
                f"returned a mapping with {len(components)} components; expected at most {_MAX_COMPONENTS}, with names "
                f"of at most {_LONGEST_NAME} characters"
            )
        return self._score(result["score"], components)

    def _score(self, value: Any, components: dict[str, Any]) -> Outcome:
        numbers = {name: _number(one) for name, one in (("score", value), *components.items())}
        for name, number in numbers.items():
            if number is None:
                came = type(value if name == "score" else components[name]).__name__
                return self._failure(f"returned {came} as `{name}`; expected {_EXPECTED}")
            if not math.isfinite(number):
                return self._failure(f"returned {number} as `{name}`; expected a finite number", FailureCode.NON_FINITE)
        found = {name: number for name, number in numbers.items() if number is not None}
        return Score(found.pop("score"), found)

    def _failure(self, what: str, code: FailureCode = FailureCode.INTERNAL) -> Failure:
        return Failure(code, f"the reward's function {what}")


def _number(value: Any) -> float | None:
    """The number, also where it is an array or a tensor of one; None for anything else."""
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        value = value.item()
    if not isinstance(value, Real):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _counted(results: Any) -> str:
    return f"{len(results)} results" if isinstance(results, list | tuple) else type(results).__name__


def _names(result: Mapping[Any, Any]) -> str:
    return ", ".join(f"`{name!s:.40}`" for name in list(result)[:5]) or "nothing"

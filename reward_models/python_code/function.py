"""An own function as a graph: what a release pins, and all that a worker is told of it.

    inputs    row (N,) of dict: argument -> value; pictures as uint8 (height, width, 3), whatever the function wants
    outputs   outcome (N,) of Score, NotApplicable or Failure

Both are arrays of objects, because pictures of several sizes have no shape.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from sync_r1.reward_models.python_code.fields import Parameter
from sync_r1.reward_models.python_code.signature import Signature
from sync_r1.reward_models.python_code.sources import Distribution, Source, Sources

Row = Mapping[str, Any]
"""One item's arguments by name; those that it lacks and that have a default are left out."""


@dataclass(frozen=True)
class WorkerOptions:
    """How the workers of a function are run; no part of the release."""

    workers: int = 1
    timeout_s: float = 10.0
    """Of one call of the function."""
    start_timeout_s: float = 120.0
    """Of importing the module and constructing the class."""
    batch_size: int = 32
    """Items in one call of a function that takes a batch, at most."""
    restarts: int = 20
    """Workers that may be replaced within ten minutes; after one more the function is given up."""


@dataclass(frozen=True)
class PythonFunction:
    """A function, or a class whose instances are called."""

    module: str
    name: str
    where: str
    """The variant's key in its profile, for messages."""
    sources: Sources
    signature: Signature
    arguments: dict[str, Any] = field(default_factory=dict)
    """Of the constructor of a class, else of the function itself."""
    device: str = "cpu"
    options: WorkerOptions = WorkerOptions()

    def __str__(self) -> str:
        return f"{self.module}:{self.name}"

    @cached_property
    def sha256(self) -> str:
        """Over its sources, its name and its arguments; independent of where it lies and runs. 64 hex digits."""
        facts = {"function": str(self), "arguments": self.arguments, **self.sources.facts()}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """For a worker."""
        return asdict(self)

    @classmethod
    def from_json(cls, told: dict[str, Any]) -> PythonFunction:
        """What `to_json` was made of."""
        sources, signature = told["sources"], told["signature"]
        installed = sources["distribution"]
        modules = {name: Source(**one) for name, one in sources["modules"].items()}
        parameters = tuple(Parameter(**one) for one in signature["parameters"])
        parts = {
            "sources": Sources(
                **sources | {"modules": modules, "distribution": installed and Distribution(**installed)}
            ),
            "signature": Signature(**signature | {"parameters": parameters}),
            "options": WorkerOptions(**told["options"]),
        }
        return cls(**told | parts)


def objects(items: Sequence[Any]) -> npt.NDArray[Any]:
    """An array (N,) of the items as objects, whatever they are."""
    array = np.empty(len(items), object)
    for number, item in enumerate(items):
        array[number] = item
    return array

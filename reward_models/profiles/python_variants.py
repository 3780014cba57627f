"""`kind: python`: an own function, from its YAML to a `Reward` (docs/python-rewards.md)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, StringConstraints

from sync_r1.reward_models.graphs.spec import GraphSpec
from sync_r1.reward_models.profiles.card_texts import CardMaker
from sync_r1.reward_models.profiles.file_parts import BesideProfile, CardFile, Strict
from sync_r1.reward_models.python_code.function import PythonFunction, WorkerOptions
from sync_r1.reward_models.python_code.signature import read_signature
from sync_r1.reward_models.python_code.sources import read_sources
from sync_r1.reward_models.rewards import python_function
from sync_r1.reward_models.rewards.base import Reward
from sync_r1.reward_models.types import ProfileError

_NAME = r"[A-Za-z_]\w*"
_DEFAULTS = WorkerOptions()


class PythonVariantFile(Strict):
    """A function of the operator's, called in worker processes of the service; it has all rights of the service."""

    kind: Literal["python"]
    function: Annotated[str, StringConstraints(pattern=rf"^{_NAME}(\.{_NAME})*:{_NAME}$")]
    """MODULE:NAME, as in "brightness:score": a function or a class whose instances are called."""
    folder: Annotated[BesideProfile, Field(validate_default=True)] = Path()
    """Where its modules are looked for first: the profile's own folder."""
    arguments: dict[str, JsonValue] = Field(default_factory=dict)
    """Of the constructor of a class, else of the function itself."""
    device: str = Field(default="cpu", min_length=1)
    """Given to a constructor that has an argument of this name."""
    workers: int = Field(default=_DEFAULTS.workers, ge=1, le=256)
    timeout_s: float = Field(default=_DEFAULTS.timeout_s, gt=0, allow_inf_nan=False)
    start_timeout_s: float = Field(default=_DEFAULTS.start_timeout_s, gt=0, allow_inf_nan=False)
    batch_size: int = Field(default=_DEFAULTS.batch_size, ge=1, le=1024)
    restarts: int = Field(default=_DEFAULTS.restarts, ge=0)
    card: CardFile


def python(file: PythonVariantFile, make: CardMaker, graphs: dict[str, GraphSpec]) -> Reward:
    """An own function as a reward; it joins `graphs` under a name that no file can give. Raises ProfileError."""
    module, _, name = file.function.partition(":")
    try:
        sources = read_sources(module, file.folder)
        signature = read_signature(sources, module, name, file.arguments)
    except ProfileError as error:
        raise ProfileError(f"function: {error}") from error
    if "device" in file.model_fields_set and not signature.takes_device:
        raise ProfileError(f"device: {file.function} has no constructor with an argument `device`; leave the key out")
    where = f"rewards.{make.reward}.variants.{make.variant}"
    options = WorkerOptions(file.workers, file.timeout_s, file.start_timeout_s, file.batch_size, file.restarts)
    arguments: dict[str, Any] = dict(file.arguments)
    function = PythonFunction(module, name, where, sources, signature, arguments, file.device, options)
    graph = GraphSpec(f"python:{make.reward}/{make.variant}", 1, Path(), (), (), max_batch_size=1, python=function)
    card = make.card(
        file.card, version=python_function.FORMULA_VERSION, required=python_function.required_fields(function),
        graphs=[graph],
    )  # fmt: skip
    graphs[graph.name] = graph
    return python_function.PythonReward(card, graph, function)

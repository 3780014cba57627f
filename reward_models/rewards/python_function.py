"""An own function as a reward: `kind: python` of a profile. What it is given and may return: `python_code/`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from sync_r1.reward_models.cards import Card
from sync_r1.reward_models.graphs.spec import GraphSpec
from sync_r1.reward_models.python_code.fields import Parameter
from sync_r1.reward_models.python_code.function import PythonFunction, Row, objects
from sync_r1.reward_models.rewards.base import ItemReward
from sync_r1.reward_models.rewards.fields import is_present, missing_field
from sync_r1.reward_models.runner import GraphRunner, RunContext
from sync_r1.reward_models.types import Outcome, Sample

FORMULA_VERSION = "1"


@dataclass(frozen=True)
class PythonReward(ItemReward):
    """value = what the function returns for the item, or the `score` of the mapping that it returns."""

    card: Card
    graph: GraphSpec
    function: PythonFunction

    @property
    def graphs(self) -> tuple[str, ...]:
        """The function."""
        return (self.graph.name,)

    @property
    def optional_fields(self) -> tuple[str, ...]:
        """Those of arguments that have a default, or that may be empty."""
        paths = [one.field.path for one in self.function.signature.parameters]
        return tuple(path for path in paths if path not in self.card.required_fields)

    async def score_batch(self, samples: Sequence[Sample], runner: GraphRunner, context: RunContext) -> list[Outcome]:
        """See `Reward.score`."""
        failures = [missing_field(sample, self.card.required_fields) for sample in samples]
        rows = [self._row(sample) for sample, failure in zip(samples, failures) if failure is None]
        outcomes = iter(())
        if rows:
            result = await runner.run(context, self.graph.name, {"row": objects(rows)})
            outcomes = iter(result.outputs["outcome"])
        return [failure or next(outcomes) for failure in failures]

    def _row(self, sample: Sample) -> Row:
        parameters = self.function.signature.parameters
        given = [one for one in parameters if not one.optional or is_present(sample, one.field.path)]
        return {one.name: _value(sample, one) for one in given}


def required_fields(function: PythonFunction) -> tuple[str, ...]:
    """Paths in `Sample` without which an item cannot be scored."""
    return tuple(one.field.path for one in function.signature.parameters if one.field.needed and not one.optional)


def _value(sample: Sample, parameter: Parameter) -> Any:
    value = attrgetter(parameter.field.path)(sample)
    if parameter.is_picture:
        return value.pixels
    if parameter.is_pictures:
        return [picture.pixels for picture in value]
    if isinstance(value, tuple | list):
        return list(value)
    return dict(value) if parameter.name == "metadata" else value

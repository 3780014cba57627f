"""`selector`: which trajectories are finished, and which enter the loss. One class per kind.

A new selector is a class here, in `SelectorConfig` too, and its behaviour in `rollouts/`, which `rollouts/selectors.py`
finds by the class. A class also says what the selector costs in a step (`work`), so that a run can be planned without
torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from pydantic import Discriminator, Field, Tag, TypeAdapter, model_validator

from sync_r1.trainer_client.config.section import Section, Weight

Pair = tuple[int, int]
"""At least, at most."""


@dataclass(frozen=True)
class SelectorWork:
    """What one step with a selector takes."""

    groups: Pair
    drawn: Pair
    """Trajectories begun, per group."""
    finished: Pair
    """Of these, finished and scored."""
    policy_steps: Pair
    """(trajectory, decoding step) pairs, per group."""
    learned: Pair
    """Rows of the whole step that enter the loss."""
    gate_rounds: Pair = (0, 0)
    """Rounds of requests to the gate."""
    previews: int = 0
    """Per group and round."""


class BaseSelectorConfig(Section):
    """What every kind of selector answers; the defaults are those of plain groups."""

    @property
    def gate_weights(self) -> Mapping[str, float]:
        """Reward -> weight in the gate's score; empty = nothing is asked before pictures are finished."""
        return {}

    @property
    def baseline(self) -> Literal["leave_one_out"] | None:
        """The baseline that groups of this selector need; None = the objective's."""
        return None

    def check_group_size(self, group_size: int) -> None:
        """Raises ValueError when groups of that size cannot be made."""

    def errors(self, steps: int) -> list[str]:
        """What is wrong with it for a policy of so many decoding steps."""
        return []

    def work(self, prompts: int, group_size: int, steps: int) -> SelectorWork:
        """What a step of `prompts` groups of `group_size` takes with a policy of `steps` decoding steps."""
        size, rows = (group_size, group_size), prompts * group_size
        return SelectorWork((prompts, prompts), size, size, (group_size * steps, group_size * steps), (rows, rows))


class PlainConfig(BaseSelectorConfig):
    """Plain groups: everything is finished and learnt from."""

    kind: Literal["none"] = "none"


class DgsConfig(BaseSelectorConfig):
    """Dynamic Group Scaling (`rollouts/dgs.py`): previews are scored, and only some of them are finished."""

    kind: Literal["dgs"] = "dgs"
    preview_at: float = Field(default=0.3, gt=0, lt=1)
    """Share of the decoding steps after which a preview is decoded (the release: 10 of 50)."""
    target_acceptance: float = Field(default=0.5, gt=0, le=1)
    """θ is the (1 - this) quantile; G / this previews are proposed per round. The release aims at 0.25."""
    keep: Literal["above", "spread"] = "above"
    """"above": previews whose score exceeds θ; "spread": the G whose scores vary most (no θ, one round)."""
    threshold: Literal["quantile", "released"] = "quantile"
    """"quantile": θ per prompt from its own gate scores; "released": one global θ as in the public code."""
    group: Literal["fixed", "dynamic"] = "fixed"
    """"fixed": G per group; "dynamic": all that pass within [group_min, group_max], leave-one-out baseline."""
    group_min: int = Field(default=4, ge=2)
    group_max: int = Field(default=12, ge=2)
    max_rounds: int = Field(default=2, ge=1)
    """Rounds of previews before a group is filled with the best rejected ones."""
    weights: dict[str, Weight] = Field(default_factory=lambda: {"concept-consistency": 0.65, "text-faithfulness": 0.35})
    """The gate's score. With a reward that judges answers the answer, known by then, is scored as well."""
    learn_from_rejected: bool = False
    """Rejected previews enter the loss as truncated trajectories with their preview's reward (ablation)."""
    min_correlation: float = Field(default=0.1, ge=-1, le=1)
    """The gate is switched off when its rank correlation with the final reward stays below this."""
    patience: int = Field(default=6, ge=1)
    """Steps over which that correlation is averaged before it can switch the gate off."""

    @model_validator(mode="after")
    def _fits(self) -> DgsConfig:
        if not any(weight > 0 for weight in self.weights.values()):
            raise ValueError("weights: at least one of the gate's rewards needs a weight above 0")
        if self.group_max < self.group_min:
            raise ValueError(f"group_max ({self.group_max}) must be at least group_min ({self.group_min})")
        if self.keep == "spread" and self.group == "dynamic":
            raise ValueError("keep: spread keeps exactly G per group; group: dynamic needs keep: above")
        return self

    @property
    def gate_weights(self) -> Mapping[str, float]:
        return self.weights

    @property
    def baseline(self) -> Literal["leave_one_out"] | None:
        return "leave_one_out" if self.group == "dynamic" else None

    def errors(self, steps: int) -> list[str]:
        late = round(self.preview_at * steps) >= steps
        return [f"selector.preview_at: a preview after all {steps} steps saves none; lower it"] if late else []

    def work(self, prompts: int, group_size: int, steps: int) -> SelectorWork:
        look = max(1, round(self.preview_at * steps))
        previews = math.ceil(group_size / self.target_acceptance)
        rounds = 1 if self.keep == "spread" else self.max_rounds
        kept = (group_size, group_size) if self.group == "fixed" else (self.group_min, self.group_max)
        drawn = (previews, previews * rounds)
        finished = drawn if self.learn_from_rejected else kept
        # A preview is a step of its own: it fills what is still masked.
        least, most = (n * (look + (look < steps)) + k * (steps - look) for n, k in zip(drawn, kept))
        return SelectorWork(
            groups=(prompts, prompts),
            drawn=drawn,
            finished=finished,
            policy_steps=(least, most),
            learned=(prompts * finished[0], prompts * finished[1]),
            gate_rounds=(1, rounds),
            previews=previews,
        )


class DapoConfig(BaseSelectorConfig):
    """DAPO's dynamic sampling: groups whose rewards do not differ are dropped, and more are drawn for them."""

    kind: Literal["dapo"] = "dapo"
    max_rounds: int = Field(default=2, ge=1)
    """At most this many times the wanted groups are drawn."""
    min_std: float = Field(default=0.01, ge=0)
    """Groups whose total rewards have at most this standard deviation are dropped."""

    def work(self, prompts: int, group_size: int, steps: int) -> SelectorWork:
        size, most = (group_size, group_size), prompts * self.max_rounds
        # All groups but one may be dropped.
        learned = (group_size, most * group_size)
        return SelectorWork((prompts, most), size, size, (group_size * steps, group_size * steps), learned)


class PodsConfig(BaseSelectorConfig):
    """PODS: the trajectories of a group whose rewards vary most are learnt from."""

    kind: Literal["pods"] = "pods"
    candidates: int = Field(default=16, ge=2)
    """Trajectories per group that are finished; `sampling.group_size` of them enter the loss."""

    def check_group_size(self, group_size: int) -> None:
        if self.candidates < group_size:
            raise ValueError(
                f"selector.candidates ({self.candidates}) must be at least sampling.group_size "
                f"({group_size}), because that many of them are kept"
            )

    def work(self, prompts: int, group_size: int, steps: int) -> SelectorWork:
        size, learned = (self.candidates, self.candidates), prompts * group_size
        return SelectorWork(
            (prompts, prompts), size, size, (self.candidates * steps, self.candidates * steps), (learned, learned)
        )


def _kind(value: Any) -> str:
    """Without a kind it is Dynamic Group Scaling."""
    return value.get("kind", "dgs") if isinstance(value, dict) else getattr(value, "kind", "")


SelectorConfig = Annotated[
    Annotated[PlainConfig, Tag("none")]
    | Annotated[DgsConfig, Tag("dgs")]
    | Annotated[DapoConfig, Tag("dapo")]
    | Annotated[PodsConfig, Tag("pods")],
    Discriminator(_kind),
]
"""The section `selector`: that of its `kind`."""


def selector_config(values: Mapping[str, Any]) -> SelectorConfig:
    """The section that `values` are. Raises pydantic's ValidationError."""
    config: SelectorConfig = TypeAdapter(SelectorConfig).validate_python(dict(values))
    return config


def selector_keys(kind: str) -> frozenset[str]:
    """The keys of the selectors of that kind; those of all kinds for one that there is not."""
    classes = [get_args(one)[0] for one in get_args(get_args(SelectorConfig)[0])]
    found = [one for one in classes if one.model_fields["kind"].default == kind] or classes
    return frozenset(key for one in found for key in one.model_fields)

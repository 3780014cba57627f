"""A whole run: its sections, and what they must say together."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from sync_r1.reward_models.cards import BUILT_IN_REWARDS, Part
from sync_r1.reward_models.errors import nearest_first
from sync_r1.trainer_client.config.evaluation import EvaluationConfig
from sync_r1.trainer_client.config.objective import ObjectiveConfig, OptimiserConfig
from sync_r1.trainer_client.config.policy import PolicyConfig
from sync_r1.trainer_client.config.sampling import PhaseConfig, SamplingConfig, StepSampling
from sync_r1.trainer_client.config.section import LONGEST_S, MOST_SEED, ConfigError, Section
from sync_r1.trainer_client.config.selectors import DgsConfig, SelectorConfig
from sync_r1.trainer_client.sdk.presets import preset_named
from sync_r1.trainer_client.sdk.reward_use import reward_of


class RewardConfig(Section):
    """One reward as this run uses it."""

    weight: float = Field(ge=0)
    """Share in the total reward; scores are mapped to [0, 1] by the served card first. 0 = scored and logged only."""
    variant: str = ""
    """Which definition ("" = the one in the reward's key, `aesthetic/pickscore`, else the service's default)."""
    affine: tuple[float, float] | None = None
    """(scale, shift) of the map from the raw score to [0, 1]; None = the card's."""
    judges: Part | None = None
    """Which part of a trajectory it is credit for; None = what its service says. To be said here where that is too old
    to say it.
    """


class TrainConfig(Section):
    """A whole run."""

    policy: PolicyConfig = PolicyConfig()
    benchmark: str = "pocket"
    """"pocket" (PocketBench, rendered into the run's folder), "pocket-unseen" (the same with concepts that the cold
    start does not know, for a policy that `sync-r1 learn-concept` taught them) or a folder in the UnifyBench layout.
    """
    profile: str = "pocket"
    """Which graphs `sync-r1 up` serves when no endpoints are given."""
    also: tuple[str, ...] = ()
    """Further profiles that it serves side by side, such as "judges" or "scorers"."""
    judges: str = ""
    """File that says where their judges are (docs/judges.md)."""
    seed: int = Field(default=0, ge=0, le=MOST_SEED)
    steps: int = Field(default=30, ge=0)
    """Updates. The learning-rate schedule spans them."""
    budget_s: float = Field(default=480.0, gt=0)
    """Wall-clock bound of the whole job, services' start and both evaluations included; training stops in time for the
    last.
    """
    parallel: Literal["ddp", "fsdp2"] = "ddp"
    """With several processes (`distributed.py`): "ddp" = each holds the whole policy, "fsdp2" = its transformer blocks,
    their gradients and optimiser state are divided among them. `sampling.prompts` are those of all processes.
    """
    threads: int = Field(default=2, ge=1)
    """Torch threads of the trainer."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of the policy's matrix products. "auto" = bf16 where the processor has bfloat16 instructions (sampling and update
    take half the time), else fp32.
    """
    checkpoint_every: int = Field(default=5, ge=1)
    """Steps between checkpoints; one is always written at the end."""
    checkpoints_kept: int = Field(default=2, ge=1)
    """The newest ones; the one before stands in for one that is damaged."""
    outage_budget_s: float = Field(default=600.0, ge=0, le=LONGEST_S)
    """How long a batch waits for a reward whose service is away before the run stops."""
    score_timeout_s: float = Field(default=60.0, gt=0, le=LONGEST_S)
    """Bound of one scoring request."""
    combination: Literal["weighted_sum", "gdpo"] = "weighted_sum"
    failure: Literal["drop_item", "drop_group", "required"] = "drop_item"
    """What happens to a trajectory one of whose scores failed; it never becomes a 0."""
    preset: str = ""
    """A published combination by name (`sdk/presets.py`, docs/client.md) in place of `rewards`, which may then only
    add rewards of weight 0: those are held out (docs/reward-hygiene.md).
    """
    rewards: dict[str, RewardConfig] = Field(default_factory=dict)
    """By reward, or by `REWARD/VARIANT` where two variants of one service take part."""
    sampling: SamplingConfig = SamplingConfig()
    schedule: tuple[PhaseConfig, ...] = ()
    """Phases one after the other, from the first again after the last, until `steps` updates are made; () = one phase
    that learns both.
    """
    selector: SelectorConfig = DgsConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    optimiser: OptimiserConfig = OptimiserConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @field_validator("policy", mode="before")
    @classmethod
    def _short_form(cls, value: object) -> object:
        return {"weights": "" if value == "pocket" else value} if isinstance(value, str) else value

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, values: Any) -> Any:
        """`rewards` of a preset, with those that are added. A run's own `config.json` has both and means the same."""
        if not isinstance(values, dict) or not values.get("preset"):
            return values
        named = {
            name: RewardConfig(weight=use.weight, affine=(use.affine.scale, use.affine.shift) if use.affine else None)
            for name, use in preset_named(values["preset"]).uses.items()
        }
        added = {name: RewardConfig.model_validate(entry) for name, entry in (values.get("rewards") or {}).items()}
        for name, entry in added.items():
            if entry.weight if name not in named else entry != named[name]:
                raise ValueError(
                    f"preset {values['preset']!r} says what the rewards are; beside it rewards may only add some of "
                    f"weight 0, got {name}: {entry.model_dump(exclude_defaults=True)}"
                )
        return values | {"rewards": named | added}

    def at(self, step: int) -> StepSampling:
        """What the step after `step` updates draws."""
        if not self.schedule:
            return self.phase(None)
        step %= sum(phase.updates for phase in self.schedule)
        for phase in self.schedule:
            if step < phase.updates:
                return self.phase(phase)
            step -= phase.updates
        raise AssertionError("the remainder is smaller than the sum")

    def phase(self, phase: PhaseConfig | None) -> StepSampling:
        """What the steps of `phase` draw; None = those of a run without a schedule."""
        changed = {} if phase is None else phase.model_dump(exclude_none=True, exclude={"updates", "learn"})
        sampling, learn = self.sampling.model_copy(update=changed), phase.learn if phase else "both"
        answers = 1 if learn == "pictures" else sampling.group_size
        return StepSampling(
            learn=learn,
            prompts=sampling.prompts,
            answers=answers,
            pictured=0 if learn == "answers" else 1 if learn == "pictures" else sampling.pictured_answers or answers,
            pictures=sampling.pictures_per_answer,
            sentence=sampling.sentence,
            recall_share=sampling.recall_share,
        )

    def updates_of(self, modality: Literal["answers", "pictures"]) -> int:
        """How many of the run's steps learn that."""
        return sum(self.at(step).learn in ("both", modality) for step in range(self.steps))

    @property
    def services(self) -> tuple[str, ...]:
        """The rewards whose services the run or its gate asks."""
        return tuple(dict.fromkeys(reward_of(name) for name in (*self.rewards, *self.selector.gate_weights)))

    def judges_of(self, reward: str) -> Part | None:
        """What the configuration says that a reward judges; None = its service has to say it."""
        uses = (use for name, use in self.rewards.items() if reward_of(name) == reward)
        return next((use.judges for use in uses if use.judges), None)

    @model_validator(mode="after")
    def _fits_together(self) -> TrainConfig:
        if not any(reward.weight > 0 for reward in self.rewards.values()):
            raise ValueError("at least one reward needs a weight above 0")
        for name, reward in self.rewards.items():
            if reward.judges and reward.judges != self.judges_of(reward_of(name)):
                raise ValueError(f"rewards.{name}.judges is {reward.judges!r}, but another use of that service differs")
        self.selector.check_group_size(self.sampling.group_size)
        _check_schedule(self)
        known = {name: self.judges_of(name) or BUILT_IN_REWARDS.get(name) for name in self.services}
        check_parts(self, {name: part for name, part in known.items() if part})
        if self.combination == "gdpo" and self.sampling.chunks > 1:
            raise ValueError("combination gdpo whitens over the whole batch, so it needs sampling.chunks = 1")
        if self.parallel == "fsdp2" and self.policy.lora:
            raise ValueError("parallel fsdp2 divides weights of one type; adapters on other weights train with ddp")
        return self


def _check_schedule(config: TrainConfig) -> None:
    """Raises ValueError for steps that could not learn what they are for."""
    phases = [config.phase(phase) for phase in config.schedule] or [config.phase(None)]
    for sampling in phases:
        if sampling.sentence == "true" and sampling.learn != "pictures":
            raise ValueError('sentence: "true" is for a phase of schedule that learns pictures; answers need their own')
        if sampling.pictured > sampling.answers:
            raise ValueError(
                f"pictured_answers ({sampling.pictured}) must be at most group_size ({sampling.answers}): only answers "
                "that are drawn can be pictured"
            )
        if sampling.learn == "pictures" and sampling.pictures < 2:
            raise ValueError("a phase that learns pictures needs pictures_per_answer of at least 2 to compare them")
    wanted = {"selector.kind": "none", "combination": "weighted_sum", "objective.kind": "sync_grpo"}
    found = {
        "selector.kind": config.selector.kind, "combination": config.combination,
        "objective.kind": config.objective.kind,
    }  # fmt: skip
    if any(sampling.tree for sampling in phases) and (wrong := {k: v for k, v in found.items() if v != wanted[k]}):
        raise ValueError(
            "schedule, pictures_per_answer and pictured_answers work with "
            + ", ".join(f"{key} {wanted[key]} (got {value})" for key, value in wrong.items())
        )


def check_parts(config: TrainConfig, judges: Mapping[str, Part]) -> None:
    """Raises ConfigError where a phase learns a part of the trajectories that no weighted reward judges.

    `judges`: what each reward judges; one that is not there, because only its service knows, may judge anything.
    """
    weighted = {reward_of(name) for name, reward in config.rewards.items() if reward.weight > 0}
    if not weighted <= judges.keys():
        return
    for sampling in [config.phase(phase) for phase in config.schedule] or [config.phase(None)]:
        for part, learnt in (("answer", "pictures"), ("picture", "answers")):
            if sampling.tree and sampling.learn != learnt and not any(judges[name] == part for name in weighted):
                known = ", ".join(name for name, judged in BUILT_IN_REWARDS.items() if judged == part)
                raise ConfigError(f"learning {part}s needs a weight above 0 for a reward that judges {part}s: {known}")


def check_names(config: TrainConfig, known: Collection[str], lacks: str) -> None:
    """Raises ConfigError for a reward of the run or its gate that is none of `known`; `lacks`: "no endpoint for"."""
    for section, names in (("rewards", config.rewards), ("selector.weights", config.selector.gate_weights)):
        for name in map(reward_of, names):
            if name not in known:
                raise ConfigError(f"{section}: {lacks} {name!r}; expected some of {nearest_first(name, known)}")


def processes_error(config: TrainConfig, processes: int) -> str:
    """Why the run cannot be divided among so many processes; "" if it can."""
    if config.sampling.prompts < processes:
        return (
            f"sampling.prompts is {config.sampling.prompts}, too few for {processes} processes: each needs a prompt of "
            "its own"
        )
    if config.combination == "gdpo" and processes > 1:
        return "combination gdpo whitens over the whole batch, so it needs a single process"
    return ""

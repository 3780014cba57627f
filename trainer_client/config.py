"""What a training run can be told: one YAML file, checked by pydantic, each field documented where it is declared.

`load_config` reads a file and applies `--set key=value` overrides; an unknown or malformed key is an error that names
it. The defaults of the formulas are the project's own choices (`sync_grpo.py`, `dgs.py` say how they differ from the
release).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from sync_r1.reward_models.errors import SyncR1Error
from sync_r1.trainer_client.config_keys import migrate, renamed_keys
from sync_r1.trainer_client.sdk.presets import preset_named
from sync_r1.trainer_client.sdk.reward_use import reward_of

IMAGE_REWARDS = ("concept-consistency", "text-faithfulness", "aesthetic")
ANSWER_REWARD = "understanding-correctness"


class ConfigError(SyncR1Error, ValueError):
    """The configuration says something it cannot mean; the message names the key, what was expected and what came."""


LONGEST_S = 7 * 86_400.0
"""The longest wait that may be configured: every wait has a bound, so infinity is none."""
MOST_SEED = (1 << 32) - 1
"""The largest seed that every random generator takes."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Weight = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, lt=1)]


class LoraConfig(_Section):
    """Low-rank adapters (Hu et al., arXiv 2106.09685) by peft: the weights stay, small matrices beside them train."""

    rank: int = Field(default=16, ge=1)
    alpha: float = Field(default=32.0, gt=0)
    """The adapters' product is scaled by alpha / rank."""
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    """Names of the language model's layers that get one."""


class PolicyConfig(_Section):
    """What is trained. `policy: pocket` and `policy: FOLDER` (one that a policy was saved to) are short forms."""

    kind: Literal["pocket", "showo", "janus"] = "pocket"
    """A folder that a policy was saved to says its kind itself."""
    weights: str = ""
    """A folder with weights; "" = the checked-in cold start (pocket only); "random" = random ones at full size, only
    for `--check` and `benchmarks/experiments/full_size_step.py`.
    """
    image_tokenizer: str = ""
    """showo: the folder of MAGVIT-v2's weights."""
    text_tokenizer: str = ""
    """showo: the folder of Phi-1.5's tokenizer."""
    size: Literal["1b", "7b"] = "1b"
    """janus: the published size of which random weights or, without the folder, the plan are made."""
    dtype: Literal["fp32", "bf16"] = "fp32"
    """Of the weights (`precision` is that of the products). An update of 1e-6 is lost in bf16's eight bits, so full
    fine-tuning needs fp32; frozen weights below adapters do not (the adapters are always fp32).
    """
    device: str = ""
    """"cuda", "cuda:1" or "cpu"; "" = the graphics card of this process (LOCAL_RANK) if there is one, else the
    processor. The pocket policy always runs on the processor.
    """
    steps: int | None = Field(default=None, ge=1)
    """Decoding steps of a picture; None = the policy's own (janus: one per row of the picture's grid)."""
    guidance: float | None = Field(default=None, ge=0)
    """Classifier-free guidance as the model's own code counts it: pocket and showo g in (1+g)·conditional −
    g·unconditional, 0 = none; janus w in unconditional + w·(conditional − unconditional), 1 = none. None = the policy's
    own (janus: 5).
    """
    noise: float | None = Field(default=None, ge=0)
    """pocket and showo: initial scale τ of the Gumbel noise on the confidence by which tokens are masked again; None =
    the policy's own.
    """
    answer_tokens: int = Field(default=100, ge=1)
    """Longest answer that showo and janus give."""
    lora: LoraConfig | None = None
    """janus: train adapters instead of the language model's own weights."""


class RewardConfig(_Section):
    """One of the four rewards as this run uses it."""

    weight: float = Field(ge=0)
    """Share in the total reward; scores are mapped to [0, 1] by the served card first. 0 = scored and logged only."""
    variant: str = ""
    """Which definition ("" = the one in the reward's key, `aesthetic/pickscore`, else the service's default)."""
    affine: tuple[float, float] | None = None
    """(scale, shift) of the map from the raw score to [0, 1]; None = the card's."""


class SamplingConfig(_Section):
    """How trajectories are drawn from the policy."""

    prompts: int = Field(default=6, ge=1)
    """Groups per step; a group shares one question and one condition."""
    group_size: int = Field(default=8, ge=2)
    """Trajectories per group (G): answers to one prompt (K), each with a picture unless the next keys say otherwise."""
    pictures_per_answer: int = Field(default=1, ge=1)
    """Pictures drawn from one answer's sentence (M). From 2 on a picture is credited against the other pictures of the
    *same* sentence (`sync_grpo.tree_credit`); with 1 against its group.
    """
    pictured_answers: int | None = Field(default=None, ge=1)
    """How many of a group's answers (m of K), drawn at random, get pictures; all of them are scored and learnt from.
    None = all.
    """
    sentence: Literal["own", "true"] = "own"
    """What pictures are drawn from: the sentence of the policy's own answer, or the right one (only in a phase of
    `schedule` that learns pictures).
    """
    recall_share: float = Field(default=0.5, ge=0, le=1)
    """Share of groups with task r (recall a fact from text); the others are task u (a question about a picture)."""
    learnability: float = Field(default=0.8, ge=0, le=1)
    """Share of groups drawn in proportion to how much their prompt's rewards varied; 0 = all uniformly
    (`curriculum.py`).
    """
    temperature: float = Field(default=1.0, gt=0)
    """Of the tokens. 1 keeps samples on-policy: the loss uses the policy's own probabilities."""
    chunks: int = Field(default=1, ge=1)
    """Parts (of whole groups) in which a batch is sampled; each is scored, and its gate asked, while others are
    sampled, so a run with a gate waits for it only with one part. The draws differ from those of another number, not
    their distribution.
    """
    rollout_rows_max: int = Field(default=64, ge=1)
    """Most trajectories that the policy draws at once; bounds memory."""


class PhaseConfig(_Section):
    """So many updates that learn one thing; what is None is as in `sampling`."""

    updates: int = Field(ge=1)
    learn: Literal["both", "answers", "pictures"] = "both"
    """"answers": no picture is drawn, answers learn from the answers' reward. "pictures": one sentence per prompt, and
    `pictures_per_answer` pictures of it that learn from the pictures' rewards.
    """
    prompts: int | None = Field(default=None, ge=1)
    group_size: int | None = Field(default=None, ge=2)
    pictures_per_answer: int | None = Field(default=None, ge=1)
    pictured_answers: int | None = Field(default=None, ge=1)
    sentence: Literal["own", "true"] | None = None
    recall_share: float | None = Field(default=None, ge=0, le=1)


@dataclass(frozen=True)
class StepSampling:
    """What one step draws and learns: `sampling`, as the phase that the step belongs to changes it."""

    learn: Literal["both", "answers", "pictures"]
    prompts: int
    answers: int
    """Per prompt (K)."""
    pictured: int
    """Of these, with pictures (m)."""
    pictures: int
    """Per pictured answer (M)."""
    sentence: Literal["own", "true"]
    recall_share: float

    @property
    def tree(self) -> bool:
        """Whether it is other than plain groups: one answer, one picture each."""
        return self.learn != "both" or self.pictures > 1 or self.pictured < self.answers


class SelectorConfig(_Section):
    """Which trajectories are finished (`rollouts/dgs.py`) and which enter the loss (`rollouts/selectors.py`)."""

    kind: Literal["none", "dgs", "dapo", "pods"] = "dgs"
    preview_at: float = Field(default=0.3, gt=0, lt=1)
    """dgs: share of the decoding steps after which a preview is decoded (the release: 10 of 50)."""
    target_acceptance: float = Field(default=0.5, gt=0, le=1)
    """dgs: θ is the (1 - this) quantile; G / this previews are proposed per round. The release aims at 0.25."""
    keep: Literal["above", "spread"] = "above"
    """dgs: "above": previews whose score exceeds θ; "spread": the G whose scores vary most (no θ, one round)."""
    threshold: Literal["quantile", "released"] = "quantile"
    """dgs: "quantile": θ per prompt from its own gate scores; "released": one global θ as in the public code."""
    group: Literal["fixed", "dynamic"] = "fixed"
    """dgs: "fixed": G per group; "dynamic": all that pass within [group_min, group_max], leave-one-out baseline."""
    group_min: int = Field(default=4, ge=2)
    group_max: int = Field(default=12, ge=2)
    max_rounds: int = Field(default=2, ge=1)
    """dgs: rounds of previews before a group is filled with the best rejected ones; dapo: at most this many times the
    wanted groups are drawn.
    """
    weights: dict[str, Weight] = {"concept-consistency": 0.65, "text-faithfulness": 0.35}
    """dgs: the gate's score. With understanding-correctness the answer, known by then, is scored as well."""
    learn_from_rejected: bool = False
    """dgs: rejected previews enter the loss as truncated trajectories with their preview's reward (ablation)."""
    min_correlation: float = Field(default=0.1, ge=-1, le=1)
    """dgs: the gate is switched off when its rank correlation with the final reward stays below this."""
    patience: int = Field(default=6, ge=1)
    """dgs: steps over which that correlation is averaged before it can switch the gate off."""
    candidates: int = Field(default=16, ge=2)
    """pods: trajectories per group that are finished; `sampling.group_size` of them enter the loss."""
    min_std: float = Field(default=0.01, ge=0)
    """dapo: groups whose total rewards have at most this standard deviation are dropped."""

    @model_validator(mode="after")
    def _fits(self) -> SelectorConfig:
        if not set(self.weights) <= {*IMAGE_REWARDS, ANSWER_REWARD}:
            raise ValueError(f"weights may name {(*IMAGE_REWARDS, ANSWER_REWARD)}, got {sorted(self.weights)}")
        if self.kind == "dgs" and not any(weight > 0 for weight in self.weights.values()):
            raise ValueError("weights: at least one of the gate's rewards needs a weight above 0")
        if self.group_max < self.group_min:
            raise ValueError(f"group_max ({self.group_max}) must be at least group_min ({self.group_min})")
        if self.keep == "spread" and self.group == "dynamic":
            raise ValueError("keep: spread keeps exactly G per group; group: dynamic needs keep: above")
        return self


class ObjectiveConfig(_Section):
    """Sync-GRPO's objective (see `sync_grpo.py`)."""

    kind: Literal["sync_grpo", "best_of_n"] = "sync_grpo"
    """"best_of_n": supervised fine-tuning on the best trajectory of each group (a control)."""
    baseline: Literal["mean", "leave_one_out"] = "mean"
    scale: Literal["none", "std"] = "none"
    credit: Literal["per_modality", "joint"] = "per_modality"
    text_loss: bool = True
    """False = answer tokens are rewarded but get no gradient, as in the release (ablation)."""
    answer_weight: float = Field(default=1.0, ge=0)
    image_weight: float = Field(default=1.0, ge=0)
    clip: float = Field(default=0.2, gt=0)
    beta: float = Field(default=0.01, ge=0)
    """Weight of the k3 KL to the frozen start policy; 0 saves its forward passes."""
    image_beta: float | None = Field(default=None, ge=0)
    """The same for image tokens; None = `beta`."""
    image_scale: Literal["none", "batch_rms"] = "none"
    """"batch_rms": the advantages of pictures are divided by their root mean square over the batch, so that the size of
    an update does not depend on how far the pictures' rewards happen to differ.
    """
    epochs: int = Field(default=1, ge=1)
    """Updates per rollout batch; the clip only acts from the second one on."""
    answer_tokens: int = Field(default=16, ge=1)
    """The constant that divides the sum over an answer's tokens (about the longest answer the policy can give)."""
    image_steps: int = Field(default=0, ge=0)
    """Decoding steps per update whose tokens enter the loss, drawn anew each time and re-weighted (unbiased); 0 =
    all.
    """
    permute_rewards_within_group: bool = False
    """The control: every reward keeps its group but not its trajectory. It must show no gain."""


class ImageOptimiserConfig(_Section):
    """AdamW of the pictures' loss alone, with moments of its own; the defaults are those that the pocket policy learns
    pictures with (`benchmarks/RESULTS.md` has the figures).
    """

    learning_rate: float = Field(default=2e-4, gt=0)
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = Field(default=0.0, ge=0)
    grad_clip: float = Field(default=1.0, gt=0)
    warmup_steps: int = Field(default=4, ge=0)
    final_share: float = Field(default=0.3, ge=0, le=1)


class OptimiserConfig(_Section):
    """AdamW with warm-up and cosine decay."""

    image: ImageOptimiserConfig | None = None
    """Settings of the pictures' loss; None = one optimiser for the sum of both losses."""
    learning_rate: float = Field(default=1e-4, gt=0)
    betas: tuple[Share, Share] = (0.9, 0.999)
    weight_decay: float = Field(default=1e-3, ge=0)
    grad_clip: float = Field(default=1.0, gt=0)
    warmup_steps: int = Field(default=3, ge=0)
    final_share: float = Field(default=0.1, ge=0, le=1)
    """Learning rate at the last step as a share of the peak."""
    micro_batch: int = Field(default=8, ge=1)
    """Trajectories per backward pass; bounds memory and changes no result."""
    micro_steps: int = Field(default=8, ge=1)
    """Decoding steps per backward pass over pictures; bounds memory and changes no result."""


class UnifyBenchConfig(_Section):
    """What `sync-r1 evaluate` measures beyond that: the variant behind each metric (`unifybench_metrics.py`)."""

    pictures: int = Field(default=4, ge=1)
    """Per DreamBooth prompt and per held-out condition."""
    prompts: int = Field(default=25, ge=1, le=25)
    """How many of DreamBooth's prompts."""
    recognition: str = "yes_no"
    answers: tuple[str, ...] = ("bleu", "judge")
    recall: str = "selection"
    clip_i: str = "clip_i"
    clip_t: str = "clip_t"
    face: str = "arcface"
    knowledge: str = "oracle"
    """ "oracle" (PocketBench has one) or a variant of text-faithfulness that gives 0, 0.5 or 1: "judge"."""


class EvaluationConfig(_Section):
    """The measurement before and after, on held-out conditions and with the same seed both times."""

    pictures_per_condition: int = Field(default=8, ge=1)
    true_sentence_pictures: int = Field(default=0, ge=0)
    """Per condition, drawn from the right sentence instead of the policy's own answer: what the picture half can do by
    itself.
    """
    seed: int = Field(default=20_260, ge=0, le=MOST_SEED)
    """Not the run's seed: runs with different seeds are measured on the same draws."""
    shown: int = Field(default=16, ge=1)
    """Pictures kept for the report."""
    every: int = Field(default=0, ge=0)
    """Steps between further measurements during training (`evaluation/step-000010.json`, …); 0 = none."""
    unifybench: UnifyBenchConfig = UnifyBenchConfig()


class TrainConfig(_Section):
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
    rewards: dict[str, RewardConfig] = {}
    """By reward, or by `REWARD/VARIANT` where two variants of one service take part."""
    sampling: SamplingConfig = SamplingConfig()
    schedule: tuple[PhaseConfig, ...] = ()
    """Phases one after the other, from the first again after the last, until `steps` updates are made; () = one phase
    that learns both.
    """
    selector: SelectorConfig = SelectorConfig()
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

    @model_validator(mode="after")
    def _rewards_known(self) -> TrainConfig:
        known = {*IMAGE_REWARDS, ANSWER_REWARD}
        if unknown := {name for name in self.rewards if reward_of(name) not in known}:
            raise ValueError(f"rewards may name {sorted(known)}, got {sorted(unknown)}")
        if not any(reward.weight > 0 for reward in self.rewards.values()):
            raise ValueError("at least one reward needs a weight above 0")
        if self.selector.kind == "pods" and self.selector.candidates < self.sampling.group_size:
            raise ValueError(
                f"selector.candidates ({self.selector.candidates}) must be at least sampling.group_size "
                f"({self.sampling.group_size}), because that many of them are kept"
            )
        _check_schedule(self)
        if self.combination == "gdpo" and self.sampling.chunks > 1:
            raise ValueError("combination gdpo whitens over the whole batch, so it needs sampling.chunks = 1")
        if self.parallel == "fsdp2" and self.policy.lora:
            raise ValueError("parallel fsdp2 divides weights of one type; adapters on other weights train with ddp")
        return self


def _check_schedule(config: TrainConfig) -> None:
    """Raises ValueError for steps that could not learn what they are for."""
    weighted = {reward_of(name) for name, reward in config.rewards.items() if reward.weight > 0}
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
        if sampling.learn != "pictures" and sampling.tree and ANSWER_REWARD not in weighted:
            raise ValueError(f"learning answers needs a weight above 0 for {ANSWER_REWARD}")
        if sampling.learn != "answers" and sampling.tree and not weighted & set(IMAGE_REWARDS):
            raise ValueError(f"learning pictures needs a weight above 0 for one of {IMAGE_REWARDS}")
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


def load_config(file: Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """Read `file` and apply overrides such as "objective.beta=0" (values are YAML, so `false` is a bool).

    `file` may be a run's own `config.json`. Raises ConfigError when the file is missing, is no YAML mapping, or a key
    or value does not fit; for a key that has another name now the message says it.
    """
    try:
        values = yaml.safe_load(file.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read the configuration {file}: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{file}: expected a mapping of keys, got {type(values).__name__}")
    try:
        values = migrate(values) if "format" in values else values
    except ValueError as error:
        raise ConfigError(f"{file}: {error}") from error
    _refuse_renamed(values, str(file))
    for override in overrides:
        own: dict[str, Any] = {}
        _apply(own, override)
        _refuse_renamed(own, f"--set {override}")
        _apply(values, override)
    try:
        return TrainConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "(the whole file)"
        raise ConfigError(f"{file}: key {key!r}: {first['msg']}; got {str(first.get('input'))[:80]!r}") from None


def _refuse_renamed(values: dict[str, Any], where: str) -> None:
    if names := renamed_keys(values):
        changes = ", ".join(f"{old!r} is called {new!r} now" for old, new in names.items())
        raise ConfigError(f"{where}: {changes}; the meaning is the same, so use the new name")


def _apply(values: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals:
        raise ConfigError(f"--set wants key=value, e.g. objective.beta=0; got {override!r}")
    *parents, last = path.split(".")
    section = values
    for parent in parents:
        section = section.setdefault(parent, {})
        if not isinstance(section, dict):
            raise ConfigError(f"--set {override!r}: {parent!r} is a value, not a section")
    section[last] = yaml.safe_load(text)


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

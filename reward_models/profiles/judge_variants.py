"""Variants that ask a judge, from their YAML to a `Reward`: part of `variants.py`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from sync_r1.reward_models.graphs.judges import Judge
from sync_r1.reward_models.graphs.spec import GraphSpec
from sync_r1.reward_models.profiles.card_texts import CardMaker
from sync_r1.reward_models.profiles.file_parts import CardFile
from sync_r1.reward_models.profiles.judge_files import built_in_judge, read_judge
from sync_r1.reward_models.profiles.own_variant_files import JudgeVariantFile
from sync_r1.reward_models.profiles.variant_files import (
    JudgedAnswerVariantFile,
    JudgedPicturesVariantFile,
    JudgedSceneVariantFile,
    VqaScoreVariantFile,
)
from sync_r1.reward_models.rewards import judged, judged_groups
from sync_r1.reward_models.rewards.base import Reward
from sync_r1.reward_models.rewards.judge_forms import JudgeForm
from sync_r1.reward_models.types import ProfileError


def judge_spec(name: str, version: int, judge: Judge) -> GraphSpec:
    """A judge as the graph that it is to a release."""
    return GraphSpec(name, version, Path(), (), (), max_batch_size=1, judge=judge)


def judged_answer(file: JudgedAnswerVariantFile, make: CardMaker, judge: GraphSpec) -> Reward:
    """`understanding-correctness` by a judge. Raises ProfileError."""
    return _reward(file.card, make, judge, _built_in(judge, "answer"))


def judged_pictures(file: JudgedPicturesVariantFile, make: CardMaker, judge: GraphSpec) -> Reward:
    """A group's pictures by a judge: their structure or their identity. Raises ProfileError."""
    form = replace(_built_in(judge, "pictures"), score=((file.mark, 1.0),))
    return _reward(file.card, make, judge, form, file.max_group)


def judged_scene(file: JudgedSceneVariantFile, make: CardMaker, judge: GraphSpec) -> Reward:
    """`text-faithfulness` by a judge who sees a reference too. Raises ProfileError."""
    return _reward(file.card, make, judge, _built_in(judge, "scene"))


def vqascore(file: VqaScoreVariantFile, make: CardMaker, judge: GraphSpec) -> Reward:
    """`text-faithfulness` by the probability of yes. Raises ProfileError."""
    return _reward(file.card, make, judge, _built_in(judge, "vqascore"))


def own_judge(file: JudgeVariantFile, make: CardMaker, graphs: dict[str, GraphSpec]) -> Reward:
    """A judge by a prompt file, which becomes one of `graphs` under the file's name. Raises ProfileError."""
    judge, form = read_judge(file.judge)
    spec = graphs.setdefault(file.judge.stem, judge_spec(file.judge.stem, 1, judge))
    if spec.judge != judge:
        raise ProfileError(
            f"judge: {file.judge} would be called {spec.name!r}, as another graph of the profile is; rename the file"
        )
    ends = [*form.score_range, *([] if form.blank_answer is None else [form.blank_answer])]
    if min(ends) < file.card.raw_min or max(ends) > file.card.raw_max:
        raise ProfileError(
            f"card: {file.judge} gives scores from {min(ends):g} to {max(ends):g}, but `raw_min` is "
            f"{file.card.raw_min:g} and `raw_max` {file.card.raw_max:g}; state what it gives, and `zero_at` and "
            "`one_at` with it"
        )
    return _reward(file.card, make, spec, form, file.max_group)


def _reward(file: CardFile, make: CardMaker, judge: GraphSpec, form: JudgeForm, max_group: int = 0) -> Reward:
    if form.groupwise:
        version = judged_groups.FORMULA_VERSION
        card = make.card(file, version=version, required=form.required, graphs=[judge], groupwise=True)
        return judged_groups.JudgedGroup(card, judge, form, max_group)
    card = make.card(file, version=judged.FORMULA_VERSION, required=form.required, graphs=[judge])
    return judged.JudgedItem(card, judge, form)


def _built_in(graph: GraphSpec, name: str) -> JudgeForm:
    prompt, form = built_in_judge(name)
    if graph.judge is None or graph.judge.prompt != prompt:
        raise ProfileError(f"graph {graph.name!r} is no such judge: it needs `endpoint: {name}`")
    return form

"""Variants that ask a judge, from their YAML to a `Reward`: part of `variants.py`."""

from __future__ import annotations

from sync_r1.reward_models.graphs.judges import ANSWER, PICTURES, SCENE, VQASCORE, JudgePrompt
from sync_r1.reward_models.graphs.spec import GraphSpec
from sync_r1.reward_models.profiles.card_texts import CardMaker
from sync_r1.reward_models.profiles.variant_files import (
    JudgedAnswerVariantFile,
    JudgedPicturesVariantFile,
    JudgedSceneVariantFile,
    VqaScoreVariantFile,
)
from sync_r1.reward_models.rewards import judged, judged_groups
from sync_r1.reward_models.rewards.base import Reward
from sync_r1.reward_models.types import ProfileError


def judged_answer(file: JudgedAnswerVariantFile, make: CardMaker, judge: GraphSpec) -> Reward:
    """`understanding-correctness` by a judge. Raises ProfileError."""
    _check(judge, ANSWER)
    return judged.JudgedAnswer(
        make.card(file.card, version=judged.FORMULA_VERSION, required=judged.ANSWER_FIELDS, graphs=[judge]), judge
    )


def judged_pictures(file: JudgedPicturesVariantFile, make: CardMaker, judge: GraphSpec) -> Reward:
    """A group's pictures by a judge: their structure or their identity. Raises ProfileError."""
    _check(judge, PICTURES)
    card = make.card(
        file.card, version=judged_groups.FORMULA_VERSION, required=judged_groups.REQUIRED_FIELDS, graphs=[judge],
        groupwise=True,
    )  # fmt: skip
    return judged_groups.JudgedPictures(card, judge, file.mark, file.max_group)


def judged_scene(file: JudgedSceneVariantFile, make: CardMaker, judge: GraphSpec) -> Reward:
    """`text-faithfulness` by a judge who sees a reference too. Raises ProfileError."""
    _check(judge, SCENE)
    return judged.JudgedScene(
        make.card(file.card, version=judged.FORMULA_VERSION, required=judged.SCENE_FIELDS, graphs=[judge]), judge
    )


def vqascore(file: VqaScoreVariantFile, make: CardMaker, judge: GraphSpec) -> Reward:
    """`text-faithfulness` by the probability of yes. Raises ProfileError."""
    _check(judge, VQASCORE)
    return judged.VqaScore(
        make.card(file.card, version=judged.FORMULA_VERSION, required=judged.VQASCORE_FIELDS, graphs=[judge]), judge
    )


def _check(graph: GraphSpec, prompt: JudgePrompt) -> None:
    if graph.judge is None or graph.judge.prompt != prompt:
        raise ProfileError(f"graph {graph.name!r} is no such judge: it needs `endpoint: {prompt.name}`")

"""The rewards measure what their names say, measured again here on the files that are served now."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from sync_r1.reward_models.backends.graph_store import ensure_graphs
from sync_r1.reward_models.profiles import Profile, load_profile
from sync_r1.reward_models.types import Sample
from sync_r1.reward_models.validity import measure as validity
from sync_r1.reward_models.validity.pocket_rewards import measure_concept, measure_text

FIGURES = json.loads(Path(validity.__file__).with_name("validity.json").read_text())


@pytest.fixture(scope="module")
def profile() -> Profile:
    profile = load_profile("pocket")
    ensure_graphs(profile, graphs=["efficientnet_lite2"])
    return profile


async def test_dino_tells_photographed_subjects_apart(profile: Profile, shared_data: Path) -> None:
    figures = await validity.measure_dino(profile, validity.read_photos(shared_data / "photos"))
    assert figures["one_reference/same_vs_other_subject_auc"] >= 0.97
    assert figures["one_reference/within_class_auc"] >= 0.95
    for name, value in figures.items():
        assert value == pytest.approx(FIGURES["dino"][name], abs=2e-3), "the card is out of date: run the command on it"


async def test_concept_consistency_tells_rendered_looks_apart(profile: Profile) -> None:
    async def scores(reward: str, variant: str, samples: Sequence[Sample]) -> npt.NDArray[np.float64]:
        return await validity.score_all(profile.rewards[reward], variant, samples, profile)

    figures = await measure_concept("clip_i", scores, validity.auc)
    assert figures["same_vs_other_look_auc"] >= 0.95
    for name, value in figures.items():
        assert value == pytest.approx(FIGURES["clip_i"][name], abs=2e-3), (
            "the card is out of date: run the command on it"
        )


async def test_text_faithfulness_prefers_the_own_caption_and_notices_one_changed_fact(profile: Profile) -> None:
    async def scores(reward: str, variant: str, samples: Sequence[Sample]) -> npt.NDArray[np.float64]:
        return await validity.score_all(profile.rewards[reward], variant, samples, profile)

    for variant in ("clip_t", "clauses"):
        figures = await measure_text(variant, scores, validity.auc, count=48)
        assert figures["own_vs_other_caption_auc"] >= 0.99
        assert min(value for name, value in figures.items() if name.startswith("preferred_to")) >= 0.85

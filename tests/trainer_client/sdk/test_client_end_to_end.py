"""The SDK against the real thing: four services of the pocket profile on a real Triton."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pytest

from sync_r1.trainer_client import (
    PRESETS,
    Concept,
    FailureCode,
    RequestRejected,
    RewardClient,
    RewardEnsemble,
    Sample,
    SyncRewardEnsemble,
    picture,
)

if TYPE_CHECKING:
    from sync_r1.services.local.up import Up


@pytest.fixture(scope="module")
def ensemble(services: Up) -> Iterator[SyncRewardEnsemble]:
    with SyncRewardEnsemble(RewardEnsemble.from_endpoints(services.endpoints)) as blocking:
        blocking.wait_ready(30)
        yield blocking


def samples(count: int = 4) -> list[Sample]:
    rng = np.random.default_rng(0)
    pictures = [picture(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)) for _ in range(count)]
    concept = Concept("<bo>", "dog", references=(pictures[0], pictures[-1]))
    return [
        Sample(
            id=f"item-{i}",
            group=str(i // 2),
            image=image,
            prompt="a red dog left of a blue ball",
            concept=concept,
            question="What does <bo> wear?",
            answer="<bo> wears a red hat." if i else "<bo> wears two blue hats.",
            reference_answers=("<bo> wears a red hat.",),
        )
        for i, image in enumerate(pictures)
    ]


def test_all_four_rewards_score_a_batch(ensemble: SyncRewardEnsemble) -> None:
    result = ensemble.score(samples())
    assert result.valid_N.all()
    assert set(result.rewards) == set(PRESETS["default"].uses)
    for reward in result.rewards.values():
        assert len(reward.release) == 64
        assert ((reward.scores_N >= 0) & (reward.scores_N <= 1)).all()
        assert reward.timings[0].triton_ns > 0
    # Half of the references are item 0 itself, so no other item may look more like them; a wrong answer scores lower.
    assert result.rewards["concept-consistency"].raw_N.argmax() in (0, 3)
    assert result.rewards["understanding-correctness"].raw_N.argmin() == 0


def test_two_variants_of_one_service_take_part_side_by_side(services: Up) -> None:
    names = ("concept-consistency/clip_i", "concept-consistency/dino")
    both = RewardEnsemble.from_endpoints(services.endpoints, weights=dict.fromkeys(names, 0.5))
    with SyncRewardEnsemble(both) as blocking:
        blocking.wait_ready(30)
        result = blocking.score(samples())
    assert {name: reward.variant for name, reward in result.rewards.items()} == dict(zip(names, ("clip_i", "dino")))
    first, second = (result.rewards[name] for name in names)
    np.testing.assert_allclose(result.total_N, (first.scores_N + second.scores_N) / 2)
    assert (first.raw_N != second.raw_N).any()  # noise looks alike to both on [0, 1]: all 1


def test_scores_do_not_depend_on_how_references_travel(ensemble: SyncRewardEnsemble) -> None:
    inline, by_digest = (ensemble.score(samples()).rewards["concept-consistency"].raw_N for _ in range(2))
    np.testing.assert_allclose(inline, by_digest, atol=1e-5)


def test_corrupt_picture_costs_its_item_only(ensemble: SyncRewardEnsemble) -> None:
    whole, damaged = samples(), samples()
    damaged[1] = Sample(**{**vars(damaged[1]), "image": picture(b"\x89PNG\r\n\x1a\n broken")})
    before, after = ensemble.score(whole), ensemble.score(damaged)
    assert after.valid_N.tolist() == [True, False, True, True]
    assert np.isnan(after.total_N[1])
    assert after.rewards["aesthetic"].failures[1].code is FailureCode.BAD_IMAGE
    assert after.rewards["understanding-correctness"].valid_N.all()
    np.testing.assert_allclose(after.total_N[after.valid_N], before.total_N[after.valid_N], atol=1e-5)


async def test_pins_and_variants_are_checked_by_name(services: Up) -> None:
    async with RewardClient(services.endpoints["concept-consistency"]) as client:
        description = await client.describe()
        pinned = description.default_releases[description.default_variant]
        batch = await client.score(samples(), release=pinned)
        assert batch.release == pinned
        with pytest.raises(RequestRejected, match="release"):
            await client.score(samples(), release="0" * 64)
        with pytest.raises(RequestRejected, match="no variant 'nope'"):
            await client.score(samples(), variant="nope")

"""Both runners give the same numbers: every variant of every reward, in process and on a real Triton."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

from sync_r1.reward_models.backends.local import LocalRunner
from sync_r1.reward_models.images import from_raw
from sync_r1.reward_models.profiles import load_profile
from sync_r1.reward_models.runner import RunContext
from sync_r1.reward_models.types import Concept, NotApplicable, Picture, Sample, Score

if TYPE_CHECKING:
    from sync_r1.services.local.up import Up

VARIANTS = [(name, variant) for name, served in load_profile("pocket").rewards.items() for variant in served.variants]


def _picture(rng: np.random.Generator, side: int) -> Picture:
    coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)  # patches, so that resizing keeps something to tell apart
    pixels = np.kron(coarse, np.ones((side // 4, side // 4, 1), np.uint8))
    return from_raw(pixels.tobytes(), *pixels.shape[:2])


def _samples() -> list[Sample]:
    rng = np.random.default_rng(3)
    pictures = [_picture(rng, side) for side in (64, 64, 128, 224, 260)]
    answers = ("Yes, <bo> wears a red hat.", "No, two blue hats.", "B", "", "it sleeps on a green sofa")
    choices = ("a red hat", "two blue hats", "a green sofa")
    return [
        Sample(
            id=str(index),
            image=image,
            prompt="a red dog left of a blue ball",
            concept=Concept("<bo>", "dog", references=tuple(pictures[:2])),
            question="What does <bo> wear?",
            answer=answers[index],
            reference_answers=("<bo> wears a red hat.",),
            choices=choices,
            target=0,
        )
        for index, image in enumerate(pictures)
    ]


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
async def test_a_reward_scores_alike_in_process_and_on_triton(name: str, variant: str, services: Up) -> None:
    from sync_r1.services.runners.triton import TritonRunner

    profile = load_profile("pocket")
    served = profile.rewards[name]
    context = RunContext(served.release(variant), time.monotonic() + 60, "parity")
    reward, samples = served.variants[variant], _samples()
    triton = TritonRunner(services.triton_url, shared_memory=True)
    with LocalRunner(profile) as local:
        expected = await reward.score(samples, local, context)
        got = await reward.score(samples, triton, context)
    await triton.close()
    assert [type(outcome) for outcome in got] == [type(outcome) for outcome in expected]
    for here, there in zip(expected, got):
        if isinstance(here, Score) and isinstance(there, Score):
            assert there.value == pytest.approx(here.value, abs=1e-4)
            assert there.components == pytest.approx(here.components, abs=1e-4)
        else:
            assert isinstance(here, NotApplicable)  # a question that does not apply, on either runner
            assert there == here

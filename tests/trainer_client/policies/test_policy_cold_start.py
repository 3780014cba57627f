"""The cold start keeps held-out facts out, and what is checked in is what its hashes say."""

from __future__ import annotations

import hashlib
from itertools import islice

import numpy as np
import torch

from sync_r1.trainer_client.policies.base import Question
from sync_r1.trainer_client.policies.cold_start.data import drawings, findings
from sync_r1.trainer_client.policies.cold_start.losses import random_masks
from sync_r1.trainer_client.policies.pocket.policy import ARTEFACTS, PocketPolicy
from sync_r1.trainer_client.tasks.pocketbench import CONCEPTS, generation_prompt


def test_no_drawing_shows_a_concept_with_a_held_out_fact() -> None:
    for row in islice(drawings(5), 3000):
        for concept in CONCEPTS:
            for role in concept.held_out:
                assert not (concept.is_seen_in(row.scene) and concept.shows(role, row.scene)), row.text
                assert concept.condition(role) not in row.text
                assert concept.fact(role) not in row.text


def test_no_finding_tells_or_asks_a_held_out_fact() -> None:
    for question, answer in islice(findings(5), 2000):
        assert answer in question
        for concept in CONCEPTS:
            for role in concept.held_out:
                assert concept.fact(role) not in question
                assert concept.condition(role) not in question


def test_masks_follow_the_cosine_distribution() -> None:
    masks = random_masks(4000, 64, np.random.default_rng(0))
    assert masks.any(1).all()
    # The mean of cos(π/2 · u) over uniform u is 2/π.
    assert abs(float(masks.float().mean()) - 2 / np.pi) < 0.02


def test_checked_in_artefacts_are_the_hashed_ones_and_small() -> None:
    listed = dict(reversed(line.split("  ")) for line in (ARTEFACTS / "SHA256SUMS").read_text().splitlines())
    files = {path.name: path for path in ARTEFACTS.iterdir() if path.name != "SHA256SUMS"}
    assert listed == {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    assert sum(path.stat().st_size for path in files.values()) <= 15_000_000


def test_checked_in_policy_answers_and_draws() -> None:
    policy = PocketPolicy.load()
    concept = CONCEPTS[0]
    role = concept.training[0]
    answers = policy.answer([Question(f"{concept.fact(role)} {concept.condition(role)} ?")], temperature=0.0)
    assert answers.texts == [concept.fact(role)]
    prompt = generation_prompt(concept.condition(role), concept.info, concept.fact(role))
    state = policy.advance(policy.start([prompt]), policy.steps, generator=torch.Generator().manual_seed(0))
    assert policy.decode(state).shape == (1, 64, 64, 3)

"""PocketBench has the public layout, is deterministic, and keeps held-out facts out of what is trained on."""

from __future__ import annotations

import hashlib
import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from sync_r1.reward_models.pocket.world.scenes import UNSEEN_PAIRS, Accessory, Scene, Things
from sync_r1.trainer_client.policies.cold_start.data import drawings
from sync_r1.trainer_client.policies.cold_start.train_policy import PolicyTraining
from sync_r1.trainer_client.policies.pocket.policy import PocketPolicy
from sync_r1.trainer_client.tasks.named_benchmarks import POCKET_BENCHMARKS, UNSEEN_CONCEPTS, benchmark_folder
from sync_r1.trainer_client.tasks.pocketbench import CONCEPTS, ROLES, Concept, load_concepts


@pytest.fixture(scope="module", params=POCKET_BENCHMARKS)
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return benchmark_folder(request.param, tmp_path_factory.mktemp("pocketbench"))


@pytest.fixture(params=POCKET_BENCHMARKS)
def concepts(request: pytest.FixtureRequest) -> tuple[Concept, ...]:
    return POCKET_BENCHMARKS[request.param]


def _hashes(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def test_layout_is_the_public_one(bench: Path) -> None:
    names = json.loads((bench / "concepts_list.json").read_text())
    assert len(names) >= 6
    assert (bench / "black_512x512.png").exists()
    assert len(list((bench / "random_images").iterdir())) == 20
    for name in names:
        train, test = bench / "concept/train" / name, bench / "concept/test" / name
        info = json.loads((train / "info.json").read_text())
        conditions = json.loads((test / "t2i_conditions.json").read_text())["personalized_driven_generation"]
        assert len(info["extra_info"]) == len(conditions) == len(ROLES)
        assert len(list(train.glob("*.png"))) == 10
        assert list((train / "negative_example").glob("*.png"))
        for file in ("conversations.json", "positive_recognitions.json", "random_recognitions.json"):
            assert (train / file).exists()
        for file in ("0.png", "text_only.json", "vqa.json", "pocket.json"):
            assert (test / file).exists()


def test_same_seed_same_bytes(bench: Path, tmp_path: Path) -> None:
    assert _hashes(benchmark_folder(bench.name, tmp_path)) == _hashes(bench)


def test_concepts_come_back_from_disk(bench: Path) -> None:
    assert tuple(load_concepts(bench)) == POCKET_BENCHMARKS[bench.name]


def test_every_role_is_trained_by_some_concepts_and_held_out_by_others(concepts: tuple[Concept, ...]) -> None:
    for role in ROLES:
        assert 0 < sum(role in concept.held_out for concept in concepts) < len(concepts)


def test_colours_of_facts_differ_from_the_figures_own_and_pairs_of_facts_from_each_other(
    concepts: tuple[Concept, ...],
) -> None:
    for concept in concepts:
        assert concept.colour not in (concept.hat, concept.scarf, concept.toy[0], concept.charm[0])
        assert concept.hat != concept.scarf
        assert concept.place != concept.home
        assert concept.toy[1] != concept.charm[1]


def test_unseen_concepts_share_neither_name_nor_look_with_what_the_cold_start_knows() -> None:
    words = PocketPolicy.load().words
    assert all(words.knows(concept.token) for concept in CONCEPTS)
    assert not any(words.knows(concept.token) for concept in UNSEEN_CONCEPTS)
    looks = {(concept.kind, concept.colour, concept.pattern) for concept in (*CONCEPTS, *UNSEEN_CONCEPTS)}
    assert len(looks) == len(CONCEPTS) + len(UNSEEN_CONCEPTS)


def test_the_cold_start_drew_unseen_looks_with_no_held_out_fact_but_backgrounds() -> None:
    settings, shown = PolicyTraining(), []
    for row in islice(drawings(settings.seed), settings.pictures):
        shown += [
            (concept.name, role)
            for concept in UNSEEN_CONCEPTS
            if concept.is_seen_in(row.scene)
            for role in concept.held_out
            if concept.shows(role, row.scene)
        ]
    assert {role for _, role in shown} == {"place", "home"}
    assert len(shown) == 61


def test_no_training_picture_shows_a_held_out_fact(bench: Path) -> None:
    for concept in load_concepts(bench):
        assert (concept.kind, concept.colour) not in UNSEEN_PAIRS
        raw = json.loads((bench / "concept/test" / concept.name / "pocket.json").read_text())
        for factors in raw["train_pictures"].values():
            accessory = Accessory(**factors.pop("accessory")) if factors["accessory"] else factors.pop("accessory")
            things = Things(**factors.pop("things")) if factors["things"] else factors.pop("things")
            scene = Scene(**factors, accessory=accessory, things=things)
            assert concept.is_seen_in(scene)
            assert not any(concept.shows(role, scene) for role in concept.held_out)


def test_a_conditions_scene_shows_its_fact_and_no_held_out_one(concepts: tuple[Concept, ...]) -> None:
    rng = np.random.default_rng(0)
    for concept in concepts:
        for role in ROLES:
            scene = concept.scene(role, rng)
            assert concept.shows(role, scene)
            assert not any(concept.shows(other, scene) for other in concept.held_out if other != role)

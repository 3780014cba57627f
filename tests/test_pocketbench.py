"""PocketBench has the public layout, is deterministic, and keeps held-out facts out of what is trained on."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from sync_r1.reward_models.pocket.scenes import UNSEEN_PAIRS, Accessory, Scene, Things
from sync_r1.trainer_client.evaluation.pocketbench import CONCEPTS, ROLES, load_concepts, write_pocketbench


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pocketbench")
    write_pocketbench(folder)
    return folder


def _hashes(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def test_layout_is_the_public_one(bench: Path) -> None:
    names = json.loads((bench / "concepts_list.json").read_text())
    assert (
        len(names) >= 6
    )
    assert (
        (bench / "black_512x512.png").exists()
    )
    assert (
        len(list((bench / "random_images").iterdir())) == 20
    )
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
    write_pocketbench(tmp_path)
    assert _hashes(tmp_path) == _hashes(bench)


def test_concepts_come_back_from_disk(bench: Path) -> None:
    assert tuple(load_concepts(bench)) == CONCEPTS


def test_every_role_is_trained_by_some_concepts_and_held_out_by_others() -> None:
    for role in ROLES:
        assert 0 < sum(role in concept.held_out for concept in CONCEPTS) < len(CONCEPTS)


def test_no_training_picture_shows_a_held_out_fact(bench: Path) -> None:
    for concept in CONCEPTS:
        assert (concept.kind, concept.colour) not in UNSEEN_PAIRS
        raw = json.loads((bench / "concept/test" / concept.name / "pocket.json").read_text())
        for factors in raw["train_pictures"].values():
            accessory = Accessory(**factors.pop("accessory")) if factors["accessory"] else factors.pop("accessory")
            things = Things(**factors.pop("things")) if factors["things"] else factors.pop("things")
            scene = Scene(**factors, accessory=accessory, things=things)
            assert concept.is_seen_in(scene)
            assert not any(concept.shows(role, scene) for role in concept.held_out)


def test_a_conditions_scene_shows_its_fact_and_no_held_out_one() -> None:
    rng = np.random.default_rng(0)
    for concept in CONCEPTS:
        for role in ROLES:
            scene = concept.scene(role, rng)
            assert concept.shows(role, scene)
            assert not any(concept.shows(other, scene) for other in concept.held_out if other != role)

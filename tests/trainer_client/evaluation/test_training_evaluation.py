"""The oracle's verdicts are what the benchmark's own pictures deserve, so success rates mean something."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sync_r1.reward_models.pocket.world.scenes import render
from sync_r1.trainer_client.evaluation.oracle import PocketOracle
from sync_r1.trainer_client.tasks.pocketbench import ROLES, load_concepts, write_pocketbench
from sync_r1.trainer_client.tasks.tasks import Task, recall_task
from sync_r1.trainer_client.tasks.unifybench import UnifyBench, load_unifybench


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> UnifyBench:
    folder = tmp_path_factory.mktemp("pocketbench")
    write_pocketbench(folder)
    return load_unifybench(folder)


def tasks_of(bench: UnifyBench) -> list[Task]:
    rng = np.random.default_rng(0)
    return [recall_task(concept, condition, rng) for concept in bench.concepts
            for condition in (*concept.train_conditions, *concept.held_out_conditions)]  # fmt: skip


def drawn(root: Path, tasks: list[Task], *, wrong_concept: bool = False, wrong_fact: bool = False) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    concepts = load_concepts(root)
    by_name = {concept.name: index for index, concept in enumerate(concepts)}
    pictures = []
    for task in tasks:
        assert task.condition.fact is not None
        concept = concepts[(by_name[task.concept.name] + wrong_concept) % len(concepts)]
        role = ROLES[task.condition.fact]
        if wrong_fact:
            # Another kind of fact, and not one of the two that a background can show by chance.
            role = "toy" if role in ("hat", "scarf", "place", "home") else "hat"
        scene = concept.scene(role, rng)
        pictures.append(render(scene, rng))
    return pictures


def test_pictures_that_show_concept_and_fact_succeed(bench: UnifyBench) -> None:
    tasks = tasks_of(bench)
    verdicts = PocketOracle(bench.root).verdicts(tasks, drawn(bench.root, tasks))
    assert np.mean([verdict.concept and verdict.fact for verdict in verdicts]) >= 0.9


def test_another_concept_is_seen_as_such(bench: UnifyBench) -> None:
    tasks = tasks_of(bench)
    verdicts = PocketOracle(bench.root).verdicts(tasks, drawn(bench.root, tasks, wrong_concept=True))
    assert np.mean([verdict.concept for verdict in verdicts]) <= 0.05


def test_another_fact_is_seen_as_such(bench: UnifyBench) -> None:
    tasks = [task for task in tasks_of(bench) if ROLES[task.condition.fact or 0] not in ("place", "home")]
    verdicts = PocketOracle(bench.root).verdicts(tasks, drawn(bench.root, tasks, wrong_fact=True))
    assert np.mean([verdict.fact for verdict in verdicts]) <= 0.05

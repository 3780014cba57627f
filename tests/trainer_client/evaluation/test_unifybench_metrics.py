"""UnifyBench's metrics are what services measured: known systems get the values they deserve, and nothing unmeasured
gets a number.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from judge_endpoint import JudgeEndpoint
from judge_services import write_endpoints, write_profile
from PIL import Image

from sync_r1.reward_models.pocket.world.scenes import render
from sync_r1.reward_models.types import Failure, FailureCode, NotApplicable, Outcome, Sample, Score
from sync_r1.trainer_client.config import UnifyBenchConfig, load_config
from sync_r1.trainer_client.evaluation.bench_items import Item, bench_items
from sync_r1.trainer_client.evaluation.held_out import NothingScored
from sync_r1.trainer_client.evaluation.metric import Metric
from sync_r1.trainer_client.evaluation.oracle import PocketOracle
from sync_r1.trainer_client.evaluation.outputs import Outputs, write_outputs
from sync_r1.trainer_client.evaluation.unifybench_metrics import UnifyBenchMetrics
from sync_r1.trainer_client.jobs.evaluate import run_evaluation
from sync_r1.trainer_client.sdk.client import RewardClient
from sync_r1.trainer_client.tasks.pocketbench import ROLES, load_concepts, write_pocketbench
from sync_r1.trainer_client.tasks.unifybench import UnifyBench, load_unifybench

if TYPE_CHECKING:
    from sync_r1.services.local.up import Up

CONFIG = Path(__file__).parents[3] / "trainer_client" / "configs" / "pocket.yaml"
UNDERSTANDING = "understanding-correctness"


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> UnifyBench:
    folder = tmp_path_factory.mktemp("pocketbench")
    write_pocketbench(folder)
    return load_unifybench(folder)


@pytest.fixture(scope="module")
def items(bench: UnifyBench) -> list[Item]:
    return bench_items(bench, prompts=1, seed=0)


def knowing(bench: UnifyBench, items: Sequence[Item], folder: Path) -> Outputs:
    """What somebody who knows everything puts out: right answers, and pictures that show concept and fact."""
    rng = np.random.default_rng(0)
    concepts = {concept.name: concept for concept in load_concepts(bench.root)}
    answers, pictures = {}, {}
    for item in items:
        if item.task == "knowledge":
            assert item.recall is not None
            assert item.recall.condition.fact is not None
            scene = concepts[item.concept.name].scene(ROLES[item.recall.condition.fact], rng)
            path = folder / f"{item.concept.name}-{item.index}.png"
            Image.fromarray(render(scene, rng)).save(path)
            pictures[item.key] = (path,)
        elif item.task == "dreambooth":
            pictures[item.key] = (item.concept.train_images[0],)
        else:
            answers[item.key] = item.reference
    return Outputs(answers, pictures)


async def measure(services: Up, bench: UnifyBench, items: list[Item], outputs: Outputs) -> dict[str, Metric]:
    clients = {name: RewardClient(where) for name, where in services.endpoints.items()}
    try:
        measured = UnifyBenchMetrics(clients, PocketOracle(bench.root), UnifyBenchConfig(), timeout_s=60)
        return {metric.name: metric for metric in await measured.measure(items, outputs)}
    finally:
        for client in clients.values():
            await client.close()


async def test_one_who_knows_everything_gets_full_marks(
    services: Up, bench: UnifyBench, items: list[Item], tmp_path: Path
) -> None:
    metrics = await measure(services, bench, items, knowing(bench, items, tmp_path))
    for name in ("recall_of_positives", "recall_of_negatives", "recognition", "vqa_bleu", "text_only_bleu", "recall"):
        assert metrics[name].value == pytest.approx(1.0), name
        assert len(metrics[name].release) == 64
        assert len(metrics[name].per_concept) == 8
    assert metrics["knowledge"].value is not None
    assert metrics["knowledge"].value >= 0.9
    # A concept's own picture is among its references, so its cosine to them is high, whatever is asked for.
    assert metrics["clip_i"].value is not None
    assert metrics["clip_i"].value > 0.8
    assert metrics["clip_t"].items == 8


async def test_one_who_always_says_yes_recognises_nothing(
    services: Up, bench: UnifyBench, items: list[Item], tmp_path: Path
) -> None:
    known = knowing(bench, items, tmp_path)
    metrics = await measure(services, bench, items, Outputs(dict.fromkeys(known.answers, "yes ."), {}))
    assert metrics["recall_of_positives"].value == 1.0
    assert metrics["recall_of_negatives"].value == 0.0
    assert metrics["recognition"].value == 0.5
    assert metrics["vqa_bleu"].value is not None
    assert metrics["vqa_bleu"].value < 0.6
    assert metrics["clip_i"].value is None
    assert metrics["clip_i"].unavailable == (
        "not available: nothing to score for task 'dreambooth'; the outputs have none"
    )


async def test_what_no_service_measures_has_no_number(
    services: Up, bench: UnifyBench, items: list[Item], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    outputs = knowing(bench, items, tmp_path)
    first = next(item for item in items if item.task == "dreambooth")
    pictures = outputs.pictures | {first.key: (broken,)}
    metrics = await measure(services, bench, items, replace(outputs, pictures=pictures))
    assert metrics["face"].value is None
    assert metrics["face"].unavailable == (
        "not available: concept-consistency offers clip_i, clip_i_mean, dino, but no arcface"
    )
    assert "but no judge" in metrics["vqa_judge"].unavailable
    # The broken picture is a failure of both, and no 0 among the others.
    for name in ("clip_i", "clip_t"):
        assert (metrics[name].items, metrics[name].failures) == (7, 1)
        assert "bo" not in metrics[name].per_concept
    assert min(metrics["clip_i"].per_concept.values()) > 0.7


class ScriptedClient:
    """Offers one variant that nobody serves yet; the outcome depends on the sample."""

    def __init__(self, variant: str, outcome: Any) -> None:
        self._variant, self._outcome = variant, outcome

    async def describe(self, **_: Any) -> Any:
        return SimpleNamespace(variants={self._variant: None}, default_releases={self._variant: "r"})

    async def score(self, samples: Sequence[Sample], **_: Any) -> Any:
        outcomes: list[Outcome] = [self._outcome(sample) for sample in samples]
        return SimpleNamespace(outcomes=tuple(outcomes), release="r")


async def scripted(reward: str, variant: str, outcome: Any, items: list[Item], outputs: Outputs) -> dict[str, Metric]:
    clients: Any = {reward: ScriptedClient(variant, outcome)}
    measured = UnifyBenchMetrics(clients, None, UnifyBenchConfig(recall="r", knowledge="judge"), timeout_s=1)
    return {metric.name: metric for metric in await measured.measure(items, outputs)}


async def test_faces_are_measured_on_persons_and_missing_ones_reported(
    bench: UnifyBench, items: list[Item], tmp_path: Path
) -> None:
    def face(sample: Sample) -> Outcome:
        assert sample.concept.conversation_type == "human"
        found = sample.concept.name == "<bo>"
        return Score(0.8 if found else 0.0, {"face_found": float(found)})

    outputs = knowing(bench, items, tmp_path)
    metrics = await scripted("concept-consistency", "arcface", face, items, outputs)
    assert metrics["face"].value == 0.4
    assert metrics["face"].note == "1 of 2 pictures have no face and count as 0"
    assert metrics["faces_undetected"].value == 0.5
    assert metrics["recognition"].unavailable == f"not available: no endpoint is given for {UNDERSTANDING}"
    things = [item for item in items if item.concept.conversation_type == "object"]
    metrics = await scripted("concept-consistency", "arcface", face, things, outputs)
    assert metrics["face"].unavailable == "not available: no concept is a person"


async def test_every_concept_weighs_the_same_and_failures_are_left_out(
    bench: UnifyBench, items: list[Item], tmp_path: Path
) -> None:
    def judged(sample: Sample) -> Outcome:
        if "zoom" in sample.id:
            return Failure(FailureCode.JUDGE_UNPARSABLE, "what?")
        if "cup" in sample.id:
            return NotApplicable("no")
        return Score(1.0 if "bo" in sample.id else 0.5)

    outputs = knowing(bench, items, tmp_path)
    bo = next(item for item in items if item.task == "knowledge")
    pictures = outputs.pictures | {bo.key: outputs.pictures[bo.key] * 20}
    outputs = replace(outputs, pictures=pictures)
    knowledge = (await scripted("text-faithfulness", "judge", judged, items, outputs))["knowledge"]
    assert knowledge.value == pytest.approx((1.0 + 5 * 0.5) / 6)
    assert (knowledge.items, knowledge.failures, knowledge.not_applicable) == (20 + 1 + 10, 2, 2)
    assert knowledge.low is not None
    assert knowledge.high is not None
    assert 0.5 <= knowledge.low < knowledge.value < knowledge.high <= 1.0
    failure = Failure(FailureCode.INTERNAL, "no")
    with pytest.raises(NothingScored, match="35 items failed and none has a score"):
        await scripted("text-faithfulness", "judge", lambda _: failure, items, outputs)


def test_another_systems_outputs_become_table_and_pages(services: Up, bench: UnifyBench, tmp_path: Path) -> None:
    config = load_config(CONFIG, [f"benchmark={bench.root}", "evaluation.unifybench.prompts=1", "threads=1"])
    items = bench_items(bench, prompts=1, seed=config.evaluation.seed)
    given = tmp_path / "theirs"
    (given / "pictures").mkdir(parents=True)
    outputs = knowing(bench, items, given / "pictures")
    own = {key: paths for key, paths in outputs.pictures.items() if key[0] == "knowledge"}
    write_outputs(given, replace(outputs, pictures=own))
    endpoints = tmp_path / "endpoints.json"
    endpoints.write_text(json.dumps(dict(services.endpoints)))
    result = run_evaluation(
        config, tmp_path / "out", outputs=given, endpoints_file=endpoints, progress=lambda what, done, total: None
    )
    assert result.held_out is None
    figures = json.loads((tmp_path / "out" / "metrics.json").read_text())
    by_name = {metric["name"]: metric for metric in figures["metrics"]}
    assert by_name["recognition"]["value"] == 1.0
    assert by_name["clip_i"]["value"] is None
    table = (tmp_path / "out" / "evaluation.md").read_text()
    assert "| recall of positives | 1.000 | 1.000 to 1.000 | 8 scores, 8 concepts |" in table
    assert "| CLIP-I | – |  | not available: nothing to score for task 'dreambooth'" in table
    page = (tmp_path / "out" / "evaluation.html").read_text()
    assert page.count("<img") == 16
    assert "&lt;bo&gt; wearing its hat" in page
    assert "<bo>" not in page
    assert "$" not in page


def test_judges_mark_answers_and_knowledge_where_there_is_an_endpoint(bench: UnifyBench, tmp_path: Path) -> None:
    """The whole command's way: `up` serves the judges' profile beside the pocket one and asks the endpoint."""
    judged = ("vqa", "text_only", "knowledge")
    items = [item for item in bench_items(bench, prompts=1, seed=20_260) if item.task in judged]
    given = tmp_path / "theirs"
    (given / "pictures").mkdir(parents=True)
    known = knowing(bench, items, given / "pictures")
    wrong = next(item for item in items if item.task == "vqa")
    write_outputs(given, replace(known, answers=known.answers | {wrong.key: "half"}))
    with JudgeEndpoint() as endpoint:
        settings = {
            "benchmark": bench.root, "threads": 1, "also": [str(write_profile(tmp_path))],
            "judges": write_endpoints(tmp_path, endpoint.url),
            "evaluation.unifybench.prompts": 1, "evaluation.unifybench.knowledge": "judge",
        }  # fmt: skip
        config = load_config(CONFIG, [f"{key}={value}" for key, value in settings.items()])
        result = run_evaluation(
            config, tmp_path / "out", outputs=given, endpoints_file=None, progress=lambda what, done, total: None
        )
    metrics = {metric.name: metric for metric in result.metrics}
    asked = [item for item in items if item.task == "vqa" and item.concept is wrong.concept]
    assert metrics["vqa_judge"].per_concept[wrong.concept.name] == pytest.approx(1 - 0.5 / len(asked))
    assert metrics["text_only_judge"].value == 1.0
    assert 0 < metrics["vqa_bleu"].value < metrics["vqa_judge"].value < 1
    # The played judge finds the subject in bright pictures and the scene where the text says "red".
    knowledge = metrics["knowledge"]
    assert (knowledge.reward, knowledge.variant, knowledge.items) == ("text-faithfulness", "judge", 16)
    assert knowledge.failures == 0
    scores = result.scores["knowledge"]
    red = {item.key for item in items if item.task == "knowledge" and "red" in item.reference}
    assert red
    assert {score >= 0.5 for (key, _), score in scores.items() if key in red} == {True}
    assert {score <= 0.5 for (key, _), score in scores.items() if key not in red} == {True}

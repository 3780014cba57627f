"""UnifyBench's metrics, every one of them measured by a reward service; nothing is scored in this process.

| metric | definition | measured by |
|---|---|---|
| recognition | recall of positives, of negatives, their mean (Yo'LLaVA) | understanding-correctness `yes_no` |
| VQA, text-only QA | character BLEU; a judge's 0, 0.5 or 1 | understanding-correctness `bleu`, `judge` |
| recall (task r) | the exact fact that a condition refers to | understanding-correctness `selection` |
| CLIP-I, CLIP-T | cosines, DreamBooth's 25 prompts × 4 pictures | concept-consistency, text-faithfulness |
| face similarity | cosine of the largest face, persons only | concept-consistency `arcface` |
| knowledge-driven T2I | 0, 0.5 or 1 per held-out condition × 4 pictures | text-faithfulness `judge`, or the oracle |

A picture without a face counts 0 *and* is reported. A metric whose variant no service offers is "not available", with
what is offered; it is never a number. Failed scores are counted and left out. A value is the mean over concepts of each
concept's mean, so every concept weighs the same; the interval is a 95 % percentile bootstrap over concepts (Efron
1979), because items of one concept are not independent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from sync_r1.reward_models.images import resize
from sync_r1.reward_models.types import Failure, Sample, Score
from sync_r1.trainer_client.config import UnifyBenchConfig
from sync_r1.trainer_client.evaluation.bench_items import PICTURE_TASKS, Item, TaskName
from sync_r1.trainer_client.evaluation.held_out import NothingScored
from sync_r1.trainer_client.evaluation.metric import ItemScores, Metric
from sync_r1.trainer_client.evaluation.oracle import SuccessOracle
from sync_r1.trainer_client.evaluation.outputs import Outputs
from sync_r1.trainer_client.sdk.client import RewardClient
from sync_r1.trainer_client.sdk.pictures import picture, read_pixels
from sync_r1.trainer_client.tasks.tasks import reward_concept, reward_nouns

_UNDERSTANDING, _CONCEPT, _TEXT = "understanding-correctness", "concept-consistency", "text-faithfulness"
_REQUEST_ITEMS = 32
"""A judge that needs seconds for an answer still keeps within a request's timeout."""
_RESAMPLES, _ORACLE_SIDE = 2000, 64
ORACLE = "oracle"


@dataclass(frozen=True)
class _Asked:
    """What one variant said about some items."""

    scores: ItemScores = field(default_factory=dict)
    components: dict[str, ItemScores] = field(default_factory=dict)
    failures: int = 0
    not_applicable: int = 0
    release: str = ""
    unavailable: str = ""


@dataclass(frozen=True)
class _Question:
    """A metric to measure: which items, by which reward and variant."""

    name: str
    title: str
    task: TaskName
    reward: str
    variant: str


class UnifyBenchMetrics:
    """Measures outputs; `scores` then holds every single score by metric, for whoever wants to see what was judged."""

    def __init__(
        self,
        clients: Mapping[str, RewardClient],
        oracle: SuccessOracle | None,
        config: UnifyBenchConfig,
        *,
        timeout_s: float,
    ) -> None:
        """`clients`: reward name -> client; a reward without one makes its metrics unavailable."""
        self._clients, self._oracle, self._config, self._timeout_s = clients, oracle, config, timeout_s
        self.scores: dict[str, ItemScores] = {}

    async def measure(self, items: Sequence[Item], outputs: Outputs) -> list[Metric]:
        """All metrics, in the table's order. Raises RewardClientError when a service that offers a variant fails, and
        NothingScored when it scores no item at all.
        """
        config = self._config
        metrics = await self._recognition(items, outputs)
        for task, title in (("vqa", "visual QA"), ("text_only", "text-only QA")):
            for variant in config.answers:
                question = _Question(f"{task}_{variant}", f"{title}: {variant}", task, _UNDERSTANDING, variant)  # type: ignore[arg-type]
                metrics.append(await self._plain(question, items, outputs))
        for question in (
            _Question("recall", "recalled fact (task r)", "recall", _UNDERSTANDING, config.recall),
            _Question("clip_i", "CLIP-I", "dreambooth", _CONCEPT, config.clip_i),
            _Question("clip_t", "CLIP-T", "dreambooth", _TEXT, config.clip_t),
        ):
            metrics.append(await self._plain(question, items, outputs))
        metrics += await self._faces(items, outputs)
        knowledge = _Question("knowledge", "knowledge-driven T2I", "knowledge", _TEXT, config.knowledge)
        metrics.append(
            self._by_oracle(knowledge, items, outputs)
            if config.knowledge == ORACLE
            else await self._plain(knowledge, items, outputs)
        )
        failures = sum(metric.failures for metric in metrics)
        if failures and not any(metric.items for metric in metrics if metric.reward):
            raise NothingScored(
                f"the rewards scored nothing: {failures} items failed and none has a score; the services' logs say "
                "why, and --outputs measures the same outputs again"
            )
        return metrics

    async def _plain(self, question: _Question, items: Sequence[Item], outputs: Outputs) -> Metric:
        asked = await self._ask(question, [item for item in items if item.task == question.task], outputs)
        return self._metric(question, asked, asked.scores)

    async def _recognition(self, items: Sequence[Item], outputs: Outputs) -> list[Metric]:
        question = _Question("recognition", "recognition", "recognition", _UNDERSTANDING, self._config.recognition)
        own = [item for item in items if item.task == "recognition"]
        asked = await self._ask(question, own, outputs)
        positive = {item.key for item in own if item.reference.lower().lstrip().startswith("yes")}
        sides = {
            "positives": {place: score for place, score in asked.scores.items() if place[0] in positive},
            "negatives": {place: score for place, score in asked.scores.items() if place[0] not in positive},
        }
        metrics = [
            self._metric(replace(question, name=f"recall_of_{side}", title=f"recall of {side}"), asked, scores)
            for side, scores in sides.items()
        ]
        recalls = [metric.per_concept for metric in metrics]
        both = {name: (recalls[0][name] + recalls[1][name]) / 2 for name in recalls[0] if name in recalls[1]}
        mean = self._metric(replace(question, title="recognition: mean of both recalls"), asked, asked.scores)
        value, low, high = _interval(both)
        if not mean.unavailable and value is None:
            mean = replace(mean, unavailable="not available: no concept has both positive and negative questions")
        return [*metrics, replace(mean, value=value, low=low, high=high, per_concept=both)]

    async def _faces(self, items: Sequence[Item], outputs: Outputs) -> list[Metric]:
        question = _Question("face", "face similarity", "dreambooth", _CONCEPT, self._config.face)
        absent = replace(question, name="faces_undetected", title="pictures of persons without a face")
        persons = [item for item in items if item.task == "dreambooth" and _is_person(item)]
        if not persons:
            return [Metric(question.name, question.title, unavailable="not available: no concept is a person")]
        asked = await self._ask(question, persons, outputs)
        similarity = self._metric(question, asked, asked.scores)
        found = asked.components.get("face_found")
        if similarity.unavailable:
            return [similarity]
        if found is None:
            reason = f"not available: {question.variant} does not say whether it found a face"
            return [similarity, Metric(absent.name, absent.title, unavailable=reason)]
        missing = {place: 1.0 - value for place, value in found.items()}
        count = int(sum(missing.values()))
        note = f"{count} of {len(missing)} pictures have no face and count as 0"
        return [replace(similarity, note=note), self._metric(absent, asked, missing)]

    def _by_oracle(self, question: _Question, items: Sequence[Item], outputs: Outputs) -> Metric:
        """0.5 for the right concept and 0.5 for the fact, seen by the benchmark's own oracle."""
        question = replace(question, reward="", variant=ORACLE)
        if self._oracle is None:
            reason = "not available: the benchmark has no oracle; set evaluation.unifybench.knowledge to a judge"
            return Metric(question.name, question.title, unavailable=reason)
        own = [item for item in items if item.task == "knowledge"]
        places = _places(own, outputs)
        if not places:
            return self._metric(question, _Asked(unavailable=_nothing_given(question, own)), {})
        tasks = [item.recall for item, _, _ in places if item.recall is not None]
        pixels = [_pixels(file) for _, _, file in places if isinstance(file, Path)]
        verdicts = self._oracle.verdicts(tasks, pixels)
        scores = {
            (item.key, number): 0.5 * verdict.concept + 0.5 * verdict.fact
            for (item, number, _), verdict in zip(places, verdicts)
        }
        return self._metric(question, _Asked(scores), scores)

    async def _ask(self, question: _Question, items: Sequence[Item], outputs: Outputs) -> _Asked:
        """Score what was put out for `items`. Raises RewardClientError."""
        client = self._clients.get(question.reward)
        if client is None:
            return _Asked(unavailable=f"not available: no endpoint is given for {question.reward}")
        described = await client.describe(timeout_s=self._timeout_s)
        if question.variant not in described.variants:
            offered = ", ".join(sorted(described.variants))
            return _Asked(unavailable=f"not available: {question.reward} offers {offered}, but no {question.variant}")
        places = _places(items, outputs)
        if not places:
            return _Asked(unavailable=_nothing_given(question, items))
        asked = _Asked(release=described.default_releases.get(question.variant, ""))
        for start in range(0, len(places), _REQUEST_ITEMS):
            part = places[start : start + _REQUEST_ITEMS]
            samples = [_sample(item, number, given) for item, number, given in part]
            # The release of the first batch is kept for the others.
            batch = await client.score(
                samples, variant=question.variant, release=asked.release, timeout_s=self._timeout_s
            )
            failures = not_applicable = 0
            for (item, number, _), outcome in zip(part, batch.outcomes):
                if isinstance(outcome, Score):
                    asked.scores[item.key, number] = outcome.value
                    for name, value in outcome.components.items():
                        asked.components.setdefault(name, {})[item.key, number] = value
                elif isinstance(outcome, Failure):
                    failures += 1
                else:
                    not_applicable += 1
            asked = replace(
                asked, release=batch.release, failures=asked.failures + failures,
                not_applicable=asked.not_applicable + not_applicable,
            )  # fmt: skip
        return asked

    def _metric(self, question: _Question, asked: _Asked, scores: ItemScores) -> Metric:
        self.scores[question.name] = scores
        by_concept: dict[str, list[float]] = {}
        for ((_, concept, _), _), score in scores.items():
            by_concept.setdefault(concept, []).append(score)
        per_concept = {concept: float(np.mean(values)) for concept, values in by_concept.items()}
        value, low, high = _interval(per_concept)
        unavailable = asked.unavailable
        if value is None and not unavailable:
            unavailable = f"not available: none of the items could be scored ({asked.failures} failed)"
        return Metric(
            question.name, question.title, value, low, high, per_concept, len(scores), asked.failures,
            asked.not_applicable, question.reward, question.variant, asked.release, unavailable=unavailable,
        )  # fmt: skip


def _interval(per_concept: Mapping[str, float]) -> tuple[float | None, float | None, float | None]:
    """(mean over concepts, ends of its 95 % bootstrap interval)."""
    values_C = np.array(list(per_concept.values()))
    if len(values_C) == 0:
        return None, None, None
    if len(values_C) == 1:
        return float(values_C[0]), None, None
    drawn_R_C = np.random.default_rng(0).integers(len(values_C), size=(_RESAMPLES, len(values_C)))
    low, high = np.percentile(values_C[drawn_R_C].mean(1), (2.5, 97.5))
    return float(values_C.mean()), float(low), float(high)


def _places(items: Iterable[Item], outputs: Outputs) -> list[tuple[Item, int, str | Path]]:
    """(item, number of the picture, answer or file) of everything that was put out."""
    places: list[tuple[Item, int, str | Path]] = []
    for item in items:
        if item.task in PICTURE_TASKS:
            places += [(item, number, file) for number, file in enumerate(outputs.pictures.get(item.key, ()))]
        elif item.key in outputs.answers:
            places.append((item, 0, outputs.answers[item.key]))
    return places


def _nothing_given(question: _Question, items: Sequence[Item]) -> str:
    there = "the outputs have none" if items else "the benchmark has none"
    return f"not available: nothing to score for task {question.task!r}; {there}"


def _sample(item: Item, number: int, given: str | Path) -> Sample:
    identifier = f"{item.task}/{item.concept.name}/{item.index}/{number}"
    if isinstance(given, Path):
        return Sample(
            id=identifier, group=f"{item.task}/{item.concept.name}/{item.index}", image=picture(given),
            prompt=item.reference, concept=reward_concept(item.concept),
            nouns=reward_nouns(item.recall) if item.recall else (),
        )  # fmt: skip
    choices = item.recall.choices if item.recall else ()
    target = item.recall.target if item.recall else None
    return Sample(
        id=identifier, question=item.prompt, answer=given, reference_answers=(item.reference,),
        choices=choices, target=target,
    )  # fmt: skip


def _is_person(item: Item) -> bool:
    return item.concept.conversation_type.lower() in ("human", "person")


def _pixels(file: Path) -> Any:
    """A picture at the size that the oracle reads, uint8 (64, 64, 3)."""
    return resize(read_pixels(file), _ORACLE_SIDE, "squash_bicubic")

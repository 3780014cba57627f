"""The result of `sync-r1 evaluate`: what `jobs/evaluate.py` measures and `reports/evaluation_page.py` shows."""

from __future__ import annotations

from dataclasses import dataclass

from sync_r1.trainer_client.config import TrainConfig
from sync_r1.trainer_client.evaluation.bench_items import Item
from sync_r1.trainer_client.evaluation.held_out import Evaluation
from sync_r1.trainer_client.evaluation.metric import ItemScores, Metric
from sync_r1.trainer_client.evaluation.outputs import Outputs


@dataclass(frozen=True)
class BenchEvaluation:
    """All that was measured of one system on one benchmark, and what it was measured on."""

    system: str
    benchmark: str
    metrics: list[Metric]
    scores: dict[str, ItemScores]
    """Metric -> every single score."""
    items: list[Item]
    outputs: Outputs
    held_out: Evaluation | None
    """The measurement that training makes; None for outputs."""
    config: TrainConfig

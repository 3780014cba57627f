"""`sync-r1 evaluate`: what a policy, or any other system by its outputs, can do on a benchmark.

    policy ──▶ policy_outputs ─┐
                               ├─▶ UnifyBenchMetrics (reward services) ─▶ metrics.json, evaluation.md, evaluation.html
    folder ──▶ read_outputs ───┘

A policy is also measured as training does before and after (`held_out.py`), into `evaluation/policy.json`.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import ExitStack
from pathlib import Path

import torch

from sync_r1.trainer_client.config import TrainConfig
from sync_r1.trainer_client.evaluation.bench_items import Item, bench_items, write_items
from sync_r1.trainer_client.evaluation.held_out import Evaluation, evaluate, write_evaluation
from sync_r1.trainer_client.evaluation.metric import ItemScores, Metric
from sync_r1.trainer_client.evaluation.oracle import SuccessOracle
from sync_r1.trainer_client.evaluation.outputs import Outputs, policy_outputs, read_outputs
from sync_r1.trainer_client.evaluation.result import BenchEvaluation
from sync_r1.trainer_client.evaluation.unifybench_metrics import UnifyBenchMetrics
from sync_r1.trainer_client.jobs.local_services import live_services, read_endpoints
from sync_r1.trainer_client.jobs.train import (
    check_rewards,
    load_benchmark,
    load_oracle,
    part_of,
    reward_clients,
    reward_ensemble,
    reward_parts,
)
from sync_r1.trainer_client.policies.base import Policy
from sync_r1.trainer_client.policies.loading import load_policy
from sync_r1.trainer_client.tasks.unifybench import UnifyBench
from sync_r1.trainer_client.training.run import Progress

_READY_TIMEOUT_S = 60.0


def run_evaluation(
    config: TrainConfig, out: Path, *, outputs: Path | None, endpoints_file: Path | None, progress: Progress
) -> BenchEvaluation:
    """Measure `config.policy`, or the folder `outputs`, on `config.benchmark` and write figures and pages to `out`.

    Raises ConfigError, UnifyBenchError, OutputsError, ServicesError and RewardClientError. A policy's outputs are on
    disk before they are scored, so after a failed service they can be scored again with `--outputs`.
    """
    from sync_r1.trainer_client.reports.evaluation_page import write_pages

    endpoints = None if endpoints_file is None else read_endpoints(endpoints_file)
    check_rewards(config, endpoints)
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(config.threads)
    bench = load_benchmark(config.benchmark, out)
    oracle = load_oracle(bench)
    wanted = config.evaluation.unifybench
    items = bench_items(bench, prompts=wanted.prompts, seed=config.evaluation.seed)
    given = read_outputs(outputs, items) if outputs is not None else None
    policy = load_policy(config.policy, config.precision) if outputs is None else None
    if policy is not None:
        given = policy_outputs(
            policy, items, out / "outputs", pictures=wanted.pictures, seed=config.evaluation.seed,
            batch=config.sampling.rollout_rows_max, on_progress=lambda what, done, total: progress(what, done, total),
        )  # fmt: skip
    assert given is not None
    with ExitStack() as stack:
        if endpoints is None:
            services = live_services(config.profile, out, also=config.also, judges=config.judges)
            endpoints = stack.enter_context(services)
        progress("scoring", 0, 1)
        metrics, scores, held_out = asyncio.run(_measure(config, endpoints, bench, oracle, policy, items, given))
    if held_out is not None:
        write_evaluation(out / "evaluation", "policy", held_out)
    system = str(outputs) if outputs is not None else f"policy {config.policy.weights or config.policy.kind}"
    result = BenchEvaluation(system, config.benchmark, metrics, scores, items, given, held_out, config)
    (out / "metrics.json").write_text(json.dumps(_to_json(result), indent=1) + "\n")
    write_pages(out, result)
    return result


def write_bench_items(config: TrainConfig, file: Path, out: Path) -> int:
    """Write what must be answered and drawn for `config.benchmark` to `file`; returns the number of items."""
    wanted = config.evaluation.unifybench
    items = bench_items(load_benchmark(config.benchmark, out), prompts=wanted.prompts, seed=config.evaluation.seed)
    write_items(file, items, wanted.pictures)
    return len(items)


async def _measure(
    config: TrainConfig,
    endpoints: dict[str, str],
    bench: UnifyBench,
    oracle: SuccessOracle | None,
    policy: Policy | None,
    items: list[Item],
    given: Outputs,
) -> tuple[list[Metric], dict[str, ItemScores], Evaluation | None]:
    clients = reward_clients(config, endpoints)
    scorer = reward_ensemble(config, clients)
    held_out = None
    try:
        await scorer.wait_ready(_READY_TIMEOUT_S)
        measured = UnifyBenchMetrics(
            clients, oracle, config.evaluation.unifybench, timeout_s=config.score_timeout_s
        )  # fmt: skip
        metrics = await measured.measure(items, given)
        if policy is not None and any(item.task == "recall" for item in items):
            pictures = part_of(scorer, "picture", await reward_parts(config, clients))
            held_out = await evaluate(config, policy, bench, scorer=scorer, picture_scorer=pictures, oracle=oracle)
    finally:
        await scorer.close()
    return metrics, measured.scores, held_out


def _to_json(result: BenchEvaluation) -> dict[str, object]:
    return {
        "system": result.system,
        "benchmark": result.benchmark,
        "metrics": [metric.to_json() for metric in result.metrics],
        "held_out": result.held_out.to_json() if result.held_out else None,
        "config": result.config.evaluation.model_dump(mode="json"),
    }

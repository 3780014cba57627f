"""The trainer against the real services: a real Triton scores the toy policy's pictures, and nothing outlives the
run.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from toy_trainer import REWARDS, ToyPolicy, toy_config
from typer.testing import CliRunner

from sync_r1.cli.main import app
from sync_r1.trainer_client.config import PolicyConfig
from sync_r1.trainer_client.jobs.local_services import ServicesError, live_services, read_endpoints
from sync_r1.trainer_client.policies.concepts.data import benchmark_files
from sync_r1.trainer_client.policies.concepts.embeddings import ConceptTraining
from sync_r1.trainer_client.policies.concepts.learn import learn_concepts
from sync_r1.trainer_client.policies.pocket.policy import PocketPolicy
from sync_r1.trainer_client.rollouts.scorer import Scorers
from sync_r1.trainer_client.sdk.client import RewardClient
from sync_r1.trainer_client.sdk.ensemble import RewardEnsemble, RewardUse
from sync_r1.trainer_client.tasks.named_benchmarks import UNSEEN_CONCEPTS, benchmark_folder
from sync_r1.trainer_client.tasks.pocketbench import write_pocketbench
from sync_r1.trainer_client.tasks.unifybench import load_unifybench
from sync_r1.trainer_client.training.loop import train
from sync_r1.trainer_client.training.run import Run

if TYPE_CHECKING:
    from sync_r1.services.local.up import Up


async def test_a_step_is_scored_by_all_four_services(tmp_path: Path, services: Up) -> None:
    write_pocketbench(tmp_path / "benchmark")
    config = toy_config(steps=1, selector={"kind": "dgs", "preview_at": 0.5}, sampling={"prompts": 2, "group_size": 4})
    clients = {name: RewardClient(services.endpoints[name]) for name in REWARDS}
    scorer = RewardEnsemble({name: (clients[name], RewardUse(config.rewards[name].weight)) for name in REWARDS})
    gate = RewardEnsemble({name: (clients[name], RewardUse(w)) for name, w in config.selector.gate_weights.items()})
    try:
        start, end = await train(
            Run(
                config, tmp_path, policy=ToyPolicy(), reference=ToyPolicy(),
                bench=load_unifybench(tmp_path / "benchmark"), scorers=Scorers(scorer, gate),
            )
        )  # fmt: skip
    finally:
        await scorer.close()
    assert start is not None
    assert end.scored == end.pictures == 64
    assert set(end.releases) == set(REWARDS)
    assert all(len(digest) == 64 for digest in end.releases.values())
    (record,) = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert record["learned"] == record["trajectories"] == 8
    assert record["failures"] == dict.fromkeys(REWARDS, 0)
    assert all(
        0 <= record["rewards"][name] <= 1 for name in ("total", "concept-consistency", "text-faithfulness", "aesthetic")
    )
    assert record["selection"]["gate_failed"] == 0


@pytest.mark.slow
def test_a_run_starts_from_concepts_that_a_policy_has_learned(tmp_path: Path, services: Up) -> None:
    settings = ConceptTraining(understanding_steps=2, generation_steps=4, rows=4, learning_rate=2e-2)
    files = benchmark_files(benchmark_folder("pocket-unseen", tmp_path))
    learn_concepts(files, tmp_path / "learned", policy=PolicyConfig(), settings=settings)
    (tmp_path / "endpoints.json").write_text(json.dumps(services.endpoints))
    command = ["train", "--out", str(tmp_path / "run"), "--endpoints", str(tmp_path / "endpoints.json")]
    for override in (
        "benchmark=pocket-unseen", f"policy={tmp_path / 'learned'}", "steps=1", "threads=1", "sampling.prompts=2",
        "sampling.group_size=4", "sampling.chunks=1", "selector.kind=none", "evaluation.pictures_per_condition=1",
        "evaluation.true_sentence_pictures=1",
    ):  # fmt: skip
        command += ["--set", override]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    start, end = (
        json.loads((tmp_path / "run" / "evaluation" / f"{name}.json").read_text()) for name in ("start", "end")
    )
    assert start["scored"] == end["scored"] == 2 * len(UNSEEN_CONCEPTS)
    assert "oracle_success" in end["means"]
    learned, trained = (PocketPolicy.load(tmp_path / name) for name in ("learned", "run/policy"))
    assert trained.words.learned == tuple(concept.token for concept in UNSEEN_CONCEPTS)
    weights = [policy.model.showo.model.embed_tokens.weight for policy in (learned, trained)]
    names = [learned.words.concept_ids(name).name for name in trained.words.learned]
    assert (weights[0][names] != weights[1][names]).any()


def test_services_live_as_long_as_the_block(tmp_path: Path) -> None:
    with live_services("pocket", tmp_path) as endpoints:
        assert set(endpoints) == set(REWARDS)

        async def ready() -> None:
            async with RewardClient(endpoints["aesthetic"]) as client:
                await client.wait_ready(10.0)

        asyncio.run(ready())
    with pytest.raises(OSError, match="refused"):
        _connect(endpoints["aesthetic"])


def test_services_that_cannot_start_say_why(tmp_path: Path) -> None:
    with pytest.raises(ServicesError, match="no-such-profile"), live_services("no-such-profile", tmp_path):
        pytest.fail("there is nothing to be served")


def test_services_end_with_a_trainer_that_is_killed(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path\n"
        "from sync_r1.trainer_client.jobs.local_services import live_services\n"
        f"with live_services('pocket', Path({str(tmp_path)!r})):\n    print('up', flush=True); time.sleep(600)"
    )
    trainer = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert trainer.stdout is not None
    assert trainer.stdout.readline() == b"up\n"
    endpoints = read_endpoints(tmp_path / "endpoints.json")
    os.kill(trainer.pid, signal.SIGKILL)
    trainer.wait()
    deadline_s = time.monotonic() + 60
    while time.monotonic() < deadline_s:
        try:
            _connect(endpoints["aesthetic"])
        except OSError:
            return
        time.sleep(0.2)
    pytest.fail("the services are still there a minute after their trainer was killed")


def test_a_file_that_is_no_endpoints_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("[1]")
    with pytest.raises(ServicesError, match="host:port"):
        read_endpoints(tmp_path / "x.json")


def _connect(target: str) -> None:
    import socket

    host, port = target.rsplit(":", 1)
    socket.create_connection((host, int(port)), timeout=5).close()

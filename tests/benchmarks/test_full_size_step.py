"""The full-size step of `experiments/full_size_step.py` is a real step, and of the plan that it is compared with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_janus import LORA, tiny_config

from benchmarks.experiments import full_size_step
from sync_r1.trainer_client.planning.plan import make_plan
from sync_r1.trainer_client.planning.policy_size import policy_size
from sync_r1.trainer_client.policies.janus.policy import JanusPolicy
from sync_r1.trainer_client.policies.janus.random_weights import random_policy
from sync_r1.trainer_client.policies.pocket.policy import PocketPolicy


def _tiny_pair() -> tuple[JanusPolicy, JanusPolicy]:
    policy = random_policy(tiny_config(), dtype=torch.float32, device=torch.device("cpu"), lora=LORA, answer_tokens=4)
    return policy, policy.reference()


@pytest.mark.parametrize(
    ("name", "make"),
    [("janus_pro_1b", _tiny_pair), ("showo_512", lambda: (PocketPolicy.load(), PocketPolicy.load()))],
)
def test_the_full_size_benchmark_makes_a_step_that_learns(name: str, make: Callable[[], Any]) -> None:
    config = full_size_step.configured(name)
    config = config.model_copy(update={"sampling": config.sampling.model_copy(update={"group_size": 2})})
    made: list[Any] = []

    def once() -> Any:
        pair = make()
        made.extend((pair[0], [parameter.detach().clone() for parameter in pair[0].parameters()]))
        return pair

    phases = full_size_step.one_step(once, config, torch.device("cpu"))
    assert [phase.name for phase in phases] == ["load", "answer", "draw", "preview and decode", "reference", "update"]
    assert all(phase.seconds > 0 for phase in phases)
    assert any(not torch.equal(now, then) for now, then in zip(made[0].parameters(), made[1]))
    rows = full_size_step.rows_of(name, phases, make_plan(config))
    assert [row[1] for row in rows] == [phase.name for phase in phases]
    assert float(rows[-1][4]) > float(rows[0][4]) > 1, "the plan is that of the full size"


def test_the_full_size_benchmark_refuses_in_one_line_without_a_graphics_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["full_size_step"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match=r"^full size needs a graphics card.*--check"):
        full_size_step.main()


@pytest.mark.parametrize("name", full_size_step.OVERRIDES)
def test_the_full_size_benchmark_builds_what_the_plan_counts(name: str) -> None:
    """On the meta device: the benchmark's own construction, without its memory."""
    config = full_size_step.configured(name)
    policy, _ = full_size_step.random_pair(config, torch.device("meta"))
    assert sum(parameter.numel() for parameter in policy.parameters()) == policy_size(config.policy).trained

"""The plan of a run is right: published sizes, the counts of a real run, and what a network really keeps in memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tiny_janus import LORA, PROMPTS, tiny_config
from torch import nn
from toy_trainer import ToyScorer
from typer.testing import CliRunner

from sync_r1.cli.main import app
from sync_r1.trainer_client.config import ConfigError, LoraConfig, PolicyConfig, TrainConfig, load_config
from sync_r1.trainer_client.planning.memory import kept_per_token
from sync_r1.trainer_client.planning.plan import Pair, make_plan, step_work
from sync_r1.trainer_client.planning.policy_size import PolicySize, policy_size
from sync_r1.trainer_client.policies import loading
from sync_r1.trainer_client.policies.janus.random_weights import random_policy
from sync_r1.trainer_client.policies.pocket.policy import PocketPolicy
from sync_r1.trainer_client.rollouts.scorer import Scorers
from sync_r1.trainer_client.tasks.pocketbench import write_pocketbench
from sync_r1.trainer_client.tasks.unifybench import UnifyBench, load_unifybench
from sync_r1.trainer_client.training.loop import train
from sync_r1.trainer_client.training.run import Run

CONFIGS = Path(loading.__file__).parents[1] / "configs"


@pytest.mark.parametrize(
    ("config", "published"),
    [
        # Bytes of the published files / 2 (bf16): 4.18 GB, and 9.99 + 4.85 GB.
        (PolicyConfig(kind="janus", size="1b", weights="random"), 4.18e9 / 2),
        (PolicyConfig(kind="janus", size="7b", weights="random"), 14.84e9 / 2),
        # Phi-1.5 has 1.42e9 (its 51 200 rows of vocabulary cut to 50 295, 8 203 added), MAGVIT-v2 about 0.1e9.
        (PolicyConfig(kind="showo", weights="random"), 1.42e9 + 2 * (58_498 - 51_200) * 2048 + 0.095e9),
    ],
)
def test_parameters_are_those_of_the_published_models(config: PolicyConfig, published: float) -> None:
    size = policy_size(config)
    assert size.parameters == pytest.approx(published, rel=0.02)
    assert size.trained < size.parameters
    assert not size.missing


def test_adapters_train_what_their_rank_says() -> None:
    bare = policy_size(PolicyConfig(kind="janus", size="1b", weights="random"))
    size = policy_size(PolicyConfig(kind="janus", size="1b", weights="random", dtype="bf16", lora=LoraConfig(rank=8)))
    # A rank-8 pair beside each of q, k, v, o (2048 to 2048) and gate, up, down (2048 to 5632 and back), 24 times.
    expected = 24 * 8 * (4 * (2048 + 2048) + 3 * (2048 + 5632))
    assert size.trained == expected
    assert size.parameters == bare.parameters + expected
    assert (size.weight_bytes, size.trained_bytes) == (2, 4)


def _plan(file: str, *overrides: str, world: int = 1) -> Any:
    return make_plan(load_config(CONFIGS / file, overrides), world)


def test_adapters_save_the_reference_and_the_optimiser() -> None:
    whole = _plan("janus_pro_7b.yaml").memory["1 process"]
    changes = ("policy.lora={rank: 16}", "policy.dtype=bf16", "parallel=ddp")
    lora = _plan("janus_pro_7b.yaml", *changes).memory["1 process"]
    assert whole.reference == whole.weights == 7_407_773_323 * 4
    assert lora.reference == 0
    assert lora.optimiser < whole.optimiser / 100
    assert lora.peak < 80e9 < whole.peak, "one card of 80 GB"


def test_sharding_divides_what_it_shards() -> None:
    """Janus-Pro 7B has 30 blocks of 202 million; all else, the reference too, stays whole."""
    memory = _plan("janus_pro_7b.yaml", world=8).memory
    alone, shared = memory["1 process"], memory["FSDP2 × 8"]
    blocks = 30 * (4 * 4096**2 + 3 * 4096 * 11008 + 2 * 4096) * 4
    assert alone.weights - shared.weights == pytest.approx(blocks * 7 / 8)
    assert alone.optimiser - shared.optimiser == pytest.approx(2 * blocks * 7 / 8)
    assert shared.gathered == blocks
    assert (shared.update, shared.reference) == (alone.update, alone.reference)
    assert shared.peak < memory["DDP × 8"].peak - 40e9


CASES: dict[str, dict[str, Any]] = {
    "none": {"kind": "none"},
    "dgs": {"kind": "dgs", "preview_at": 0.3, "target_acceptance": 0.75, "max_rounds": 1},
    "dgs, two rounds": {"kind": "dgs", "preview_at": 0.5, "target_acceptance": 0.5, "max_rounds": 2},
    "dgs, dynamic": {"kind": "dgs", "group": "dynamic", "group_min": 2, "group_max": 5, "max_rounds": 1},
    "pods": {"kind": "pods", "candidates": 4},
    "dapo": {"kind": "dapo", "max_rounds": 2},
}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> UnifyBench:
    """One concept of PocketBench, so that the measurements before and after are short."""
    folder = tmp_path_factory.mktemp("pocketbench")
    write_pocketbench(folder)
    whole = load_unifybench(folder)
    return replace(whole, concepts=whole.concepts[:1])


@pytest.mark.parametrize("case", CASES)
async def test_a_real_run_of_the_pocket_policy_does_what_the_plan_says(
    tmp_path: Path, bench: UnifyBench, case: str
) -> None:
    """Policy steps and requests are counted where they happen; only the scorers are stand-ins."""
    config = TrainConfig.model_validate(
        {
            "steps": 1,
            "rewards": {name: {"weight": 0.25} for name in ToyScorer().weights},
            "sampling": {"prompts": 3, "group_size": 3, "recall_share": 1.0, "chunks": 2},
            "selector": CASES[case],
            "optimiser": {"micro_batch": 2, "micro_steps": 4},
            "objective": {"image_steps": 4},
            "evaluation": {"pictures_per_condition": 1, "shown": 1},
        }
    )
    policy, work = PocketPolicy.load(), make_plan(config).work
    gate, scorer, passes = ToyScorer(weights=dict(config.selector.gate_weights)), ToyScorer(), 0
    backward = torch.Tensor.backward

    def counted(self: torch.Tensor, *arguments: Any, **named: Any) -> None:
        nonlocal passes
        passes += 1
        backward(self, *arguments, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "backward", counted)
        await train(
            Run(
                config, tmp_path, policy=policy, reference=PocketPolicy.load(), bench=bench,
                scorers=Scorers(scorer, gate),
            )
        )  # fmt: skip
    steps = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    for step in steps:
        assert _within(step["selection"]["policy_steps"], work.policy_steps)
        assert _within(step["selection"]["proposed"], work.proposed)
        assert _within(step["trajectories"], work.finished)
    in_steps = [len(request) for request in scorer.requests if not request[0].id.startswith("held-out")]
    assert len(in_steps) == work.requests
    assert all(_within(count, work.items) for count in in_steps)
    assert _within(len(gate.requests), (work.gate_requests[0], work.gate_requests[1]))
    assert all(len(request) <= work.gate_items[1] for request in gate.requests)
    assert _within(passes, (work.backward_passes[0], work.backward_passes[1]))
    if case in ("none", "dgs", "pods"):  # nothing depends on chance, so the plan is exact
        assert work.policy_steps[0] == work.policy_steps[1] == steps[0]["selection"]["policy_steps"]


def _within(count: int, pair: Pair) -> bool:
    return pair[0] <= count <= pair[1]


def _kept_bytes(run: Callable[[], torch.Tensor], model: nn.Module) -> int:
    """Bytes that autograd keeps for the backward pass, parameters apart."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
        return sum(storage.nbytes() for storage in kept.values())


def _small_janus(layers: int, lora: LoraConfig | None, dtype: torch.dtype, precision: torch.dtype) -> float:
    """Bytes kept for a token."""
    config = tiny_config()
    for name, value in (("hidden_size", 128), ("intermediate_size", 352), ("num_hidden_layers", layers)):
        setattr(config.text_config, name, value)
    config.text_config.head_dim, config.text_config.num_key_value_heads = 32, 4
    config.vq_config.projection_dim = config.vq_config.image_token_embed_dim = config.vision_config.projection_dim = 128
    policy = random_policy(config, dtype=dtype, device=torch.device("cpu"), lora=lora)
    policy.precision = precision
    empty = policy.start(PROMPTS * 2)
    state = replace(empty, tokens_N_I=torch.zeros_like(empty.tokens_N_I), step=policy.steps)
    tokens = 2 * len(state) * (state.prompt_ids_N_P.shape[1] + state.tokens_N_I.shape[1] - 1)
    return _kept_bytes(lambda: policy.image_log_probs(state), policy.model) / tokens


@pytest.mark.parametrize(
    ("lora", "dtype", "precision"),
    [
        (None, torch.float32, torch.float32),
        (None, torch.float32, torch.bfloat16),
        (LORA, torch.bfloat16, torch.float32),
    ],
)
def test_activations_are_what_the_formula_says(
    lora: LoraConfig | None, dtype: torch.dtype, precision: torch.dtype
) -> None:
    """Two blocks more: what they keep for a token, against the plan's factors."""
    kept = _small_janus(4, lora, dtype, precision) - _small_janus(2, lora, dtype, precision)
    changes: dict[str, Any] = {"layers": 2, "hidden": 128, "intermediate": 352, "adapters": lora is not None}
    size = _replaced(PolicyConfig(kind="janus", weights="random"), changes | {"weight_bytes": dtype.itemsize})
    assert kept == pytest.approx(kept_per_token(size, precision.itemsize, 100), rel=0.2)


def _replaced(config: PolicyConfig, changes: dict[str, Any]) -> PolicySize:
    return replace(policy_size(config), **changes)


def test_every_configuration_in_the_repository_passes_the_check() -> None:
    files = sorted(CONFIGS.glob("*.yaml"))
    assert {"janus_pro_1b.yaml", "janus_pro_7b.yaml", "pocket.yaml"} <= {file.name for file in files}
    for file in files:
        result = CliRunner().invoke(app, ["train", "--config", str(file), "--check"])
        assert result.exit_code == 0, result.output
        assert "the configuration is sound" in result.output
        assert ("missing policy.weights" in result.output) == (not file.name.startswith("pocket"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["policy.lora={targets: [query]}"], "query"),
        (["policy.steps=7"], "divide the picture's 24 rows"),
        (["policy.weights=random", "selector={kind: dgs, preview_at: 0.99}"], "preview after all 24 steps"),
        (["policy.answer_tokens=16000"], "has 16384 positions"),
        (["policy.size=3b"], "policy.size"),
        (["policy.colour=red"], "policy.colour"),
    ],
)
def test_what_is_wrong_is_named_and_ends_with_exit_code_1(changes: list[str], message: str) -> None:
    arguments = ["train", "--check", "--config", str(CONFIGS / "janus_pro_1b.yaml")]
    result = CliRunner().invoke(app, arguments + [part for change in changes for part in ("--set", change)])
    assert result.exit_code == 1
    assert message in result.output.replace("\n", " ")


def test_a_broken_benchmark_is_an_error_and_a_missing_one_a_warning(tmp_path: Path) -> None:
    missing = _plan("pocket.yaml", f"benchmark={tmp_path / 'none'}")
    assert not missing.errors
    assert "missing benchmark" in missing.warnings[0]
    (tmp_path / "concepts_list.json").write_text("[")
    assert "concepts_list.json" in _plan("pocket.yaml", f"benchmark={tmp_path}").errors[0]


def test_settings_that_learn_nothing_are_warned_of() -> None:
    assert "eight bits" in " ".join(_plan("janus_pro_1b.yaml", "policy.dtype=bf16").warnings)
    assert "eight bits" not in " ".join(_plan("janus_pro_1b.yaml", "policy.dtype=bf16", "policy.lora={}").warnings)
    assert "micro_steps" in " ".join(_plan("janus_pro_1b.yaml", "optimiser.micro_steps=8").warnings)
    assert "long answers" in " ".join(_plan("janus_pro_1b.yaml", "objective.answer_tokens=10").warnings)


def test_t2i_r1s_hyper_parameters_are_in_both_files() -> None:
    for file in ("janus_pro_1b.yaml", "janus_pro_7b.yaml"):
        config = load_config(CONFIGS / file)
        assert config.optimiser.learning_rate == 1e-6
        assert config.objective.beta == 0.01
        assert config.sampling.group_size == 8
        assert config.policy.guidance == 5
        assert policy_size(config.policy).image_tokens == 576
        assert step_work(config, policy_size(config.policy)).finished == (128, 128)


def test_the_policy_section_has_short_forms(tmp_path: Path) -> None:
    base = yaml.safe_load((CONFIGS / "pocket.yaml").read_text())
    for short, weights in (("pocket", ""), (str(tmp_path), str(tmp_path))):
        config = TrainConfig.model_validate(base | {"policy": short})
        assert (config.policy.kind, config.policy.weights) == ("pocket", weights)
    assert TrainConfig.model_validate(base | {"policy": {"kind": "janus", "size": "7b"}}).policy.size == "7b"
    with pytest.raises(ConfigError, match="none"):
        policy_size(PolicyConfig(weights=str(tmp_path / "none")))

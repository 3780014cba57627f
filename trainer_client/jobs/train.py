"""A run from its configuration: real policy, real benchmark, live services, report. What `sync-r1 train` calls."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch

from sync_r1.reward_models.cards import Part
from sync_r1.trainer_client.config import ConfigError, TrainConfig, check_names, check_parts, processes_error
from sync_r1.trainer_client.config.run_folder import changed_sections, read_config, write_config
from sync_r1.trainer_client.evaluation.held_out import Evaluation
from sync_r1.trainer_client.evaluation.oracle import PocketOracle, SuccessOracle
from sync_r1.trainer_client.jobs.local_services import live_services, read_endpoints
from sync_r1.trainer_client.policies.base import Policy
from sync_r1.trainer_client.policies.loading import load_policy, load_reference
from sync_r1.trainer_client.reports.run_page import write_report
from sync_r1.trainer_client.rollouts.scorer import Scorer, Scorers
from sync_r1.trainer_client.sdk.client import RewardClient
from sync_r1.trainer_client.sdk.ensemble import RewardEnsemble
from sync_r1.trainer_client.sdk.reward_use import AffineMap, RewardUse, reward_of
from sync_r1.trainer_client.sdk.settings import settings_from_environment
from sync_r1.trainer_client.tasks.named_benchmarks import benchmark_folder
from sync_r1.trainer_client.tasks.unifybench import UnifyBench, load_unifybench
from sync_r1.trainer_client.training.checkpoint import latest_checkpoint
from sync_r1.trainer_client.training.distributed import join, leave
from sync_r1.trainer_client.training.loop import train
from sync_r1.trainer_client.training.run import Progress, Run

_READY_TIMEOUT_S = 60.0
_CHANGEABLE = {"budget_s", "outage_budget_s", "score_timeout_s", "checkpoint_every", "checkpoints_kept", "judges"}
"""Settings that may differ when a run is resumed, because they change nothing that is learnt."""


def run_training(
    config: TrainConfig, out: Path, *, resume: bool, endpoints_file: Path | None, progress: Progress
) -> tuple[Evaluation | None, Evaluation]:
    """The whole job; leaves everything in `out` and returns (start, end). Under `torchrun` or `accelerate launch` every
    process calls this; the first one writes `out`, starts the services and tells `progress`.

    Raises ConfigError when `out` holds a run and `resume` is False (or none and it is True), ServicesError,
    RewardClientError, TrainingError.
    """
    started_s = time.monotonic()
    # A process may wait for the first one's whole evaluation, or for another one's outage.
    ranks = join(config.budget_s + config.outage_budget_s + _READY_TIMEOUT_S)
    if why := processes_error(config, ranks.size):
        raise ConfigError(why)
    endpoints = {} if endpoints_file is None else read_endpoints(endpoints_file)
    if ranks.main:
        _check_folder(config, out, resume)
        check_rewards(config, endpoints if endpoints_file is not None else None)
        load_benchmark(config.benchmark, out)
    ranks.barrier()
    torch.set_num_threads(config.threads)
    bench = load_benchmark(config.benchmark, out)
    policy = _load_newest(config, latest_checkpoint(out / "checkpoints"))
    make_run = partial(
        Run,
        config,
        out,
        policy,
        # The frozen reference is where the run started from, not where it was interrupted.
        load_reference(config.policy, config.precision, policy),
        bench,
        oracle=load_oracle(bench) if ranks.main else None,
        progress=progress,
        ranks=ranks,
        started_s=started_s,
    )
    with ExitStack() as stack:
        if ranks.main:
            # Only now is the folder a run: whatever was wrong so far can be mended and tried again.
            write_config(out, config)
            if endpoints_file is None:
                progress("starting Triton and the reward services", 0, config.steps)
                services = live_services(config.profile, out, also=config.also, judges=config.judges)
                endpoints = stack.enter_context(services)
        result = asyncio.run(_train(config, ranks.broadcast(endpoints), make_run))
    if ranks.main:
        write_report(out)
    leave(ranks)
    return result


async def _train(
    config: TrainConfig, endpoints: Mapping[str, str], make_run: Callable[[Scorers[Scorer]], Run]
) -> tuple[Evaluation | None, Evaluation]:
    """The run with the reward services at `endpoints`."""
    clients = reward_clients(config, endpoints)
    total = reward_ensemble(config, clients)
    try:
        await total.wait_ready(_READY_TIMEOUT_S)
        judges = await reward_parts(config, clients)
        check_parts(config, judges)
        scorers: Scorers[Scorer] = Scorers(
            total,
            _gate_ensemble(config, clients) if config.selector.gate_weights else total,
            part_of(total, "answer", judges),
            part_of(total, "picture", judges),
            judges,
        )
        return await train(make_run(scorers))
    finally:
        await total.close()


def _load_newest(config: TrainConfig, checkpoint: Path | None) -> Policy:
    """What training continues with: the checkpoint's weights where there are any."""
    newest = {"weights": str(checkpoint / "policy")} if checkpoint else {}
    return load_policy(config.policy.model_copy(update=newest), config.precision)


def load_benchmark(name: str, out: Path) -> UnifyBench:
    """A PocketBench by name is rendered into `out/benchmark`, anything else is a folder. Raises UnifyBenchError."""
    return load_unifybench(benchmark_folder(name, out / "benchmark"))


def load_oracle(bench: UnifyBench) -> SuccessOracle | None:
    """The oracle where the benchmark is PocketBench; elsewhere nobody can tell success from a picture, so None."""
    pocket = all(
        (bench.root / "concept" / "test" / concept.name / "pocket.json").exists() for concept in bench.concepts
    )
    return PocketOracle(bench.root) if pocket else None


def _check_folder(config: TrainConfig, out: Path, resume: bool) -> None:
    file = out / "config.json"
    if file.exists() and not resume:
        raise ConfigError(f"{out} already holds a run; continue it with --resume, or give another --out")
    if resume and not file.exists():
        raise ConfigError(f"there is no run to resume in {out}; leave --resume out to start one")
    if resume:
        changed = [key for key in changed_sections(read_config(out), config) if key not in _CHANGEABLE]
        if changed:
            raise ConfigError(f"{out} was started with another {', '.join(changed)}; resume with the same settings")
    out.mkdir(parents=True, exist_ok=True)


def check_rewards(config: TrainConfig, endpoints: Mapping[str, str] | None) -> None:
    """Raises ConfigError for a reward that nobody serves: at `endpoints`, or without them by the run's profiles."""
    if endpoints is not None:
        check_names(config, endpoints, "no endpoint for")
        return
    from sync_r1.reward_models.profiles import load_profile  # needed only where this machine serves the rewards

    names = (config.profile, *config.also)
    known = {reward for name in names for reward in load_profile(name).rewards}
    check_names(config, known, f"profile {' and '.join(names)} has no reward")


def reward_clients(config: TrainConfig, endpoints: Mapping[str, str]) -> dict[str, RewardClient]:
    """A client for every reward that the run or its gate uses. Raises ConfigError for one without an endpoint."""
    check_rewards(config, endpoints)
    settings = settings_from_environment()
    return {name: RewardClient(endpoints[name], settings) for name in sorted(config.services)}


async def reward_parts(config: TrainConfig, clients: Mapping[str, RewardClient]) -> dict[str, Part]:
    """Which part of a trajectory each of the rewards judges: as its service says, else as the configuration does.

    Raises ConfigError where both say it and differ, and where neither does.
    """
    judges: dict[str, Part] = {}
    for name, client in clients.items():
        said, own = (await client.describe(timeout_s=_READY_TIMEOUT_S)).judges, config.judges_of(name)
        if said and own and said != own:
            raise ConfigError(f"rewards.{name}.judges is {own!r}, but its service says {said!r}; leave the key out")
        if (part := said or own) is None:
            raise ConfigError(
                f"the service of {name} does not say what it judges; set rewards.{name}.judges to picture or answer"
            )
        judges[name] = part
    return judges


def reward_ensemble(config: TrainConfig, clients: Mapping[str, RewardClient]) -> RewardEnsemble:
    """The run's total reward."""
    uses = {
        name: RewardUse(
            weight=reward.weight,
            variant=reward.variant,
            policy=config.failure if reward.weight > 0 else "monitor_only",
            affine=AffineMap(*reward.affine) if reward.affine else None,
        )
        for name, reward in config.rewards.items()
    }
    return RewardEnsemble(
        {name: (clients[reward_of(name)], use) for name, use in uses.items()}, combination=config.combination
    )


def part_of(ensemble: RewardEnsemble, part: Part, judges: Mapping[str, Part]) -> RewardEnsemble | None:
    """The rewards of answers, or of pictures, alone; None where none of them counts."""
    names = [name for name in ensemble.rewards if judges[reward_of(name)] == part]
    counts = any(ensemble.rewards[name][1].weight > 0 for name in names)
    return ensemble.only(names) if counts else None


def _gate_ensemble(config: TrainConfig, clients: Mapping[str, RewardClient]) -> RewardEnsemble:
    """One round of requests for the gate: the same clients, its own weights, and always a plain weighted sum."""
    variants = {name: reward.variant for name, reward in config.rewards.items()}
    uses = {name: RewardUse(weight, variants.get(name, "")) for name, weight in config.selector.gate_weights.items()}
    return RewardEnsemble({name: (clients[reward_of(name)], use) for name, use in uses.items()})

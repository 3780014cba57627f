"""What selectors do to the gradient, at frozen parameters: `python -m benchmarks.gradients [--out runs/gradients]`.

A pool of finished trajectories is drawn for every prompt, each with its rewards, the rewards of its previews, and the
gradients of its answer's and its picture's log-probability (kept as a random sketch, which preserves inner products).
The group gradient is linear in those, so every selector, by its own code, is replayed on the same pool at no further
cost. A pool that is in `--out` is used again.

With g the gradient of one group given its prompt, and means over prompts outside:

    signal-to-noise = mean ‖E g‖² / mean tr Cov(g),    cosine = mean E g·E g₀ / sqrt(mean ‖E g‖² mean ‖E g₀‖²)

where g₀ is that of a plain group. An update averages groups of different prompts, so its signal is the part along g₀
and its noise is all of E‖g‖² divided by their number: that is the gain of an update per forward. ‖E g‖² is estimated
without bias by inner products of groups from disjoint halves of a pool, E‖g‖² by ‖g‖², and intervals are 95 %
percentiles of a bootstrap over prompts.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.harness import Report
from sync_r1.trainer_client.config import IMAGE_REWARDS, PolicyConfig, SelectorConfig
from sync_r1.trainer_client.policies.loading import load_policy
from sync_r1.trainer_client.sdk.client import RewardClient
from sync_r1.trainer_client.sdk.ensemble import RewardEnsemble, RewardUse
from sync_r1.trainer_client.training.curriculum import Curriculum
from sync_r1.trainer_client.training.dgs import make_selector, rank_correlation
from sync_r1.trainer_client.training.reasoning import Task, sample
from sync_r1.trainer_client.training.rollout import Sampler, Trajectory
from sync_r1.trainer_client.training.runs import load_benchmark
from sync_r1.trainer_client.training.selectors import Gate, Selector
from sync_r1.trainer_client.training.service_process import live_services, read_endpoints
from sync_r1.trainer_client.training.sync_grpo import advantages

Floats = npt.NDArray[np.float64]
WEIGHTS = {
    "concept-consistency": 0.26, "text-faithfulness": 0.26, "aesthetic": 0.13, "understanding-correctness": 0.35,
}  # fmt: skip
IMAGE_ONLY = {"concept-consistency": 0.4, "text-faithfulness": 0.4, "aesthetic": 0.2}
RELEASED = {"concept-consistency": 0.65, "text-faithfulness": 0.35}
PREVIEWS = (1, 2, 3, 4)
"""Decoding steps (of 8) at which the pool's previews are scored."""
TRUNCATED_AT = 1
ANSWER_SCALE, IMAGE_SCALE = 2.0 / 16, 1.0 / 64
"""answer_weight / answer_tokens and image_weight / image tokens of the main job's objective."""
_SKETCH = 16_384
_REQUEST_ITEMS = 96


def _gate(keep: str, step: int, kept: int, proposals: int, weights: dict[str, float], **more: Any) -> dict[str, Any]:
    return {
        "kind": "dgs", "keep": keep, "preview_at": step / 8, "target_acceptance": kept / proposals, "max_rounds": 1,
        "weights": weights, **more,
    }  # fmt: skip


CASES: dict[str, tuple[int, dict[str, Any]]] = {
    "none, G = 8": (8, {"kind": "none"}),
    "none, G = 4": (4, {"kind": "none"}),
    "none, G = 16": (16, {"kind": "none"}),
    "DAPO, G = 8": (8, {"kind": "dapo", "min_std": 0.02}),
    "PODS, 8 of 16": (8, {"kind": "pods", "candidates": 16}),
    "PODS, 4 of 8": (4, {"kind": "pods", "candidates": 8}),
    "DGS above θ, as released: step 2, 8 of 32": (8, _gate("above", 2, 8, 32, RELEASED)),
    "DGS above θ, as released: step 2, 8 of 11": (8, _gate("above", 2, 8, 11, RELEASED)),
    "DGS above θ, image rewards, step 1, 8 of 16": (8, _gate("above", 1, 8, 16, IMAGE_ONLY)),
    "the same, rejected ones truncated": (8, _gate("above", 1, 8, 16, IMAGE_ONLY, learn_from_rejected=True)),
    "DGS spread, image rewards, step 1, 8 of 16": (8, _gate("spread", 1, 8, 16, IMAGE_ONLY)),
    "DGS spread, image rewards, step 2, 8 of 16": (8, _gate("spread", 2, 8, 16, IMAGE_ONLY)),
    "DGS spread, all rewards, step 1, 8 of 11": (8, _gate("spread", 1, 8, 11, WEIGHTS)),
    "DGS spread, all rewards, step 1, 8 of 16": (8, _gate("spread", 1, 8, 16, WEIGHTS)),
    "DGS spread, all rewards, step 1, 8 of 32": (8, _gate("spread", 1, 8, 32, WEIGHTS)),
    "DGS spread, all rewards, step 2, 8 of 16": (8, _gate("spread", 2, 8, 16, WEIGHTS)),
    "DGS spread, all rewards, step 1, 4 of 8": (4, _gate("spread", 1, 4, 8, WEIGHTS)),
    "DGS spread, all rewards, step 1, 4 of 16": (4, _gate("spread", 1, 4, 16, WEIGHTS)),
}
"""Name -> (G, trajectories in the loss; the selector's settings)."""


@dataclass(frozen=True)
class Pool:
    """P prompts with N trajectories each; D = size of the sketch."""

    rewards_P_N: dict[str, Floats]
    previews_P_N: dict[int, dict[str, Floats]]
    """Decoding step -> the rewards of the preview after it."""
    answer_P_N_D: npt.NDArray[np.float32]
    image_P_N_D: npt.NDArray[np.float32]
    truncated_P_N_D: npt.NDArray[np.float32]
    """Of the tokens that were decided before step `TRUNCATED_AT`."""


def weighted(rewards: dict[str, Floats], weights: dict[str, float]) -> Floats:
    """Weighted sum; not normalised, which no rank and no variance rule sees."""
    return np.asarray(sum(weight * rewards[name] for name, weight in weights.items()))


async def collect(prompts: int, per_prompt: int, policy_name: str, targets: dict[str, str], folder: Path) -> None:
    """Draw the pool and write it to `folder/pool.npz`."""
    bench = load_benchmark("pocket", folder)
    policy = load_policy(PolicyConfig(weights=policy_name), "auto")
    tasks = Curriculum(bench, share_of_r=0.85, learnability=0.0).draw(prompts, np.random.default_rng(3))
    ensemble = RewardEnsemble({name: (RewardClient(targets[name]), RewardUse(w)) for name, w in WEIGHTS.items()})
    sampler = Sampler(policy, temperature=1.0, batch=64, generator=torch.Generator().manual_seed(5))
    trajectories = sampler.begin(tasks, [group for group in range(prompts) for _ in range(per_prompt)])
    arrays: dict[str, Any] = {}
    for step in (*PREVIEWS, policy.steps):
        trajectories = sampler.advance(trajectories, step)
        for name, scores_N in (await _scores(ensemble, tasks, trajectories, sampler)).items():
            arrays[f"{step}/{name}"] = scores_N.reshape(prompts, per_prompt)
        print(f"drawn and scored up to step {step}", flush=True)
    await ensemble.close()
    sketch = _Sketch(list(policy.parameters()))
    rows: dict[str, list[npt.NDArray[np.float32]]] = {"answer": [], "image": [], "truncated": []}
    for number, trajectory in enumerate(trajectories):
        rows["answer"].append(sketch(policy.answer_log_probs(trajectory.answer).sum() * ANSWER_SCALE))
        rows["image"].append(sketch(policy.image_log_probs(trajectory.state).sum() * IMAGE_SCALE))
        early = policy.image_log_probs(trajectory.state, range(TRUNCATED_AT))
        rows["truncated"].append(sketch(early.sum() * IMAGE_SCALE))
        if number % 256 == 0:
            print(f"{number} of {len(trajectories)} gradients", flush=True)
    arrays |= {name: np.stack(vectors).reshape(prompts, per_prompt, -1) for name, vectors in rows.items()}
    np.savez(folder / "pool.npz", **arrays)


async def _scores(
    ensemble: RewardEnsemble, tasks: Sequence[Task], trajectories: Sequence[Trajectory], sampler: Sampler
) -> dict[str, Floats]:
    samples = [
        sample(tasks[t.group], identifier=str(number), group=str(t.group), pixels=pixels, answer=t.text)
        for number, (t, pixels) in enumerate(zip(trajectories, sampler.previews(trajectories)))
    ]
    parts = [
        await ensemble.score(samples[start : start + _REQUEST_ITEMS], timeout_s=120)
        for start in range(0, len(samples), _REQUEST_ITEMS)
    ]
    scores = {name: np.concatenate([part.rewards[name].scores_N for part in parts]) for name in WEIGHTS}
    if not all(np.isfinite(values).all() for values in scores.values()):
        raise RuntimeError("some rewards of the pool failed; look at the services' log and start again")
    return scores


class _Sketch:
    """Gradients as count sketches: each parameter is added, with a random sign, to one of `_SKETCH` sums."""

    def __init__(self, parameters: list[torch.nn.Parameter]) -> None:
        self._parameters = parameters
        count, generator = sum(p.numel() for p in parameters), torch.Generator().manual_seed(11)
        self._bucket = torch.randint(0, _SKETCH, (count,), generator=generator)
        self._sign = torch.randint(0, 2, (count,), generator=generator).float() * 2 - 1

    def __call__(self, scalar: torch.Tensor) -> npt.NDArray[np.float32]:
        gradients = torch.autograd.grad(scalar, self._parameters, allow_unused=True)
        flat = torch.cat([
            torch.zeros(p.numel()) if g is None else g.flatten() for p, g in zip(self._parameters, gradients)
        ])  # fmt: skip
        return torch.zeros(_SKETCH).index_add_(0, self._bucket, flat * self._sign).numpy()


def load(folder: Path, steps: int = 8) -> Pool:
    """What `collect` wrote."""
    with np.load(folder / "pool.npz") as arrays:
        return Pool(
            {name: arrays[f"{steps}/{name}"] for name in WEIGHTS},
            {step: {name: arrays[f"{step}/{name}"] for name in WEIGHTS} for step in PREVIEWS},
            arrays["answer"], arrays["image"], arrays["truncated"],
        )  # fmt: skip


@dataclass(frozen=True)
class _Replayed(Trajectory):
    """A trajectory of the pool: `index` within its prompt's part."""

    index: int = 0


class PoolSampler:
    """Stands where a `Sampler` does: "draws" each prompt's pool in a random order, and counts what that would cost."""

    def __init__(self, order_P_N: npt.NDArray[np.int64], steps: int = 8) -> None:
        self.policy, self.policy_steps = SimpleNamespace(steps=steps), 0
        self.looked: list[tuple[int, int]] = []
        self._order = [list(order) for order in order_P_N]

    def begin(self, tasks: Sequence[Any], groups: Sequence[int]) -> list[_Replayed]:
        blank: Any = SimpleNamespace(texts=["?"])
        return [_Replayed(group, blank, _State(0), int(self._order[group].pop())) for group in sorted(groups)]

    def advance(self, trajectories: Sequence[_Replayed], until_step: int) -> list[_Replayed]:
        self.policy_steps += sum(until_step - trajectory.state.step for trajectory in trajectories)
        return [_Replayed(t.group, t.answer, _State(until_step), t.index) for t in trajectories]

    def previews(self, trajectories: Sequence[_Replayed]) -> list[Any]:
        self.policy_steps += len(trajectories)
        self.looked = [(trajectory.group, trajectory.index) for trajectory in trajectories]
        return [_BLANK] * len(trajectories)


@dataclass(frozen=True)
class _State:
    step: int
    truncated: bool = False


_BLANK = np.zeros((1, 1, 3), np.uint8)


@dataclass(frozen=True)
class Groups:
    """One replay: for each prompt its group's gradient (all, answers, pictures), and what all groups cost."""

    gradient_3_P_D: npt.NDArray[np.float64]
    kept_P: npt.NDArray[np.bool_]
    forwards: int


def replay(pool: Pool, selector: Selector, config: SelectorConfig, tasks: list[Task], order_P_N: Any) -> Groups:
    """One group per prompt by `selector`'s own code, its members taken from `order_P_N`."""
    sampler = PoolSampler(order_P_N)
    step = round(config.preview_at * 8)

    async def gate(samples: Sequence[Any]) -> Floats:
        scores = weighted(pool.previews_P_N[step], config.weights)
        return np.array([scores[place] for place in sampler.looked])

    run: Any = selector.rollout
    checked: Gate = gate
    selected = asyncio.run(run(sampler, tasks, checked))
    members = selected.trajectories
    groups_N = np.array([member.group for member in members])
    at = (groups_N, np.array([member.index for member in members]))
    # A trajectory that the selector moved to the end without decoding is a truncated one.
    truncated_N = np.isnan(selected.gate_N) if config.learn_from_rejected else np.zeros(len(members), np.bool_)
    image_weights = {name: WEIGHTS[name] for name in IMAGE_REWARDS}

    def reward(weights: dict[str, float]) -> Floats:
        final, early = weighted(pool.rewards_P_N, weights), weighted(pool.previews_P_N[TRUNCATED_AT], weights)
        return np.asarray(np.where(truncated_N, early[at], final[at]))

    total_N, image_N = reward(WEIGHTS), reward(image_weights)
    chosen_N = selector.choose(groups_N, total_N, np.ones(len(members), np.bool_))
    shares = [advantages(values_N, groups_N, chosen_N) for values_N in (total_N, image_N)]
    prompts, size = len(tasks), pool.answer_P_N_D.shape[2]
    gradient = np.zeros((3, prompts, size))
    kept_P = np.zeros(prompts, np.bool_)
    for prompt in range(prompts):
        rows = np.flatnonzero((groups_N == prompt) & chosen_N)
        if not len(rows):
            continue
        kept_P[prompt] = True
        index = at[1][rows]
        images_n_D = np.where(
            truncated_N[rows, None], pool.truncated_P_N_D[prompt, index], pool.image_P_N_D[prompt, index]
        )
        gradient[1, prompt] = shares[0][rows] @ pool.answer_P_N_D[prompt, index] / len(rows)
        gradient[2, prompt] = shares[1][rows] @ images_n_D / len(rows)
    gradient[0] = gradient[1] + gradient[2]
    return Groups(gradient, kept_P, sampler.policy_steps)


@dataclass
class Moments:
    """Sums over replays, by part (all, answers, pictures) and prompt."""

    cross_3_P: Floats
    """‖E g‖², by pairs from the two halves."""
    square_3_P: Floats
    reference_3_P: Floats
    """E g · E g₀."""
    plain_3_P: Floats
    """‖E g₀‖²."""
    pairs_P: Floats
    singles_P: Floats
    sum_P_D: Floats
    forwards: float = 0.0

    def figures(self, weight_P: Floats, part: int) -> tuple[float, float, float]:
        """(signal-to-noise, cosine, gain of an update per forward) with prompts weighted."""
        signal = weight_P @ self.cross_3_P[part] / (weight_P @ self.pairs_P)
        square = weight_P @ self.square_3_P[part] / (weight_P @ self.singles_P)
        along = weight_P @ self.reference_3_P[part] / (weight_P @ self.singles_P)
        plain = weight_P @ self.plain_3_P[part] / weight_P.sum()
        ratio = signal / (square - signal)
        return ratio, along / np.sqrt(max(signal, 1e-30) * plain), (along / plain) ** 2 / (square * self.forwards)

    def agreement(self) -> float:
        """Mean inner product of the expected gradients of two prompts ÷ mean squared length of one prompt's."""
        mean_P_D = self.sum_P_D / self.singles_P[:, None]
        gram = mean_P_D @ mean_P_D.T
        count = len(gram)
        between = (gram.sum() - np.trace(gram)) / (count * (count - 1))
        return float(between / (self.cross_3_P[0].sum() / self.pairs_P.sum()))


def moments(pool: Pool, name: str, tasks: list[Task], repeats: int) -> Moments:
    """Replay one case `repeats` times on random halves."""
    group_size, settings = CASES[name]
    config = SelectorConfig.model_validate(settings | {"min_correlation": -1.0})
    selector = make_selector(config, group_size, np.random.default_rng(1))
    rng = np.random.default_rng(0)
    prompts, per_prompt = pool.rewards_P_N["aesthetic"].shape
    half, burn_in = per_prompt // 2, 2  # θ is a running quantile, so the first replays only fill its history
    zeros = [np.zeros((3, prompts)) for _ in range(4)]
    sums = Moments(*zeros, np.zeros(prompts), np.zeros(prompts), np.zeros((prompts, pool.answer_P_N_D.shape[2])))
    spent = kept = 0
    plain = make_selector(SelectorConfig(kind="none"), half, rng)
    for repeat in range(repeats + burn_in):
        order = rng.permuted(np.tile(np.arange(per_prompt), (prompts, 1)), axis=1)
        halves = [order[:, :half], order[:, half:]]
        own = [replay(pool, selector, config, tasks, part) for part in halves]
        if repeat < burn_in:
            continue
        whole = [replay(pool, plain, SelectorConfig(kind="none"), tasks, part) for part in halves]
        both_P = own[0].kept_P & own[1].kept_P
        sums.cross_3_P += np.einsum("qpd,qpd->qp", own[0].gradient_3_P_D, own[1].gradient_3_P_D)
        sums.pairs_P += both_P
        sums.plain_3_P += np.einsum("qpd,qpd->qp", whole[0].gradient_3_P_D, whole[1].gradient_3_P_D) / repeats
        for one, other in ((own[0], whole[1]), (own[1], whole[0])):
            sums.square_3_P += np.einsum("qpd,qpd->qp", one.gradient_3_P_D, one.gradient_3_P_D)
            sums.reference_3_P += np.einsum("qpd,qpd->qp", one.gradient_3_P_D, other.gradient_3_P_D)
            sums.singles_P += one.kept_P
            sums.sum_P_D += one.gradient_3_P_D[0]
            spent, kept = spent + one.forwards, kept + int(one.kept_P.sum())
    sums.forwards = spent / kept
    return sums


def bootstrapped(cases: dict[str, Moments], draws: int = 400) -> dict[str, list[str]]:
    """By case: signal-to-noise, cosine, gain per forward ÷ the first case's; then the same three of pictures only."""
    first = next(iter(cases.values()))
    prompts = len(first.singles_P)
    rng = np.random.default_rng(2)
    drawn = [rng.multinomial(prompts, np.full(prompts, 1 / prompts)).astype(np.float64) for _ in range(draws)]
    weights = [np.ones(prompts), *drawn]
    cells: dict[str, list[str]] = {}
    for name, case in cases.items():
        columns = []
        for weight_P in weights:
            row: list[float] = []
            for part in (0, 2):
                ratio, cosine, gain = case.figures(weight_P, part)
                row += [ratio, cosine, gain / first.figures(weight_P, part)[2]]
            columns.append(row)
        estimate, *resampled = np.array(columns)
        low, high = np.percentile(resampled, [2.5, 97.5], axis=0)
        cells[name] = [f"{e:.2f} [{a:.2f}, {b:.2f}]" for e, a, b in zip(estimate, low, high)]
    return cells


def correlations(pool: Pool, suffix: str, policy: str) -> None:
    """How well previews predict: rank correlation within prompts of gate scores and final rewards."""
    report = Report(
        f"gate_correlation{suffix}",
        f"What a preview tells about the finished picture (rank correlation within prompts, {policy})",
        ("preview after step", "released gate → image rewards", "released gate → total",
         "image rewards → image rewards", "image rewards → total", "all rewards → total",
         "released gate → total, kept half only"),
    )  # fmt: skip
    prompts, per_prompt = pool.rewards_P_N["aesthetic"].shape
    groups_N = np.repeat(np.arange(prompts), per_prompt)
    total, image = weighted(pool.rewards_P_N, WEIGHTS), weighted(pool.rewards_P_N, IMAGE_ONLY)
    for step, rewards in pool.previews_P_N.items():
        released, same, everything = (weighted(rewards, weights) for weights in (RELEASED, IMAGE_ONLY, WEIGHTS))
        best = released > np.median(released, axis=1, keepdims=True)
        pairs = [(released, image), (released, total), (same, image), (same, total), (everything, total)]
        values = [rank_correlation(gate.ravel(), final.ravel(), groups_N) for gate, final in pairs]
        values.append(rank_correlation(released[best], total[best], groups_N[best.ravel()]))
        report.rows.append((str(step), *(f"{value:.2f}" for value in values)))
    report.notes.append(
        f"{prompts} prompts × {per_prompt} trajectories; released gate = 0.65 concept-consistency + 0.35"
        " text-faithfulness; image rewards = 0.4, 0.4, 0.2 as in the total; all rewards = the total's weights, the"
        " answer's included"
    )
    report.notes.append(
        "last column: what the released gate sees when it keeps half and looks at what it kept, against the total:"
        " selection hides the relation"
    )
    report.finish()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--endpoints", type=Path, help="of services that run already (`sync-r1 up --endpoints-file`)")
    parser.add_argument("--out", type=Path, default=Path("runs/gradients"))
    parser.add_argument("--policy", default="", help='a folder with a saved policy; "" = the cold start')
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--per-prompt", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=16)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    if not (arguments.out / "pool.npz").exists():
        with ExitStack() as stack:
            endpoints = (
                read_endpoints(arguments.endpoints)
                if arguments.endpoints
                else stack.enter_context(live_services("pocket", arguments.out))
            )
            asyncio.run(
                collect(arguments.prompts, arguments.per_prompt, arguments.policy, endpoints, arguments.out)
            )
    pool = load(arguments.out)
    suffix, policy = ("_trained", "a trained policy") if arguments.policy else ("", "the cold-start policy")
    correlations(pool, suffix, policy)
    prompts = len(pool.answer_P_N_D)
    bench = load_benchmark("pocket", arguments.out)
    tasks = Curriculum(bench, share_of_r=0.85, learnability=0.0).draw(prompts, np.random.default_rng(3))
    cases = {name: moments(pool, name, tasks, arguments.repeats) for name in CASES}
    report = Report(
        f"gradients{suffix}",
        f"What selectors do to the group gradient (frozen parameters, {policy})",
        ("selector", "forwards per group learnt from", "signal-to-noise", "cosine to none",
         "gain of an update per forward ÷ none's", "pictures only: signal-to-noise", "pictures only: cosine",
         "pictures only: gain per forward ÷ none's"),
    )  # fmt: skip
    for name, cells in bootstrapped(cases).items():
        report.rows.append((name, f"{cases[name].forwards:.1f}", *cells))
    report.notes.append(
        f"{prompts} prompts × {pool.answer_P_N_D.shape[1]} trajectories of"
        f" {arguments.policy or policy}; forwards are (row, decoding step) pairs, rejected"
        " previews and the passes that fill previews included"
    )
    report.notes.append("95 % percentile intervals of a bootstrap over prompts; ratios are formed within a resample")
    agreement = cases["none, G = 8"].agreement()
    report.notes.append(
        f"the expected gradients of two prompts have {agreement:.3f} of the inner product that one has with itself, so"
        " which prompts an update draws is noise too, and no selector lowers it; the gain per forward counts it:"
        " α² / (E‖g‖² × forwards), α = E g·E g₀ / ‖E g₀‖²"
    )
    report.finish()


if __name__ == "__main__":
    main()

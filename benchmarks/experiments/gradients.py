"""What selectors do to the gradient, at frozen parameters.

    python -m benchmarks.experiments.gradients [--out runs/gradients]

Three tables from one pool of trajectories (`gradient_pool.py`): how much of the reward's variance within a prompt the
picture and the answer make, how well a preview predicts the finished picture, and the signal-to-noise, the direction
and the cost of every selector's gradient (`gradient_replay.py` has the formulas). A pool that is in `--out` is used
again.
"""

from __future__ import annotations

import argparse
import asyncio
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.experiments.gradient_pool import (
    IMAGE_ONLY,
    RELEASED,
    WEIGHTS,
    Floats,
    Pool,
    PoolRewards,
    collect,
    load,
    load_rewards,
    prompts_of_pool,
    weighted,
)
from benchmarks.experiments.gradient_replay import Case, bootstrapped, moments
from benchmarks.harness import Report
from sync_r1.reward_models.cards import BUILT_IN_REWARDS
from sync_r1.trainer_client.jobs.local_services import live_services, read_endpoints
from sync_r1.trainer_client.rollouts.dgs import rank_correlation


def _gate(keep: str, step: int, kept: int, proposals: int, weights: dict[str, float], **more: Any) -> dict[str, Any]:
    return {
        "kind": "dgs", "keep": keep, "preview_at": step / 8, "target_acceptance": kept / proposals, "max_rounds": 1,
        "weights": weights, **more,
    }  # fmt: skip


CASES: dict[str, Case] = {
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


def variance_shares(pool: PoolRewards, suffix: str, policy: str) -> None:
    """Which part of the reward makes the difference between trajectories of one prompt."""
    report = Report(
        f"reward_variance{suffix}",
        f"What makes the difference between trajectories of one prompt ({policy})",
        ("part of the total", "weight", "share of the variance within prompts", "share of it known at preview step 1"),
    )  # fmt: skip
    picture = {name: WEIGHTS[name] for name, part in BUILT_IN_REWARDS.items() if part == "picture"}
    answer = {name: WEIGHTS[name] for name, part in BUILT_IN_REWARDS.items() if part == "answer"}
    total = weighted(pool.rewards_P_N, WEIGHTS)
    parts = {"picture (three rewards)": picture, "answer": answer, "both": WEIGHTS}
    parts |= {f"{name} alone": {name: weight} for name, weight in picture.items()}
    for name, weights in parts.items():
        final = weighted(pool.rewards_P_N, weights)
        report.rows.append((
            name,
            f"{sum(weights.values()):.2f}",
            f"{within(final, total) / within(total, total):.2f}",
            f"{explained(weighted(pool.previews_P_N[1], weights), final):.2f}",
        ))  # fmt: skip
    prompts, per_prompt = total.shape
    report.notes.append(
        f"{prompts} prompts × {per_prompt} trajectories; a part's share is its covariance with the total ÷ the total's"
        " variance, both within prompts, so picture and answer add up to 1; the last column is the squared correlation"
        " within prompts of the part's reward on the preview after one of eight steps with that on the finished picture"
        " (an answer is there before the picture)"
    )
    report.finish()


def within(one_P_N: Floats, other_P_N: Floats) -> float:
    """Covariance of two rewards around each prompt's own means."""
    centred = [values_P_N - values_P_N.mean(1, keepdims=True) for values_P_N in (one_P_N, other_P_N)]
    return float((centred[0] * centred[1]).mean())


def explained(seen_P_N: Floats, final_P_N: Floats) -> float:
    """Squared correlation within prompts."""
    spread = within(seen_P_N, seen_P_N) * within(final_P_N, final_P_N)
    return within(seen_P_N, final_P_N) ** 2 / spread if spread > 0 else 0.0


def correlations(pool: PoolRewards, suffix: str, policy: str) -> None:
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


def selectors(pool: Pool, arguments: argparse.Namespace, suffix: str, policy: str) -> None:
    """What every selector's gradient is worth."""
    prompts = len(pool.answer_P_N_D)
    tasks = prompts_of_pool(prompts, arguments.out)
    cases = {name: moments(pool, case, tasks, arguments.repeats) for name, case in CASES.items()}
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--endpoints", type=Path, help="of services that run already (`sync-r1 up --endpoints-file`)")
    parser.add_argument("--out", type=Path, default=Path("runs/gradients"))
    parser.add_argument("--policy", default="", help='a folder with a saved policy; "" = the cold start')
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--per-prompt", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=16)
    parser.add_argument("--rewards-only", action="store_true", help="only the two tables that need no gradients")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    wanted = "rewards.npz" if arguments.rewards_only else "gradients.npz"
    if not (arguments.out / wanted).exists():
        with ExitStack() as stack:
            endpoints = (
                read_endpoints(arguments.endpoints)
                if arguments.endpoints
                else stack.enter_context(live_services("pocket", arguments.out))
            )
            drawing = collect(
                arguments.prompts, arguments.per_prompt, arguments.policy, endpoints, arguments.out,
                gradients=not arguments.rewards_only,
            )  # fmt: skip
            asyncio.run(drawing)
    suffix, policy = ("_trained", "a trained policy") if arguments.policy else ("", "the cold-start policy")
    rewards = load_rewards(arguments.out)
    variance_shares(rewards, suffix, policy)
    correlations(rewards, suffix, policy)
    if not arguments.rewards_only:
        selectors(load(arguments.out), arguments, suffix, policy)


if __name__ == "__main__":
    main()

"""What a run's `metrics.jsonl` shows: the training half of the report, one function per section.

A section that a run has nothing to say about is "": an ungated run has no gate, a run of the past no waiting times.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

from sync_r1.trainer_client.reports.charts import Points, bar, line_chart

Steps = Sequence[dict[str, Any]]
_SMOOTH = 5
_PHASES = {
    "sample": "sampling",
    "gate": "gate",
    "reference": "reference (while rewards are computed)",
    "score_wait": "waiting for rewards",
    "update": "update",
}


def rewards(steps: Steps) -> str:
    """Total, each reward, and the total by task."""
    charts = [
        line_chart("total reward" if key == "total" else key, {key: series(steps, "rewards", key)}, smooth=_SMOOTH)
        for key in _keys(steps, "rewards")
    ]
    tasks: dict[str, Points] = {f"task {kind}": series(steps, "by_task", kind) for kind in _keys(steps, "by_task")}
    return _row([*charts, line_chart("total reward by task", tasks, smooth=_SMOOTH)])


def components(steps: Steps) -> str:
    """What the scores are made of; a chart holds four lines, further components get charts of their own."""
    keys = _keys(steps, "components")
    charts = []
    for reward in dict.fromkeys(key.split("/")[0] for key in keys):
        own = [key for key in keys if key.startswith(f"{reward}/")]
        for first in range(0, len(own), 4):
            lines: dict[str, Points] = {
                key.split("/", 1)[1]: series(steps, "components", key) for key in own[first : first + 4]
            }
            charts.append(line_chart(f"{reward}: components", lines))
    return _row(charts)


def gate(steps: Steps) -> str:
    """Dynamic Group Scaling: acceptance, θ, what the gate is worth and what it costs; "" without a gate."""
    if not any(step["selection"]["theta"] is not None or step.get("gate_correlation") is not None for step in steps):
        return ""
    accepted: Points = [(s["step"], s["selection"]["passed"] / max(s["selection"]["proposed"], 1)) for s in steps]
    rejected: Points = [
        (s["step"], s["selection"]["rejected_steps"] / max(s["selection"]["policy_steps"], 1)) for s in steps
    ]
    charts = [
        line_chart("share of previews that pass", {"acceptance": accepted}, smooth=_SMOOTH),
        line_chart("θ, mean over prompts", {"θ": series(steps, "selection", "theta")}),
        line_chart(
            "gate and final reward: rank correlation in groups",
            {"ρ": series(steps, "gate_correlation")},
            smooth=_SMOOTH,
        ),
        line_chart("share of policy steps spent on rejected previews", {"rejected": rejected}),
        line_chart(
            "trajectories finished, and filled in although rejected",
            {"finished": series(steps, "trajectories"), "filled": series(steps, "selection", "filled")},
        ),
    ]
    off = [step["step"] for step in steps if step.get("gate_active") == 0]
    note = _gate_cost(steps) + (f" The gate was switched off at step {off[0]}: it no longer ranked." if off else "")
    return f'{_row(charts)}<p class="note">{html.escape(note)}</p>'


def _gate_cost(steps: Steps) -> str:
    finished = sum(step["trajectories"] for step in steps)
    if not finished:
        return ""
    spent = sum(step["selection"]["policy_steps"] for step in steps)
    wasted = sum(step["selection"]["rejected_steps"] for step in steps)
    gate_s = sum(step["phases_s"]["gate"] for step in steps)
    return (
        f"Per finished trajectory: {spent / finished:.2f} policy steps, of which {wasted / finished:.2f} went into "
        f"rejected previews, and {gate_s / finished * 1000:.0f} ms waiting for the gate."
    )


def optimisation(steps: Steps) -> str:
    """KL, gradient, clipping, spread within groups, learning rate."""
    charts = [
        line_chart(
            "KL to the start, nats per token",
            {"answers": series(steps, "answer_kl"), "pictures": series(steps, "image_kl")},
        ),
        line_chart("gradient norm before clipping", _modalities(steps, "grad_norm"), smooth=_SMOOTH),
        line_chart("spread of the total within groups (std)", {"std": series(steps, "group_std")}, smooth=_SMOOTH),
        line_chart("tokens per answer", {"tokens": series(steps, "answer_tokens")}, smooth=_SMOOTH),
        line_chart("learning rate", _modalities(steps, "learning_rate")),
    ]
    if any(step.get("answer_clipped") or step.get("image_clipped") for step in steps):
        clipped: dict[str, Points] = {
            "answers": series(steps, "answer_clipped"),
            "pictures": series(steps, "image_clipped"),
        }
        charts.append(line_chart("share of tokens whose ratio is clipped", clipped))
    return _row(charts)


def _modalities(steps: Steps, name: str) -> dict[str, Points]:
    """One line, or one for each modality where pictures have an optimiser of their own."""
    if not any(f"image_{name}" in step for step in steps):
        return {"both": series(steps, name)}
    return {"answers": series(steps, name), "pictures": series(steps, f"image_{name}")}


def failures(steps: Steps) -> str:
    """Scores that failed, by reward; "" if none did."""
    names = [name for name in _keys(steps, "failures") if any(step["failures"].get(name) for step in steps)]
    if not names:
        return ""
    lines: dict[str, Points] = {name: series(steps, "failures", name) for name in names}
    return _row([line_chart("failed scores per step (never counted as 0)", lines)])


def time(steps: Steps) -> str:
    """Where the time went, and what of it the reward services cost."""
    if not steps:
        return ""
    seconds = {label: sum(step["phases_s"].get(phase, 0.0) for step in steps) for phase, label in _PHASES.items()}
    per_step = sum(seconds.values()) / len(steps)
    lead = f"{per_step:.1f} s per step in the mean of {len(steps)} steps."
    charts = []
    if any("reward_wait_share" in step for step in steps):
        charts += [
            line_chart(
                "share of the step spent waiting for rewards, gate included",
                {"share": series(steps, "reward_wait_share")},
                smooth=_SMOOTH,
            ),
            line_chart("seconds from the end of sampling to the last score", {"tail": series(steps, "tail_time_s")}),
        ]
    services: dict[str, Points] = {name: series(steps, "service_s", name) for name in _keys(steps, "service_s")}
    charts.append(line_chart("seconds until each service has scored the batch", services))
    if any("peak_memory_mb" in step for step in steps):
        charts.append(line_chart("peak memory of the trainer, MiB", {"peak": series(steps, "peak_memory_mb")}))
    return f'{bar(seconds)}<p class="note">{lead}</p>{_row(charts)}'


def series(steps: Steps, *path: str) -> list[tuple[float, float | None]]:
    """(step, value at `path`) of every step; None where there is none."""
    points: list[tuple[float, float | None]] = []
    for step in steps:
        value: Any = step
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        points.append((step["step"], value))
    return points


def _keys(steps: Steps, section: str) -> list[str]:
    return list(dict.fromkeys(key for step in steps for key in step.get(section) or {}))


def _row(charts: Sequence[str]) -> str:
    return f'<div class="row wide">{"".join(charts)}</div>' if charts else ""

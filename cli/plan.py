"""How `sync-r1 train --check` shows a plan: four tables, then what is missing or wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from sync_r1.trainer_client.planning.plan import Pair, Plan

_GIB = 2**30


def show_plan(plan: Plan, console: Console) -> None:
    """Print it."""
    from sync_r1.trainer_client.planning.memory import ASSUMPTIONS

    policy, work = plan.policy, plan.work
    sizes = Table("policy", policy.kind, title="what trains", title_justify="left")
    sizes.add_row("parameters", f"{policy.parameters:,}")
    sizes.add_row("trained", f"{policy.trained:,}{' (adapters)' if policy.adapters else ''}")
    sizes.add_row("frozen", f"{policy.parameters - policy.trained:,}")
    side = policy.picture_side
    sizes.add_row("picture", f"{side} × {side} pixels, {policy.image_tokens} tokens of {policy.codes} codes")
    sizes.add_row("decoding steps", f"{policy.steps}{', guided (two passes each)' if policy.guided else ''}")
    sizes.add_row("products", "bf16" if plan.products_bytes == 2 else "fp32")
    console.print(sizes)

    needs = Table("GiB in a process", *plan.memory, title="memory", title_justify="left")
    for name in ("weights", "reference", "gradients", "optimiser", "gathered", "update", "sampling", "peak"):
        needs.add_row(name, *(f"{getattr(memory, name) / _GIB:.2f}" for memory in plan.memory.values()))
    console.print(needs)
    for line in ASSUMPTIONS:
        console.print(f"  [dim]{escape(line)}[/]", highlight=False)
    console.print(
        f"  [dim]lengths: questions {policy.question_tokens}, answers {policy.answer_tokens}, prompts "
        f"{policy.prompt_tokens} tokens[/]",
        highlight=False,
    )

    steps = Table("one step", "all processes together", title="work", title_justify="left")
    for title, pair in (
        ("groups", work.groups),
        ("trajectories begun", work.proposed),
        ("trajectories finished and scored", work.finished),
        ("policy steps (trajectory × decoding step)", work.policy_steps),
        ("micro-batches with gradient", work.backward_passes),
        ("requests to each of the gate's services", work.gate_requests),
        ("items in one of them", work.gate_items),
        ("requests to each reward's service", (work.requests, work.requests)),
        ("items in one of them", work.items),
    ):
        steps.add_row(title, _pair(pair))
    console.print(steps)

    columns = ("service", "variant", "weight", "in the gate", "MB per step")
    services = Table(*columns, title="services", title_justify="left")
    for service in plan.services:
        sent = tuple(round(count / 1e5) / 10 for count in service.bytes_per_step)
        services.add_row(
            service.reward,
            service.variant or "(its default)",
            f"{service.weight:g}",
            f"{service.gate_weight:g}" if service.gate_weight else "",
            f"{sent[0]:g}" if sent[0] == sent[1] else f"{sent[0]:g} – {sent[1]:g}",
        )
    console.print(services)
    console.print("  [dim]a service's own limits may cut a request into several[/]")
    for warning in plan.warnings:
        console.print(f"[yellow]warning:[/] {escape(warning)}", highlight=False)
    for error in plan.errors:
        console.print(f"[bold red]error:[/] {escape(error)}", highlight=False)


def _pair(pair: Pair) -> str:
    return f"{pair[0]:,}" if pair[0] == pair[1] else f"{pair[0]:,} – {pair[1]:,}"

"""`sync-r1 compare`: two variants, releases or endpoints of one reward on the same samples."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sync_r1.cli.screen import console, errors_shown
from sync_r1.cli.serve_commands import AlsoOption, ProfileOption
from sync_r1.reward_models.errors import UserError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from sync_r1.services.local.up import Up
    from sync_r1.trainer_client.evaluation.compare_scores import Comparison, ScoredSide, Side
    from sync_r1.trainer_client.sdk.sample_file import SampleRow

SideArgument = Annotated[
    str, typer.Argument(help="VARIANT, VARIANT@RELEASE, @RELEASE, HOST:PORT or HOST:PORT/VARIANT@RELEASE.")
]


def compare(
    a: SideArgument,
    b: SideArgument,
    source: Annotated[
        Path, typer.Option("--input", exists=True, dir_okay=False, help="JSONL, as `sync-r1 score` takes it.")
    ],
    endpoint: Annotated[str, typer.Option("--endpoint", help="HOST:PORT of sides that name none.")] = "",
    start_up: Annotated[
        str, typer.Option("--up", metavar="REWARD", help="Start an embedded Triton and this reward's service for it.")
    ] = "",
    profile: ProfileOption = "pocket",
    also: AlsoOption = None,
    top: Annotated[int, typer.Option("--top", min=0, help="How many of the most different items are shown.")] = 10,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write every figure to this file.")] = None,
    html_file: Annotated[Path | None, typer.Option("--html", help="Write a page with pictures to this file.")] = None,
) -> None:
    """Compare two variants, releases or endpoints of one reward: rank correlation, shift, the most different items."""
    import json
    from dataclasses import replace

    from sync_r1.trainer_client.evaluation.compare_scores import compare as compared
    from sync_r1.trainer_client.evaluation.compare_scores import parse_side
    from sync_r1.trainer_client.reports.comparison_page import page

    if endpoint and start_up:
        raise typer.BadParameter("say either --endpoint HOST:PORT, or --up REWARD to start a service")
    with errors_shown(source, json_file, html_file):
        sides = [parse_side(text) for text in (a, b)]
        if not (endpoint or start_up or all(side.endpoint for side in sides)):
            raise UserError("a side names no endpoint; give --endpoint HOST:PORT, or --up REWARD to start a service")
        with _service(start_up, profile, also or []) as running:
            where = running.endpoints[start_up] if running is not None else endpoint
            rows, (one, other) = _scored([replace(side, endpoint=side.endpoint or where) for side in sides], source)
        ids = [row.id for row in rows]
        found = compared(ids, one, other, shown=top)
        if json_file is not None:
            named = {letter: {"endpoint": side.endpoint, "variant": side.variant, "release": side.release}
                     for letter, side in (("a", one), ("b", other))}  # fmt: skip
            json_file.write_text(json.dumps({"reward": one.reward, **named, **found.to_json()}, indent=1) + "\n")
        if html_file is not None:
            html_file.write_text(page(found, one, other, rows, source.parent), encoding="utf-8")
    _show(found, one, other)
    for file in (json_file, html_file):
        if file is not None:
            console().print(f"written: {file}", highlight=False)
    if not found.pairs:
        console().print("no item was scored by both: this compares nothing", highlight=False)
        raise typer.Exit(3)


def _show(found: Comparison, one: ScoredSide, other: ScoredSide) -> None:
    """The figures, the most different items and the verdict, on the screen."""
    from rich.markup import escape
    from rich.table import Table

    from sync_r1.trainer_client.reports.comparison_page import figures, verdict

    screen = console()
    table = Table("figure", "value", title=f"{one.reward}: A = {escape(one.name)}, B = {escape(other.name)}")
    for what, value in figures(found):
        table.add_row(escape(what), escape(value))
    for kinds, count in found.outcomes.items():
        table.add_row(f"A / B: {kinds}", str(count))
    screen.print(table)
    if found.most_different:
        items = Table("item", "A", "B", "B − A", title="most different")
        for item in found.most_different:
            items.add_row(escape(item.id), f"{item.a:.3f}", f"{item.b:.3f}", f"{item.b - item.a:+.3f}")
        screen.print(items)
    screen.print(escape(verdict(found)), highlight=False)


def _service(reward: str, profile: str, also: list[str]) -> AbstractContextManager[Up | None]:
    if not reward:
        return nullcontext()
    from sync_r1.services.local import up

    return up.start(profile, also=also, rewards=[reward], on_step=lambda step: console().print(f"starting {step} …"))


def _scored(sides: list[Side], source: Path) -> tuple[list[SampleRow], list[ScoredSide]]:
    import asyncio

    from rich.progress import Progress

    from sync_r1.trainer_client import RewardClient, settings_from_environment
    from sync_r1.trainer_client.evaluation.compare_scores import score_sides

    async def run(progress: Progress) -> tuple[list[SampleRow], list[ScoredSide]]:
        bar = progress.add_task("scoring", total=None)
        clients = {side.endpoint: RewardClient(side.endpoint, settings_from_environment()) for side in sides}
        try:
            return await score_sides(
                sides, [clients[side.endpoint] for side in sides], source,
                lambda done, total: progress.update(bar, completed=done, total=total),
            )  # fmt: skip
        finally:
            await asyncio.gather(*(client.close() for client in clients.values()))

    with Progress(console=console(), transient=True) as progress:
        return asyncio.run(run(progress))

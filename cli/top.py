"""`sync-r1 top`: a live table of services, from their metrics ports."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from sync_r1.services.telemetry.scrape import Scrape


def top(
    addresses: Annotated[list[str], typer.Argument(help="HOST:PORT of each service's metrics (`--metrics-port`).")],
    interval_s: Annotated[float, typer.Option("--interval", min=0.1, help="Seconds between two looks.")] = 2.0,
    looks: Annotated[int, typer.Option("--looks", min=0, help="Stop after so many; 0 goes on until Ctrl-C.")] = 0,
) -> None:
    """Show what each service does: items per second, in flight, refusals, latency, failures, mean score."""
    from contextlib import suppress

    from rich.console import Console
    from rich.live import Live

    before = {address: _look(address) for address in addresses}
    with Live(console=Console(), auto_refresh=False) as live, suppress(KeyboardInterrupt):
        look = 0
        while not looks or look < looks:
            time.sleep(interval_s)
            after = {address: _look(address) for address in addresses}
            live.update(_table(before, after), refresh=True)
            before, look = after, look + 1


def _look(address: str) -> Scrape | str:
    """A scrape, or in one sentence why there is none."""
    from sync_r1.services.telemetry.scrape import scrape

    try:
        return scrape(address)
    except (OSError, ValueError) as error:
        return f"no metrics: {getattr(error, 'reason', error)}; was it started with --metrics-port?"


def _table(before: dict[str, Scrape | str], after: dict[str, Scrape | str]) -> Table:
    from rich.table import Table

    from sync_r1.services.telemetry.scrape import row

    table = Table(
        "service", "state", "items/s", "calls/s", "in flight", "refused/s", "p50 ms", "p99 ms", "on Triton", "failed",
        "median score",
    )  # fmt: skip
    for address, now in after.items():
        then = before[address]
        if isinstance(now, str):
            table.add_row(address, f"[red]{now}[/red]")
            continue
        if isinstance(then, str):
            table.add_row(address, "[yellow]just came up[/yellow]")
            continue
        seen = row(then, now)
        table.add_row(
            f"{seen.reward}\n{address}",
            "[green]ready[/green]" if seen.ready else "[red]not ready[/red]",
            f"{seen.items_per_s:.1f}",
            f"{seen.requests_per_s:.1f}",
            f"{seen.inflight_items:.0f} of {seen.inflight_limit:.0f}",
            f"{seen.refused_per_s:.1f}",
            _number(seen.p50_s * 1000, ".1f"),
            _number(seen.p99_s * 1000, ".1f"),
            _number(seen.inference_share, ".0%"),
            _number(seen.failed_share, ".1%"),
            _number(seen.median_score, ".3f"),
        )
    return table


def _number(value: float, form: str) -> str:
    return "–" if math.isnan(value) else format(value, form)

"""The `sync-r1` command. Thin: what a command does lives in `services` or `trainer_client`, imported when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sync_r1.cli import (
    capacity,
    compare,
    export,
    graph_commands,
    learn_concept,
    reward_commands,
    score,
    serve_commands,
    top,
    train_commands,
)
from sync_r1.cli.screen import console as _console
from sync_r1.cli.screen import errors_shown as _errors_shown

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from sync_r1.services.config import ServiceConfig
    from sync_r1.services.local.up import Up

app = typer.Typer(
    name="sync-r1",
    help="Reward models as gRPC services behind Triton, and the trainer that learns from them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

ProfileOption = serve_commands.ProfileOption
AlsoOption = serve_commands.AlsoOption
RoutesOption = serve_commands.RoutesOption
JudgesOption = serve_commands.JudgesOption
ThreadsOption = Annotated[int | None, typer.Option("--threads", min=1, help="ONNX Runtime's threads per graph.")]

for command in (
    serve_commands.serve, serve_commands.token, export.export, graph_commands.repository, graph_commands.bundle,
    graph_commands.overlay, reward_commands.rewards, reward_commands.new_reward,
    train_commands.train, train_commands.evaluate, train_commands.densify, train_commands.report,
    learn_concept.learn_concept, score.score, score.view, compare.compare, top.top,
):  # fmt: skip
    app.command()(command)
app.add_typer(capacity.app, name="capacity")


@app.command()
def up(
    profile: ProfileOption = "pocket",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65500, help="First of the services' ports; 0 takes free ones.")
    ] = 0,
    endpoints_file: Annotated[
        Path | None, typer.Option("--endpoints-file", help="Written once all are healthy: reward -> HOST:PORT, JSON.")
    ] = None,
    metrics_port: Annotated[
        int, typer.Option("--metrics-port", min=0, max=65500, help="First of the services' metrics ports; 0 = none.")
    ] = 0,
    also: AlsoOption = None,
    routes: RoutesOption = None,
    judges: JudgesOption = None,
    threads: ThreadsOption = None,
) -> None:
    """Start Triton and the reward services on this machine; Ctrl-C (or SIGTERM) drains them."""
    import json
    import signal
    import threading

    from sync_r1.services.config import ServiceConfig

    started, stop = threading.Event(), threading.Event()

    def end(*_: object) -> None:
        stop.set()
        if not started.is_set():
            raise KeyboardInterrupt  # leaves the start-up at once; whatever runs already is ended on the way out

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    service = ServiceConfig(port=port, metrics_port=metrics_port or None, routes=routes)
    with (
        _errors_shown(endpoints_file, profile, routes, judges, *(also or ())),
        _started(profile, threads=threads, also=also or (), service=service, judges=judges) as running,
    ):
        started.set()
        _show_endpoints(running)
        if endpoints_file is not None:
            draft = endpoints_file.with_suffix(endpoints_file.suffix + ".draft")
            draft.write_text(json.dumps(running.endpoints, indent=2) + "\n")
            draft.replace(endpoints_file)
        while not stop.wait(1.0):
            running.check()
        _console().print("draining …")


@app.command()
def describe(
    endpoint: Annotated[str, typer.Argument(help="HOST:PORT of a reward service.")],
    card: Annotated[str, typer.Option("--card", help="Show the whole card of this variant instead.")] = "",
) -> None:
    """Show what a service measures, what it needs and what it allows."""
    from dataclasses import asdict

    from rich.table import Table

    from sync_r1.trainer_client import SyncRewardClient, settings_from_environment

    with _errors_shown(), SyncRewardClient(endpoint, settings_from_environment()) as client:
        description = client.describe(timeout_s=10.0)
    console = _console()
    if card:
        if card not in description.variants:
            raise typer.BadParameter(f"{endpoint} has no variant {card!r}; it has {', '.join(description.variants)}")
        console.print_json(data=description.variants[card].card)
        return
    judges = f"judges {description.judges}s" if description.judges else "does not say what it judges"
    console.print(
        f"[bold]{description.reward}[/bold] at {endpoint} {judges}, default variant {description.default_variant}"
    )
    table = Table("variant", "measures", "needs", "raw range", "release", title="Variants")
    for name, variant in description.variants.items():
        release = description.default_releases.get(name, "")
        needs = ", ".join(sorted(variant.required_fields))
        table.add_row(name, variant.summary, needs, f"{variant.raw_min:g} … {variant.raw_max:g}", release[:12])
    console.print(table)
    limits = Table("limit", "value", title="Limits of one request")
    for name, value in asdict(description.limits).items():
        limits.add_row(name, f"{value:,}")
    console.print(limits)


def _started(
    profile: str,
    *,
    threads: int | None = None,
    rewards: list[str] | None = None,
    also: Sequence[str] = (),
    service: ServiceConfig | None = None,
    judges: Path | None = None,
) -> AbstractContextManager[Up]:
    from sync_r1.services.local import up as services

    console = _console()
    return services.start(
        profile, also=also, rewards=rewards, service=service, judges=judges,
        triton=services.TritonOptions(threads=threads), on_step=lambda step: console.print(f"starting {step} …"),
    )  # fmt: skip


def _show_endpoints(running: Up) -> None:
    from rich.table import Table

    table = Table("reward", "endpoint", "metrics", "process")
    for name, where in running.endpoints.items():
        table.add_row(name, where, running.metrics.get(name, "–"), str(running.pids[name]))
    if running.triton_url:
        table.add_row("Triton", running.triton_url, "–", str(running.triton_pid))
    _console().print(table)


if __name__ == "__main__":
    app()

"""`sync-r1 capacity`: how fast the reward services are, and how many of them a trainer needs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sync_r1.cli.screen import console, errors_shown
from sync_r1.reward_models.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sync_r1.trainer_client import RewardClient
    from sync_r1.trainer_client.planning.replicas import Demand, Need
    from sync_r1.trainer_client.sdk.speed import Speed

app = typer.Typer(help="Measure reward services, and plan replicas and GPUs for a trainer.", no_args_is_help=True)


@app.command()
def measure(
    endpoints: Annotated[
        list[str] | None, typer.Option("--endpoint", help="HOST:PORT of one replica; for several rewards, again.")
    ] = None,
    profile: Annotated[
        str, typer.Option("--up", help="Without --endpoint: start this profile's services here.")
    ] = "pocket",
    items: Annotated[list[int] | None, typer.Option("--items", min=1, help="Items in a request.")] = None,
    seconds: Annotated[float, typer.Option("--seconds", min=0.1, help="Of each of two measurements a size.")] = 5.0,
    side: Annotated[int, typer.Option("--side", min=8, help="Pixels of the pictures' sides.")] = 512,
    parallel: Annotated[int, typer.Option("--parallel", min=1, help="Calls at once that fill the service.")] = 4,
    cores: Annotated[
        float | None, typer.Option("--cores", help="Cores of a replica; those of this machine without.")
    ] = None,
    gpus: Annotated[float, typer.Option("--gpus", min=0, help="GPUs of a replica, or its share of one.")] = 0.0,
    out: Annotated[Path, typer.Option("--out", help="File to write.")] = Path("capacity.json"),
) -> None:
    """Measure items a second of running services, or of a profile on this machine."""
    import os
    from functools import partial

    from sync_r1.trainer_client.sdk.speed import SPEEDS, Load
    from sync_r1.trainer_client.sdk.speed import measure as measure_service

    sizes = items or [8, 32, 64]
    local_cores = float(len(os.sched_getaffinity(0)))
    measure_endpoint = partial(
        measure_service, sizes=sizes, load=Load(seconds, side, parallel), cores=cores or local_cores, gpus=gpus
    )
    load = os.getloadavg()[0]
    if load > local_cores / 2:
        console().print(
            f"[yellow]warning:[/] this machine has a load of {load:.1f} on {local_cores:g} cores already; what is "
            "measured on it now is too low"
        )
    with errors_shown(out):
        speeds: list[Speed] = []
        if endpoints:
            for endpoint in endpoints:
                speeds += _measured(endpoint, measure_endpoint, max(sizes))
        else:
            from sync_r1.services.local import up

            triton = up.TritonOptions(threads=int(local_cores))
            for reward in _rewards(profile):  # one at a time: each has all cores
                with up.start(profile, rewards=[reward], triton=triton) as running:
                    speeds += _measured(running.endpoints[reward], measure_endpoint, max(sizes))
        out.write_bytes(SPEEDS.dump_json(speeds, indent=2) + b"\n")
    _show_speeds(speeds)
    console().print(f"written: {out}")


@app.command()
def plan(
    speeds: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="What `capacity measure` wrote.")],
    images: Annotated[int, typer.Option("--images", min=1, help="Scored in a step, over all processes.")],
    stall_s: Annotated[float, typer.Option("--stall", help="Seconds the trainer may wait for its last scores.")],
    overlap_s: Annotated[
        float, typer.Option("--overlap", min=0, help="Seconds of the step in which items arrive before the last ones.")
    ] = 0.0,
    burst: Annotated[
        int | None, typer.Option("--burst", min=1, help="Items that arrive together at the end; all without overlap.")
    ] = None,
    headroom: Annotated[float, typer.Option("--headroom", min=0, help="Growth to be ready for, a share.")] = 0.25,
    spare: Annotated[int, typer.Option("--spare", min=0, help="Replicas that may be missing.")] = 1,
) -> None:
    """Replicas, GPUs and limits of each reward for a trainer's step, with every assumption."""
    from pydantic import ValidationError

    from sync_r1.trainer_client.planning.replicas import Demand
    from sync_r1.trainer_client.planning.replicas import plan as plan_rewards
    from sync_r1.trainer_client.sdk.speed import SPEEDS

    with errors_shown(speeds):
        try:
            measured = SPEEDS.validate_json(speeds.read_bytes())
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the file"
            said = f"{where}: {first['msg']}"
            raise UserError(f"{speeds} was not written by `sync-r1 capacity measure`: {said}") from None
        if not measured:
            raise UserError(f"{speeds} holds no measurement")
        together = burst or (images if overlap_s == 0 else max(1, images // 8))
        demand = Demand(images, overlap_s, stall_s, together, headroom, spare)
        needs = plan_rewards(demand, measured)
    _show_needs(demand, needs)


def _rewards(profile: str) -> list[str]:
    from sync_r1.reward_models.profiles import load_profile

    return list(load_profile(profile).rewards)


def _measured(
    endpoint: str, measure_endpoint: Callable[[RewardClient], Awaitable[list[Speed]]], largest: int
) -> list[Speed]:
    """By a client that does not cut requests of `largest` items."""
    import asyncio
    from dataclasses import replace

    from sync_r1.trainer_client import RewardClient, settings_from_environment

    settings = settings_from_environment()
    settings = replace(settings, limits=replace(settings.limits, max_items_per_request=largest))

    async def run() -> list[Speed]:
        async with RewardClient(endpoint, settings) as client:
            return await measure_endpoint(client)

    return asyncio.run(run())


def _show_speeds(speeds: list[Speed]) -> None:
    from rich.table import Table

    table = Table(title="Measured", title_justify="left", padding=(0, 0))
    for name in ("reward", "variant", "items", "call, ms", "c_s²", "items/s", "client's cores"):
        table.add_column(name, no_wrap=True)
    for one in speeds:
        table.add_row(
            one.reward, one.variant, str(one.items), f"{one.call_s * 1e3:.1f}", f"{one.call_variation:.3f}",
            f"{one.items_per_s:.0f}", f"{one.client_cores:.2f} of {one.cores:g}" if not one.gpus else "",
        )  # fmt: skip
    console().print(table)


def _show_needs(demand: Demand, needs: list[Need]) -> None:
    import math

    from rich.table import Table

    screen = console()
    on_gpus = any(one.gpus for one in needs)
    table = Table(title="Needed", title_justify="left", padding=(0, 0))
    device = "GPUs" if on_gpus else "cores"
    for name in ("reward", "items/s", "use", "replicas", "of which", device, "limit", "last, s"):
        table.add_column(name, no_wrap=True)
    for one in needs:
        table.add_row(
            one.speed.reward, f"{one.replica_rate:.0f} by {one.speed.items}",
            "" if math.isnan(one.utilisation) else f"{one.utilisation:.2f}", f"[bold]{one.replicas}[/]",
            f"{one.for_queue}|{one.for_burst}|{demand.spare}", f"{one.gpus if on_gpus else one.cores:g}",
            str(one.limit), f"{one.burst_done_s:.1f}",
        )  # fmt: skip
    screen.print(table)
    peak = (demand.burst if not demand.overlap_s else demand.images / demand.overlap_s) * (1 + demand.headroom)
    per_picture = max(one.speed.side for one in needs) ** 2 * 3
    within = f"within {demand.stall_s:g} s" if not demand.overlap_s else "a second"
    for line in (
        "items/s: of one replica, by requests of so many; use: the utilisation that the wait allows; of which: for the "
        "queue | for the last items (the larger counts) | to spare; limit: "
        "--limit max_inflight_items=…; last: how long the last items take",
        f"a step: {demand.images:,} items, {demand.burst:,} of them together at the end, the others over "
        f"{demand.overlap_s:g} s; the last scores within {demand.stall_s:g} s",
        f"headroom {demand.headroom:.0%}; {demand.spare} replica(s) may be missing; calls arrive at random (c_a² = "
        f"{demand.arrival_variation:g}); 99 of 100 calls wait no longer than the stall allows (Kingman 1961)",
        f"each reward gets {peak:,.0f} items {within}: {peak * per_picture / 1e6:,.0f} MB of raw pictures",
        "a replica is as large as what was measured; the limit makes it half full at this load, where the "
        "autoscaler holds it",
    ):
        screen.print(f"  [dim]{line}[/]", highlight=False)

"""Two Tritons with other weights behind one address are exchanged under load

The graph was exported again and kept its name and version, as `sync-r1 export` does. One front, whose looks at Triton
are 10 s apart, further than many exchanges; callers without any retry. What a caller may see is the score of the
weights that the release names, or UNAVAILABLE.
"""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.reliability import coded
from benchmarks.reliability.fleet import START_S, Cable, Replica, until
from benchmarks.reliability.record import Result
from benchmarks.reliability.stub_load import CALLERS, ITEMS, StubLoad
from sync_r1.reward_models.backends.repository import write_repository
from sync_r1.services.config import ServiceConfig
from sync_r1.services.local.embedded import EmbeddedTriton

MORE = 100
_GIVE_UP_S, _ENOUGH = 120.0, 20


async def attack(replica: Replica, cable: Cable, tritons: tuple[str, str], exchanges: int) -> StubLoad:
    """Exchange what is behind the cable, there and back, under load; returns what was seen."""
    async with StubLoad(replica.target) as load:
        for _ in range(exchanges):
            for triton, code in zip(tritons, ("OK", "UNAVAILABLE")):
                cable.lead_to(triton)
                await until(partial(load.more_than, code, load.statuses[code] + _ENOUGH), _GIVE_UP_S)
    return load


async def drill(folder: Path, tritons: tuple[str, str], exchanges: int) -> StubLoad:
    """A front for the first Triton's weights, behind a cable that leads to either."""
    async with Cable(tritons[0]) as cable:
        service = ServiceConfig(metrics_port=0, health_interval_s=10.0)
        replica = Replica(folder, "replica", cable.target, service, graph=str(folder / "0.onnx"), shared_memory=False)
        try:
            await replica.restart()
            return await attack(replica, cable, tritons, exchanges)
        finally:
            await asyncio.to_thread(replica.stop)


def run(short: bool) -> Result:
    """See the module."""
    exchanges = 3 if short else 30
    with TemporaryDirectory(prefix="sync-r1-drill-") as name:
        folder = Path(name)
        for number in range(2):
            coded.write_graph(folder / f"{number}.onnx", number * MORE)
            profile = coded.profile_of(folder / f"{number}.onnx")
            write_repository(profile, folder / f"models-{number}", backend="python")
        with (
            EmbeddedTriton(folder / "models-0", ready_timeout_s=START_S) as named,
            EmbeddedTriton(folder / "models-1", ready_timeout_s=START_S) as other,
        ):
            seen = asyncio.run(drill(folder, (named.url, other.url), exchanges))
    result = Result()
    result.add(
        "no score is of other weights than the release named",
        f"{seen.wrong} wrong of {seen.statuses['OK'] * ITEMS}, over {exchanges} exchanges there and back",
        "0 wrong", seen.wrong == 0 and seen.statuses["OK"] > 0,
    )  # fmt: skip
    result.add(
        "every call that met them says UNAVAILABLE",
        ", ".join(f"{code} {count}" for code, count in sorted(seen.statuses.items())),
        "OK and UNAVAILABLE only", set(seen.statuses) == {"OK", "UNAVAILABLE"},
    )  # fmt: skip
    result.notes.append(f"{CALLERS} callers of {ITEMS} items; the other weights add {MORE} to every score.")
    return result

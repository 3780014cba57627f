"""Data sets to be scored, and services that score a picture by its mean byte: a score says which row it is of."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scripted_service import ScriptedService

from sync_r1.trainer_client import ClientSettings, RewardClient, RewardUse
from sync_r1.trainer_client.sdk.settings import DEFAULT_SETTINGS
from sync_r1.trainer_client.tables.files import InputOptions, TableFiles
from sync_r1.trainer_client.tables.output import read_table
from sync_r1.trainer_client.tables.run import RunOptions
from sync_r1.trainer_client.tables.summary import Summary

WHOLE = InputOptions()


@asynccontextmanager
async def serving(*rewards: str, **options: Any) -> AsyncIterator[list[ScriptedService]]:
    """A service for each reward."""
    services = [ScriptedService(reward=reward, **options) for reward in rewards or ("aesthetic",)]
    try:
        for service in services:
            await service.start()
        yield services
    finally:
        for service in services:
            await service.stop()


async def score(
    services: list[ScriptedService],
    source: Path,
    target: Path,
    how: InputOptions = WHOLE,
    settings: ClientSettings = DEFAULT_SETTINGS,
    **options: Any,
) -> Summary:
    """As the command does."""
    clients = {service.reward: RewardClient(service.target, settings) for service in services}
    try:
        with TableFiles(source, target, list(clients), how) as files:
            uses = {name: (client, RewardUse(0.0)) for name, client in clients.items()}
            return await files.score(uses, RunOptions(**options))
    finally:
        for client in clients.values():
            await client.close()


def picture(path: Path, seed: int) -> bytes:
    """Makes a small picture; returns its bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path.read_bytes()


def value_of(data: bytes) -> float:
    return float(np.frombuffer(data, np.uint8).mean())


def pictures(folder: Path, count: int) -> dict[str, bytes]:
    """Pictures in a folder and its sub-folders, by path, in order."""
    names = sorted(f"{number % 3}/{number:03}.png" if number % 3 else f"{number:03}.png" for number in range(count))
    found = {name: picture(folder / name, number) for number, name in enumerate(names)}
    return dict(sorted(found.items(), key=lambda item: ("/" in item[0], item[0])))


def rows(target: Path) -> list[dict[str, Any]]:
    return list(read_table(target))


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "sync_r1.cli.main", *map(str, arguments)]


async def ended(arguments: list[str], **options: Any) -> tuple[int, str]:
    """(exit code, output) of a process; the services of this one answer meanwhile."""
    environment = dict(os.environ, COLUMNS="250", NO_COLOR="1")
    process = await asyncio.create_subprocess_exec(
        *arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, **options
    )
    try:
        said, _ = await asyncio.wait_for(process.communicate(), 280)
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode is not None
    return process.returncode, said.decode()

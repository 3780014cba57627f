"""Whole data sets scored: one row out for each row in, in order, whatever the input is and whatever interrupts the run.

The service scores a picture by its mean byte, over real gRPC, so a test can tell which row a score belongs to.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from scripted_service import Context, ScriptedService

from sync_r1.protos.rewards.v1 import rewards_pb2 as pb
from sync_r1.trainer_client import RewardClient, RewardUse
from sync_r1.trainer_client.sdk.sample_file import ScoreFileError
from sync_r1.trainer_client.tables.files import InputOptions, TableFiles
from sync_r1.trainer_client.tables.output import read_table
from sync_r1.trainer_client.tables.run import RunOptions
from sync_r1.trainer_client.tables.summary import Summary


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
    services: list[ScriptedService], source: Path, target: Path, how: InputOptions = InputOptions(), **options: Any
) -> Summary:
    """As the command does."""
    clients = {service.reward: RewardClient(service.target) for service in services}
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


# The table


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl"])
async def test_a_folder_gives_one_row_a_picture_in_order_with_the_scores_of_several_rewards(
    ending: str, tmp_path: Path
) -> None:
    folder, target = tmp_path / "in", tmp_path / f"out.{ending}"
    data = pictures(folder, 20)
    (folder / "000.txt").write_text("a red dog, \"quoted\"\nand a line\n")
    (folder / "000.xyz").write_text("no picture")
    (folder / ".hidden.png").write_bytes(b"")
    async with serving("aesthetic", "text-faithfulness") as services:
        summary = await score(services, folder, target)
    found = rows(target)
    assert [row["path"] for row in found] == list(data)
    assert [row["row"] for row in found] == list(range(1, 21))
    for row, content in zip(found, data.values()):
        for reward in ("aesthetic", "text-faithfulness"):
            assert row[f"{reward}.raw"] == value_of(content)
            assert row[f"{reward}.score"] == pytest.approx(value_of(content) / 255)
            assert (row[f"{reward}.outcome"], row[f"{reward}.release"]) == ("scored", "a" * 64)
            components = row[f"{reward}.components"]
            assert (json.loads(components) if isinstance(components, str) else components) == {"bytes": len(content)}
    assert found[0]["prompt"] == 'a red dog, "quoted"\nand a line'
    assert found[1]["prompt"] is None
    assert (summary.rows, summary.failed_rows, summary.uses["aesthetic"].scored) == (20, 0, 20)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", f"out.{ending}", f"out.{ending}.journal"]

"""Decompression bombs are refused from their headers: no pixel of what they claim is ever made."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import bombs
import pytest
import toys
from fronts import Stub, serving
from PIL import Image

from sync_r1.protos.rewards.v1 import rewards_pb2
from sync_r1.services.local.embedded import EmbeddedTriton


@pytest.fixture(scope="module")
def files() -> dict[str, tuple[bytes, str]]:
    return bombs.bombs()


def test_a_bomb_is_refused_by_name_within_50_mb(files: dict[str, tuple[bytes, str]], tmp_path: Path) -> None:
    for name, (data, _) in files.items():
        (tmp_path / name).write_bytes(data)
    # What a picture at the limit takes, so that a measure that sees nothing would be noticed.
    Image.new("RGB", (4000, 4000)).save(tmp_path / "honest.png")
    command = [sys.executable, bombs.__file__, str(tmp_path)]
    lines = subprocess.run(command, check=True, capture_output=True, text=True, timeout=240).stdout.splitlines()
    found = {figures["name"]: figures for figures in map(json.loads, lines)}
    assert found.pop("honest.png")["peak_mb"] > 50
    assert found.keys() == files.keys()
    for name, figures in found.items():
        print(f"{name}: {figures['milliseconds']} ms, {figures['peak_mb']} MB")
        assert files[name][1] in figures["said"]
        assert figures["peak_mb"] < 50, name


async def test_a_request_full_of_bombs_fails_item_by_item_and_its_neighbour_is_scored(
    toy_triton: EmbeddedTriton, files: dict[str, tuple[bytes, str]]
) -> None:
    async with serving(toy_triton.url) as (_, channel):
        request = toys.request(*[7] * (len(files) + 1))
        for sample, (data, _) in zip(request.samples, files.values()):
            sample.image.encoded = data
        response = await Stub(channel).Score(request, timeout=60)
    *refused, good = response.outcomes
    assert good.score.value == 7
    for outcome, (name, (_, said)) in zip(refused, files.items()):
        assert outcome.failure.code == rewards_pb2.FAILURE_CODE_BAD_IMAGE, name
        assert said in outcome.failure.message

"""The `sync-r1` command: quick to answer, clear when something is wrong, resumable where work is long."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from sync_r1.cli.main import app
from sync_r1.reward_models.profiles import load_profile

if TYPE_CHECKING:
    from sync_r1.services.local.up import Up
    from sync_r1.services.serve import ServeConfig

SYNC_R1 = [sys.executable, "-m", "sync_r1.cli.main"]


def run(*arguments: object, expect: int = 0) -> str:
    """Output of the command, on wide lines."""
    done = CliRunner().invoke(app, [*map(str, arguments)], env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert done.exit_code == expect, done.output
    return done.output


def run_alone(*arguments: object, expect: int = 0) -> str:
    """As `run`, in a process of its own: what is made there, or shown to somebody at a terminal."""
    environment = dict(os.environ, COLUMNS="200", NO_COLOR="1")
    done = subprocess.run(
        [*SYNC_R1, *map(str, arguments)], capture_output=True, text=True, timeout=120, env=environment, check=False
    )
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_help_imports_none_of_the_heavy_parts() -> None:
    script = (
        "import sys; from typer.testing import CliRunner; from sync_r1.cli.main import app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        "heavy = {'torch', 'transformers', 'onnxruntime', 'grpc', 'tritonclient', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


@pytest.mark.parametrize("command", [("describe", "127.0.0.1:9"), ("score", "aesthetic", "--endpoint", "127.0.0.1:9")])
def test_a_wrong_port_is_a_question_not_a_traceback(command: tuple[str, ...], tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('{"image": "a.png"}\n')
    files = ("--input", source, "--output", tmp_path / "out.jsonl") if command[0] == "score" else ()
    said = run_alone(*command, *files, expect=1)
    assert "nothing answers at 127.0.0.1:9; is `sync-r1 up` running?" in said
    assert "Traceback" not in said


def test_an_address_that_others_reach_is_refused_unless_asked_for() -> None:
    said = run("serve", "aesthetic", "--triton", "127.0.0.1:9", "--host", "0.0.0.0", expect=1)
    assert "--insecure" in said


@pytest.mark.parametrize(
    ("options", "inflight", "items", "megabytes"),
    [
        ((), 1024, 256, 512),
        (("--limit", "max_inflight_items=100", "--max-inflight-bytes", "1073741824"), 100, 100, 1024),
    ],
)
def test_a_pod_is_told_how_much_it_may_hold(
    options: tuple[str, ...], inflight: int, items: int, megabytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[ServeConfig] = []

    async def started(config: ServeConfig, on_listening: object) -> None:
        told.append(config)

    monkeypatch.setattr("sync_r1.services.serve.serve", started)
    assert CliRunner().invoke(app, ["serve", "aesthetic", "--triton", "127.0.0.1:9", *options]).exit_code == 0
    limits = told[0].service.limits
    assert (limits.max_inflight_items, limits.max_items) == (inflight, items)
    assert told[0].service.max_inflight_bytes == megabytes * 1024 * 1024


def test_an_unknown_reward_is_told_the_known_ones() -> None:
    assert "concept-consistency" in run("serve", "beauty", "--triton", "127.0.0.1:9", expect=1)


def test_describe_shows_the_whole_card_of_a_variant(services: Up) -> None:
    said = run("describe", services.endpoints["concept-consistency"], "--card", "dino")
    card = json.loads(said)
    assert card["variant"] == "dino"
    assert all(card[part] for part in ("licence", "failure_modes", "validity"))
    assert "it has clip_i" in run("describe", services.endpoints["concept-consistency"], "--card", "x", expect=2)


def test_describe_shows_variants_and_limits(services: Up) -> None:
    said = run("describe", services.endpoints["concept-consistency"])
    assert "concept-consistency" in said
    assert "dino" in said
    assert "max_items" in said


def test_repository_is_written_for_both_backends(tmp_path: Path) -> None:
    for backend in ("python", "onnxruntime"):
        run_alone("repository", "--out", tmp_path / backend, "--backend", backend)
        config = (tmp_path / backend / "pocket_clip_image" / "config.pbtxt").read_text()
        assert f'backend: "{backend}"' in config
    version = str(load_profile("pocket").graphs["pocket_clip_image"].pin.triton_version)
    assert (tmp_path / "python" / "pocket_clip_image" / version / "model.py").exists()
    assert not (tmp_path / "onnxruntime" / "pocket_clip_image" / version / "model.py").exists()


def _write_rows(folder: Path, count: int) -> Path:
    rng = np.random.default_rng(0)
    rows = []
    for index in range(count):
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(folder / f"{index}.png")
        rows.append({"id": f"row-{index}", "image": f"{index}.png"})
    rows.append({"id": "gone", "image": "nowhere.png"})
    source = folder / "in.jsonl"
    source.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return source


def test_score_resumes_where_an_earlier_run_was_killed(services: Up, tmp_path: Path) -> None:
    source, target = _write_rows(tmp_path, 5), tmp_path / "out.jsonl"
    command = ("score", "aesthetic", "--input", source, "--output", target)
    endpoint = ("--endpoint", services.endpoints["aesthetic"])
    run(*command, *endpoint, expect=3)
    whole = target.read_text().splitlines()
    rows = {row["id"]: row for row in map(json.loads, whole)}
    assert all(rows[f"row-{index}"]["score"]["value"] for index in range(5))
    assert rows["gone"]["failure"]["field"] == "image"
    # A killed run leaves whole lines and perhaps a part of one.
    target.write_text("\n".join(whole[:2]) + "\n" + whole[2][:20])
    assert "5 scored" in (said := run(*command, *endpoint, expect=3))
    assert "1 failed, 0 not applicable, 2 done before" in said
    assert target.read_text().splitlines() == whole


def test_score_refuses_the_wrong_service_and_the_wrong_file(services: Up, tmp_path: Path) -> None:
    source, target = _write_rows(tmp_path, 1), tmp_path / "out.jsonl"
    files = ("--input", source, "--output", target)
    said = run("score", "aesthetic", *files, "--endpoint", services.endpoints["text-faithfulness"], expect=1)
    assert "serves text-faithfulness, not aesthetic" in said
    source.write_text('{"imagee": "0.png"}\n{"imagee": "0.png"}\n')
    said = run("score", "aesthetic", *files, "--endpoint", services.endpoints["aesthetic"], expect=1)
    assert "line 1" in said
    assert "imagee" in said
    assert not target.exists()


def test_real_photos_are_closest_to_their_own_concept(services: Up, shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "photos" / "concept"
    concepts = sorted(path.name for path in (folder / "train").iterdir() if path.is_dir())
    references = {name: sorted(map(str, (folder / "train" / name).glob("*.png")))[:4] for name in concepts}
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    with source.open("w") as file:
        for shown in concepts:
            for asked in concepts:
                row = {
                    "id": f"{shown} {asked}",
                    "image": str(folder / "test" / shown / "0.png"),
                    "concept": {"references": references[asked]},
                }
                file.write(json.dumps(row) + "\n")
    where = services.endpoints["concept-consistency"]
    run("score", "concept-consistency", "--input", source, "--output", target, "--endpoint", where, "--variant", "dino")
    scores = {row["id"]: row["score"]["value"] for row in map(json.loads, target.read_text().splitlines())}
    best = {shown: max(concepts, key=lambda asked: scores[f"{shown} {asked}"]) for shown in concepts}
    assert best == {name: name for name in concepts}


def test_up_announces_its_services_and_a_sigterm_ends_everything(tmp_path: Path) -> None:
    endpoints_file = tmp_path / "endpoints.json"
    process = subprocess.Popen([*SYNC_R1, "up", "--endpoints-file", str(endpoints_file)], stdout=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 120
        while not endpoints_file.exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        endpoints = json.loads(endpoints_file.read_text())
        assert len(endpoints) == 4
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert len(children) == 5  # Triton and one process per reward
        run_alone("describe", endpoints["aesthetic"])
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.communicate()
    assert not [child for child in children if Path(f"/proc/{child}").exists()]


def test_a_repository_of_one_reward_comes_from_a_bundle_that_only_its_digest_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = run_alone("bundle", "--out", tmp_path / "bundle").strip()
    monkeypatch.setenv("SYNC_R1_GRAPHS", str(tmp_path / "store"))
    monkeypatch.setenv("SYNC_R1_BUNDLE", str(tmp_path / "bundle"))
    monkeypatch.setenv("SYNC_R1_BUNDLE_DIGEST", digest)
    run_alone("repository", "--out", tmp_path / "models", "--reward", "understanding-correctness")
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["minilm"]
    assert (tmp_path / "store" / "minilm.tokenizer.json").is_file()
    said = run_alone("repository", "--out", tmp_path / "models", "--digest", "unset", expect=1)
    assert "`sync-r1 bundle --out DIR` prints it" in " ".join(said.split())

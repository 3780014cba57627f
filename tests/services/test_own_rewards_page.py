"""The page of own rewards, followed word by word outside the checkout: one file and one YAML are all it takes."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from own_rewards_page import page_commands, page_file
from PIL import Image
from typer.testing import CliRunner
from wheels import build_wheel, tracked_files

from sync_r1.cli.main import app

FUNCTION, PACKAGE = "A function", "A package"
SMALL_RUN = [
    "steps=1", "threads=1", "budget_s=250", "schedule=[]",
    "sampling={prompts: 2, group_size: 3, pictures_per_answer: 2, pictured_answers: 1}",
    "evaluation={pictures_per_condition: 1, true_sentence_pictures: 1}",
]  # fmt: skip
"""What makes the page's run one of seconds; its rewards are the page's."""


def run(*words: str) -> str:
    """Output of a command of the page."""
    assert words[0] == "sync-r1"
    done = CliRunner().invoke(app, list(words[1:]), env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A team's own, with the files of the page."""
    for name in ("brightness.py", "my.yaml"):
        page_file(tmp_path, name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_page_s_function_and_profile_are_forty_lines_at_most(folder: Path) -> None:
    assert sum(len((folder / name).read_text().splitlines()) for name in ("brightness.py", "my.yaml")) <= 40


def test_the_page_s_own_reward_is_listed_beside_the_four(folder: Path) -> None:
    listing = page_commands(FUNCTION)[0]
    lines = run(*listing).splitlines()
    rows = [line.split("│") for line in lines if line.startswith("│")]
    assert [cell.strip() for cell in rows[-1][1:-1]] == ["mean *", "python", "image", "", "1 raw", "function"]
    titles = {line.split(" judges ")[0] for line in lines if " judges " in line}
    assert titles > {"aesthetic", "text-faithfulness", "brightness"}


def test_the_page_s_training_run_takes_the_own_reward(folder: Path) -> None:
    (training,) = [words for words in page_commands(FUNCTION) if words[1] == "train"]
    (folder / "endpoints.json").write_text(json.dumps(dict.fromkeys(five_rewards(), "127.0.0.1:9")))
    run(*training, "--check")
    mistyped = [word.replace("rewards.brightness", "rewards.brigthness") for word in training]
    done = CliRunner().invoke(app, [*mistyped[1:], "--check"])
    assert done.exit_code == 1
    assert "'brightness'" in done.output


def test_the_page_s_plugin_is_made_and_taken_by_its_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    making, installing, _, listing, _ = page_commands(PACKAGE)
    run(*making)
    monkeypatch.syspath_prepend(str(installed(installing, folder)))
    assert "sharpness" in run(*listing)
    page_file(folder, "my-plugin.yaml")
    assert "sharpness" in run("sync-r1", "rewards", "--profile", "my-plugin.yaml")


def five_rewards() -> list[str]:
    return ["concept-consistency", "text-faithfulness", "understanding-correctness", "aesthetic", "brightness"]


def installed(words: list[str], folder: Path) -> Path:
    """What `pip install` of the page puts into an environment, in a folder beside it."""
    assert words[:2] == ["pip", "install"]
    site, uv = folder / "site", Path(sys.executable).with_name("uv")
    command = [uv, *words[:2], "--quiet", "--offline", "--no-deps", "--no-build-isolation", "--python", sys.executable]
    subprocess.run([*command, "--target", site, *words[2:]], cwd=folder, check=True, timeout=200)
    return site


@dataclass(frozen=True)
class Outside:
    """A folder without the checkout, where the project is installed as its wheel."""

    folder: Path
    environment: dict[str, str]

    def run(self, words: list[str], timeout: float = 280) -> str:
        command = [sys.executable, "-m", *(["sync_r1.cli.main"] if words[0] == "sync-r1" else words[:1]), *words[1:]]
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=timeout, check=False
        )
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    def start(self, words: list[str]) -> subprocess.Popen[bytes]:
        """A command that runs until it is ended; its output goes to `up.log`."""
        with (self.folder / "up.log").open("wb") as log:
            command = [sys.executable, "-m", "sync_r1.cli.main", *words[1:]]
            return subprocess.Popen(command, cwd=self.folder, env=self.environment, stdout=log, stderr=log)


@pytest.fixture
def outside(tmp_path_factory: pytest.TempPathFactory) -> Outside:
    target, folder = tmp_path_factory.mktemp("installed"), tmp_path_factory.mktemp("team")
    wheel = build_wheel(tracked_files(), tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel"))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    path = os.pathsep.join([str(target), str(folder / "site")])
    environment = dict(os.environ, PYTHONPATH=path, COLUMNS="200", NO_COLOR="1", OMP_NUM_THREADS="1")
    where = "import sync_r1.cli.main as main; print(main.__file__)"
    found = subprocess.run([sys.executable, "-c", where], cwd=folder, env=environment, capture_output=True, text=True)
    assert found.stdout.startswith(str(target)), found.stdout + found.stderr
    return Outside(folder, environment)


def wait_for(file: Path, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(2800):
        if file.exists():
            return
        assert process.poll() is None, log.read_text()
        time.sleep(0.1)
    raise AssertionError(log.read_text())


def on_free_ports(words: list[str]) -> list[str]:
    """9001 to 9005 of the page, wherever five ports are free here."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        first = probe.getsockname()[1] - 6
    return [re.sub(r"\b900([1-5])\b", lambda port: str(first + int(port[1])), word) for word in words]


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_every_command_of_the_page_outside_the_checkout_from_the_wheel(outside: Outside) -> None:
    folder = outside.folder
    for name in ("brightness.py", "my.yaml", "my-plugin.yaml"):
        page_file(folder, name)
    Image.fromarray(np.full((30, 30, 3), 51, np.uint8)).save(folder / "a.png")
    (folder / "items.jsonl").write_text('{"id": "a", "image": "a.png"}\n')
    words = on_free_ports(["\0".join(command) for command in page_commands(FUNCTION)])
    listing, up, describing, scoring, training = (command.split("\0") for command in words)
    assert "brightness" in outside.run(listing)
    process = outside.start(up)
    try:
        wait_for(folder / "endpoints.json", process, folder / "up.log")
        assert "brightness at" in outside.run(describing)
        outside.run(scoring)
        small = [part for pair in SMALL_RUN for part in ("--set", pair)]
        outside.run([*training, *small], timeout=600)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(120)
    (row,) = map(json.loads, (folder / "scores.jsonl").read_text().splitlines())
    assert (row["id"], row["score"]["value"]) == ("a", pytest.approx(0.2))
    (step,) = map(json.loads, (folder / "runs" / "mine" / "metrics.jsonl").read_text().splitlines())
    assert step["failures"]["brightness"] == 0
    assert 0 < step["rewards"]["brightness"] < 1
    assert "brightness" in (folder / "runs" / "mine" / "report.html").read_text()
    check_package(outside)


def check_package(outside: Outside) -> None:
    """The page's commands of a package, to the end: its plugin is served."""
    making, installing, testing, listing, up = page_commands(PACKAGE)
    outside.run(making)
    installed(installing, outside.folder)
    outside.run(testing)
    assert "sharpness" in outside.run(listing)
    for profile in (up[-1], "my-plugin.yaml"):
        endpoints = outside.folder / f"{profile.replace(':', '-')}.json"
        process = outside.start([*up[:-1], profile, "--endpoints-file", endpoints.name])
        try:
            wait_for(endpoints, process, outside.folder / "up.log")
            where = json.loads(endpoints.read_text())["sharpness"]
            assert "sharpness at" in outside.run(["sync-r1", "describe", where])
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(120)

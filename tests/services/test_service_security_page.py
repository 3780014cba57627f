"""What docs/security.md tells a stranger to type works as it stands; the threat model names tests that exist."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl")
def test_the_five_commands_give_a_service_that_its_client_reaches_and_a_stranger_does_not(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "security.md").read_text()
    block = re.search(r"## A protected service in five commands\n\n```sh\n(.*?)```", page, re.DOTALL)
    assert block is not None
    port = _free_port()
    script = block[1].replace("localhost:9001", f"localhost:{port}").replace("--health-port 9101", f"--port {port}")
    serve = next(line for line in script.splitlines() if line.startswith("sync-r1 serve"))
    describe = script.splitlines()[-1]
    script = script.replace(serve, serve + " & service=$!; trap 'kill $service; wait $service' EXIT")
    script = script.replace(describe, f"for _ in $(seq 100); do {describe} > said.txt && break; sleep 0.3; done")
    stranger = describe.replace("SYNC_R1_TOKEN_FILE=vision.token", "")
    script = f"set -eu\n{script}\ncat said.txt\nif {stranger} > stranger.txt; then exit 9; fi\n"
    environment = dict(os.environ, PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}", COLUMNS="200")
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "aesthetic at localhost" in done.stdout
    assert "authorization: Bearer" in (tmp_path / "stranger.txt").read_text()
    token = (tmp_path / "vision.token").read_text().strip()
    assert len(token) >= 43
    assert token not in (tmp_path / "tokens.yaml").read_text()


def test_every_test_that_the_threat_model_names_exists() -> None:
    page = (ROOT / "docs" / "threat-model.md").read_text()
    claims = page[page.index("## In") : page.index("## Out")]
    rows = [line for line in claims.splitlines() if line.startswith("| ") and "claim | test" not in line]
    assert len(rows) > 15
    for row in rows:
        named = re.findall(r"`(test_\w+\.py)(?: -k (?:\"([^\"]+)\"|(\w+)))?`|`(\w+)`", row.split("|")[2])
        assert named, row
        file = ""
        for path, words, word, bare in named:
            file = path or file
            (found,) = (ROOT / "tests").rglob(file)
            tests = re.findall(r"def (test_\w+)", found.read_text())
            for part in (words or word or bare).split(" or "):
                assert any(part in name for name in tests), f"{file} has no test named like {part!r}: {row}"

"""The bill of materials lists exactly what the lock installs, and is made without a network."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_sbom_lists_every_locked_package_with_version_and_hashes_offline(tmp_path: Path) -> None:
    recipe = next(line for line in (ROOT / "Makefile").read_text().splitlines() if "/cyclonedx-py " in line)
    command = shlex.split(recipe.replace("$(BIN)", str(Path(sys.executable).parent)))
    command[command.index("-o") + 1] = str(tmp_path / "sbom.json")
    nowhere = {f"{scheme}_proxy": "http://127.0.0.1:9" for scheme in ("http", "https", "all")}
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=240, env=dict(os.environ, **nowhere))
    bill = json.loads((tmp_path / "sbom.json").read_text())
    listed = {(part["name"], part["version"]): part for part in bill["components"]}
    locked = re.findall(r"^([A-Za-z0-9._-]+)==([^ ;\\\\]+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert len(locked) > 100
    assert set(locked) == listed.keys()
    for part in listed.values():
        hashes = [digest for reference in part["externalReferences"] for digest in reference.get("hashes", ())]
        assert hashes, part["name"]
    assert bill["metadata"]["component"]["name"] == "sync-r1"


def test_the_lock_pins_every_package_by_hash() -> None:
    entries = re.split(r"^(?=[A-Za-z0-9._-]+==)", (ROOT / "requirements.lock").read_text(), flags=re.MULTILINE)[1:]
    assert all("--hash=sha256:" in entry for entry in entries)

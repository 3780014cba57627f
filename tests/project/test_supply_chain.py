"""The bill of materials lists exactly what the lock installs; an audit is of everything locked, or it is none."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from benchmarks.reliability import audit

ROOT = Path(__file__).parents[2]


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


# The audit -----------------------------------------------------------------------------------------------------------

HASH = "\\\n    --hash=sha256:" + "0" * 64
LOCKED = f"""one==1.0 {HASH} {HASH}
    # via something
two==2.0 ; python_full_version < '3.0' {HASH}
two==2.1 ; python_full_version >= '3.0' {HASH}
"""


@pytest.fixture
def database() -> Iterator[tuple[str, dict[tuple[str, str], str]]]:
    """The address of a real HTTP server that answers as OSV does, and its advisories: (name, version) -> id."""
    advisories: dict[tuple[str, str], str] = {}

    class Osv(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            name, version = asked["package"]["name"], asked["version"]
            found = advisories.get((name, version))
            ranges = [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "9.9"}]}]
            affected = {"package": {"name": name, "ecosystem": "PyPI"}, "ranges": ranges, "versions": [version]}
            vulns = [{"id": found, "summary": "bad", "aliases": ["CVE-1"], "affected": [affected]}] if found else []
            body = json.dumps({"vulns": vulns} if vulns else {}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Osv)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1/query", advisories
    server.shutdown()
    thread.join()
    server.server_close()


def test_every_locked_version_is_audited_whichever_python_it_is_locked_for() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    locked = re.findall(r"^([A-Za-z0-9._-]+)==([^ ;\\\\]+)", lock, re.MULTILINE)
    files = audit.divided(lock)
    held = [re.findall(r"^([A-Za-z0-9._-]+)==([^ ]+) ", file, re.MULTILINE) for file in files]
    assert sorted(entry for entries in held for entry in entries) == sorted(locked)
    for file, entries in zip(files, held):
        assert len({name for name, _ in entries}) == len(entries)
        assert ";" not in file
    assert sum(file.count("--hash=sha256:") for file in files) == lock.count("--hash=sha256:")


@pytest.mark.slow
def test_an_audit_names_what_is_known_even_against_a_version_for_another_python(
    database: tuple[str, dict[tuple[str, str], str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (address, advisories), lock = database, tmp_path / "lock"
    lock.write_text(LOCKED)
    assert audit.main(["--osv-url", address], lock) == 0
    assert capsys.readouterr().out == "3 locked versions, 0 known vulnerabilities (osv)\n"
    advisories["two", "2.0"] = "PYSEC-1"
    assert audit.main(["--osv-url", address], lock) == 1
    said = capsys.readouterr().out
    assert "two 2.0: PYSEC-1 CVE-1; fixed in 9.9" in said
    assert "3 locked versions, 1 known vulnerabilities (osv)" in said


def test_an_audit_that_nobody_answers_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "lock").write_text(LOCKED)
    for scheme in ("http", "https", "all"):
        monkeypatch.setenv(f"{scheme}_proxy", "http://127.0.0.1:9")
    assert audit.main([], tmp_path / "lock") == 2
    assert capsys.readouterr().err.startswith("NOT AUDITED")


def test_an_audit_that_skips_a_version_is_none() -> None:
    """pip-audit itself calls that clean."""
    sound = {"name": "one", "version": "1.0", "vulns": []}
    assert audit.judged([sound], "pypi", 1) == []
    with pytest.raises(audit.NotAudited, match="pypi knows 1 of 2 versions"):
        audit.judged([sound, {"name": "two", "skip_reason": "not found"}], "pypi", 2)
    with pytest.raises(audit.NotAudited, match="osv knows 1 of 2 versions"):
        audit.judged([sound], "osv", 2)

"""Known vulnerabilities of every locked version, whichever Python and platform it is locked for (`make audit`).

pip-audit looks only at what the Python that runs it would install. So the lock is divided into files without
environment markers, each with at most one version of a package, and all of them are audited. Ends with

    0   nothing is known against any of them
    1   something is; it says what, and which version mends it
    2   NOT AUDITED: no advisory database could be asked, or it did not know every version. Never a clean audit
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

LOCK = Path(__file__).parents[2] / "requirements.lock"
SERVICES = ("osv", "pypi")
"""Asked in this order; the second where the first cannot be reached."""
_ENTRY = re.compile(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)[^\\\n]*((?:\\\n[^\\\n]*)*)", re.MULTILINE)
_TIMEOUT_S = 900.0


class NotAudited(Exception):
    """The service did not tell about every version; the message says why."""


@dataclass(frozen=True)
class Known:
    """What is known against one locked version."""

    name: str
    version: str
    ids: str
    fixed_in: str


def divided(lock: str) -> list[str]:
    """The lock as requirement files without markers; together they hold every entry once."""
    files: list[dict[str, str]] = []
    for entry in _ENTRY.finditer(lock):
        name, version, hashes = entry.groups()
        file = next((file for file in files if name not in file), None)
        if file is None:
            files.append(file := {})
        file[name] = f"{name}=={version} {hashes}"
    return ["\n".join(file.values()) + "\n" for file in files]


def audit(requirements: str, service: str, options: Sequence[str]) -> tuple[int, list[Known]]:
    """How many versions one such file has, and what is known against them. Raises NotAudited."""
    with TemporaryDirectory(prefix="sync-r1-audit-") as folder:
        file = Path(folder) / "requirements.txt"
        file.write_text(requirements)
        command = [
            sys.executable, "-m", "pip_audit", "--requirement", str(file), "--require-hashes", "--disable-pip",
            "--vulnerability-service", service, "--format", "json", "--progress-spinner", "off", *options,
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S)
    try:
        found = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise NotAudited(f"{service}: {last[:300]}") from None
    return len(found), judged(found, service, len(_ENTRY.findall(requirements)))


def judged(found: Sequence[dict[str, object]], service: str, wanted: int) -> list[Known]:
    """What pip-audit's JSON says. Raises NotAudited unless it is about `wanted` versions, none of them skipped."""
    skipped = [one for one in found if "skip_reason" in one]
    if skipped or len(found) != wanted:
        raise NotAudited(f"{service} knows {len(found) - len(skipped)} of {wanted} versions")
    return [
        Known(str(one["name"]), str(one["version"]), _ids(flaw), ", ".join(flaw["fix_versions"]) or "no version yet")
        for one in found
        for flaw in one["vulns"]  # type: ignore[attr-defined]
    ]


def _ids(flaw: dict[str, list[str]]) -> str:
    return " ".join([str(flaw["id"]), *flaw["aliases"]])


def main(options: Sequence[str], lock: Path = LOCK) -> int:
    """Audit the lock with the first service that answers; `options` go to pip-audit (`--osv-url` of a mirror)."""
    files, reasons = divided(lock.read_text()), []
    one = next(_ENTRY.finditer(files[0]))[0] + "\n"
    for service in SERVICES:
        try:
            audit(one, service, options)  # a service that cannot be used is not asked about everything else
            results = [audit(file, service, options) for file in files]
        except NotAudited as reason:
            reasons.append(str(reason))
            continue
        known = [flaw for _, flaws in results for flaw in flaws]
        for flaw in known:
            print(f"{flaw.name} {flaw.version}: {flaw.ids}; fixed in {flaw.fixed_in}")
        print(f"{sum(count for count, _ in results)} locked versions, {len(known)} known vulnerabilities ({service})")
        return 1 if known else 0
    print("NOT AUDITED: no advisory database can be asked from this machine. " + "; ".join(reasons), file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

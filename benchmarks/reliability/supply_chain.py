"""Supply chain: what is installed, and whether anything is known against it"""

from __future__ import annotations

import subprocess
from pathlib import Path

from benchmarks.reliability.record import Result

_ROOT = Path(__file__).parents[2]


def run(short: bool) -> Result:
    """See the module."""
    result = Result()
    sbom = subprocess.run(["make", "-s", "sbom"], cwd=_ROOT, capture_output=True, text=True, check=False, timeout=300)
    file = _ROOT / "build" / "sbom.json"
    size = file.stat().st_size if sbom.returncode == 0 and file.exists() else 0
    figure = f"build/sbom.json, {size / 1e3:,.0f} kB" if size else sbom.stderr[-200:]
    result.add("a list of everything locked (CycloneDX)", figure, "made, without a network", size > 0, "make sbom")
    audit = subprocess.run(["make", "-s", "audit"], cwd=_ROOT, capture_output=True, text=True, check=False, timeout=300)
    said = (audit.stdout.strip().splitlines() or [audit.stderr.strip()[-200:]])[-1]
    if "NOT AUDITED" in audit.stderr:
        said = "not audited here: no advisory database can be asked from this machine"
    met = None if "NOT AUDITED" in audit.stderr else audit.returncode == 0
    promise = "no locked version has a known vulnerability, whichever Python it is locked for"
    result.add(promise, said, "none known", met, "make audit")
    return result

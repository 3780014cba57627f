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
    said = "not audited here: no advisory database can be reached from this machine"
    if audit.returncode == 0:
        said = "no known vulnerability"
    elif "NOT AUDITED" not in audit.stderr:
        said = audit.stdout.strip().splitlines()[-1] if audit.stdout.strip() else audit.stderr.strip()[-200:]
    met = None if "NOT AUDITED" in audit.stderr else audit.returncode == 0
    result.add("nothing locked has a known vulnerability (OSV)", said, "none known", met, "make audit")
    return result

"""Strangers and wrong credentials: refused (the tests of the front and of the client, run here)"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from benchmarks.reliability.record import Result

_ROOT = Path(__file__).parents[2]
_PROMISES = (
    (
        "a missing, wrong or removed token is refused; teams stay within their share",
        "services/test_service_identity.py",
    ),
    ("no or an expired certificate, another CA, plain text and old TLS are refused", "services/test_service_tls.py"),
    ("limits and byte budget are checked before a body is read", "services/test_service_gate.py"),
    ("each cause has its one status", "services/test_service_status.py"),
    ("the client keeps its token private and renews what was replaced", "trainer_client/sdk/test_client_security.py"),
)


def run(short: bool) -> Result:
    """See the module."""
    result = Result()
    for promise, name in _PROMISES[: 1 if short else None]:
        file = f"tests/{name}"
        command = [sys.executable, "-m", "pytest", file, "-q", "-p", "no:cacheprovider", "-m", "slow or not slow"]
        done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False, timeout=900)
        last = (done.stdout.strip().splitlines() or ["nothing"])[-1].strip("= ")
        result.add(
            promise, re.sub(r" in .*", "", last), "all pass", done.returncode == 0,
            f"pytest {file} -m 'slow or not slow'",
        )  # fmt: skip
    return result

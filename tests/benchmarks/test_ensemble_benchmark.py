"""The arithmetic under every published figure."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from benchmarks import harness
from benchmarks.harness import Figure, Report, figure, ratio, tree_cpu_s


def test_interval_of_the_median_covers_it_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = sum(f.low <= 0 <= f.high for f in (figure(rng.normal(size=21).tolist()) for _ in range(400)))
    assert 0.93 <= covered / 400 <= 0.99


def test_few_measurements_give_their_range() -> None:
    assert figure([3.0, 1.0, 2.0]) == Figure(median=2.0, low=1.0, high=3.0, n=3)
    with pytest.raises(ValueError, match="at least one"):
        figure([])


def test_ratios_pair_measurements_of_the_same_round() -> None:
    assert ratio([2.0, 20.0, 200.0], [1.0, 10.0, 100.0]).median == 2.0
    with pytest.raises(ValueError, match="got 1 and 2"):
        ratio([1.0], [1.0, 2.0])


def test_cpu_seconds_include_children() -> None:
    child = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        before, deadline_s = tree_cpu_s(os.getpid()), time.monotonic() + 60
        while tree_cpu_s(child.pid) < 0.2 and time.monotonic() < deadline_s:
            time.sleep(0.02)
        assert tree_cpu_s(os.getpid()) - before >= 0.15
    finally:
        child.kill()
        child.wait()


def test_report_is_a_table_and_a_file(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["benchmarks/sample.py", "--rounds", "3"])
    report = Report(
        "sample", "A sample", ("what", "how much"), rows=[("sleep", figure([1.0, 2.0, 3.0]))], notes=["on one core"]
    )
    content = json.loads(report.finish().read_text())
    printed = capsys.readouterr().out
    assert "| sleep | 2 [1, 3] |" in printed
    assert "`python -m benchmarks.sample --rounds 3`" in printed
    assert content["rows"] == [["sleep", {"median": 2.0, "low": 1.0, "high": 3.0, "n": 3}]]
    assert content["machine"]["cores"]

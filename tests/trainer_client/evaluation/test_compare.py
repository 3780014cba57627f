"""Two scorings compared: figures against values worked out by hand, and the command against real services."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from sync_r1.cli.main import app
from sync_r1.reward_models.types import Failure, FailureCode, NotApplicable, Outcome, Score
from sync_r1.trainer_client.evaluation.compare_scores import Comparison, ScoredSide, Side, compare, parse_side
from sync_r1.trainer_client.reports.comparison_page import verdict

if TYPE_CHECKING:
    from sync_r1.services.local.up import Up

FAILED = Failure(FailureCode.INTERNAL, "no")
NOTHING = NotApplicable("no face")


def scorer(*outcomes: float | Outcome) -> ScoredSide:
    """Raw scores on a scale of ten; outcomes that are no number stand for themselves."""
    raw_N = np.array([one if isinstance(one, float) else np.nan for one in outcomes])
    told = tuple(Score(one) if isinstance(one, float) else one for one in outcomes)
    return ScoredSide("localhost:1", "aesthetic", "v", "a" * 64, told, raw_N / 10, raw_N)


def compared(a: ScoredSide, b: ScoredSide, shown: int = 10) -> Comparison:
    return compare([str(index) for index in range(len(a.outcomes))], a, b, shown=shown, resamples=100)


def test_correlations_shift_and_order_of_differences_by_hand() -> None:
    found = compared(scorer(1.0, 2.0, 3.0, 4.0), scorer(2.0, 1.0, 4.0, 8.0))
    assert found.spearman is not None
    assert found.kendall is not None
    assert found.shift is not None
    assert found.spearman.value == pytest.approx(1 - 6 * 2 / (4 * 15))  # ranks differ by 1, 1, 0, 0
    assert found.kendall.value == pytest.approx((5 - 1) / 6)  # one pair of six is turned round
    assert found.shift.value == pytest.approx((0.1 - 0.1 + 0.1 + 0.4) / 4)
    assert found.distance == pytest.approx(0.7 / 4)
    assert [(one.id, round(one.b - one.a, 9)) for one in found.most_different[:1]] == [("3", 0.4)]


def test_outcomes_are_counted_and_only_pairs_are_compared() -> None:
    a = scorer(1.0, 2.0, 3.0, FAILED, NOTHING, 6.0, NOTHING)
    b = scorer(1.5, 2.5, 3.5, FAILED, NOTHING, FAILED, 9.0)
    found = compared(a, b, shown=2)
    assert found.outcomes == {
        "scored / scored": 3, "scored / failed": 1, "failed / failed": 1, "not applicable / scored": 1,
        "not applicable / not applicable": 1,
    }  # fmt: skip
    assert (found.items, found.pairs, len(found.most_different)) == (7, 3, 2)
    assert found.agreement == pytest.approx(5 / 7)
    assert found.spearman is not None
    assert found.spearman.value == pytest.approx(1)
    json.dumps(found.to_json(), allow_nan=False)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (scorer(FAILED, FAILED), scorer(1.0, NOTHING)),
        (scorer(5.0, 5.0, 5.0, 5.0), scorer(1.0, 2.0, 3.0, 4.0)),
        (scorer(1.0, 2.0), scorer(1.0, 2.0)),
    ],
)
def test_what_cannot_be_known_is_not_a_number(a: ScoredSide, b: ScoredSide) -> None:
    found = compared(a, b)
    assert found.spearman is None
    assert found.kendall is None
    assert verdict(found)
    json.dumps(found.to_json(), allow_nan=False)


@settings(max_examples=10, deadline=None)
@given(st.lists(st.floats(0, 10), min_size=3, max_size=12, unique=True), st.floats(0.1, 0.9), st.floats(0, 1))
def test_a_rising_map_keeps_the_order_and_is_all_shift(values: list[float], scale: float, shift: float) -> None:
    a, b = scorer(*values), scorer(*(scale * value + shift for value in values))
    if len(set(b.raw_N.tolist())) < len(values):
        return  # rounding made ties
    found = compared(a, b)
    assert found.spearman is not None
    assert found.kendall is not None
    assert found.shift is not None
    assert (found.spearman.value, found.kendall.value) == (pytest.approx(1), pytest.approx(1))
    assert found.shift.value == pytest.approx(float(np.mean(b.units_N - a.units_N)))
    assert found.spearman.low <= found.spearman.value + 1e-9


def test_kendall_is_the_count_of_pairs_in_order() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.uniform(0, 10, 40), rng.uniform(0, 10, 40)
    signs = [np.sign((a[i] - a[j]) * (b[i] - b[j])) for i, j in combinations(range(40), 2)]
    found = compared(scorer(*a.tolist()), scorer(*b.tolist()))
    assert found.kendall is not None
    assert found.kendall.value == pytest.approx(np.mean(signs))
    assert found.kendall.low < found.kendall.value < found.kendall.high


def test_an_interval_covers_a_true_shift_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(30):
        a = rng.uniform(2, 8, 30)
        found = compared(scorer(*a.tolist()), scorer(*(a + 0.5 + rng.normal(0, 0.5, 30)).tolist()))
        assert found.shift is not None
        covered += found.shift.low <= 0.05 <= found.shift.high
    assert covered >= 25


@pytest.mark.parametrize(
    ("text", "side"),
    [
        ("pickscore", Side("", "pickscore", "")),
        ("laion_v2@77b0e1d2", Side("", "laion_v2", "77b0e1d2")),
        ("@77b0e1d2", Side("", "", "77b0e1d2")),
        ("gpu1:9001", Side("gpu1:9001", "", "")),
        ("dns:///rewards.svc:9001/clip_i@abcd", Side("dns:///rewards.svc:9001", "clip_i", "abcd")),
    ],
)
def test_a_side_is_a_variant_a_release_or_an_endpoint(text: str, side: Side) -> None:
    assert parse_side(text) == side


@pytest.mark.parametrize("text", ["", "a b", "@xyz", "http://gpu1:9001", "v@12"])
def test_a_side_that_names_nothing_is_told_what_would(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected VARIANT, VARIANT@RELEASE, @RELEASE, HOST:PORT"):
        parse_side(text)


def run(*arguments: object, expect: int = 0) -> str:
    done = CliRunner().invoke(app, ["compare", *map(str, arguments)], env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert done.exit_code == expect, done.output
    return " ".join(done.output.split())


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    rng = np.random.default_rng(0)
    lines = []
    for number in range(70):  # more than one request
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(folder / f"{number}.png")
        lines.append({"id": f"row-{number}", "image": f"{number}.png", "concept": {"references": ["0.png"]}})
    lines.append({"id": "gone", "image": "nowhere.png", "concept": {"references": ["0.png"]}})
    (folder / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / "in.jsonl"


def test_two_variants_of_a_running_service_are_compared(services: Up, rows: Path, tmp_path: Path) -> None:
    files = ("--json", tmp_path / "found.json", "--html", tmp_path / "found.html")
    where = services.endpoints["concept-consistency"]
    said = run("clip_i", f"{where}/dino", "--input", rows, "--endpoint", where, "--top", 3, *files)
    found = json.loads((tmp_path / "found.json").read_text())
    assert (found["reward"], found["a"]["variant"], found["b"]["variant"]) == ("concept-consistency", "clip_i", "dino")
    assert found["outcomes"] == {"scored / scored": 70, "failed / failed": 1}
    assert len(found["most_different"]) == 3
    assert all(one["id"] in said for one in found["most_different"])
    assert f"{found['spearman']['value']:.3f}" in said
    page = (tmp_path / "found.html").read_text()
    assert page.count('src="data:image/png;base64,') == 3
    assert "nowhere.png" in page


def test_a_release_compared_with_itself_is_the_same_to_the_last_bit(services: Up, rows: Path, tmp_path: Path) -> None:
    where = services.endpoints["concept-consistency"]
    release = run("clip_i", "clip_i", "--input", rows, "--endpoint", where, "--json", tmp_path / "same.json")
    found = json.loads((tmp_path / "same.json").read_text())
    digest = found["a"]["release"]
    assert found["distance"] < 1e-5
    assert f"clip_i@{digest[:12]}" in release
    pinned = run(f"@{digest[:8]}", "dino", "--input", rows, "--endpoint", where)
    assert f"A = clip_i@{digest[:12]}" in pinned


def test_what_cannot_be_compared_is_said(services: Up, rows: Path) -> None:
    where = services.endpoints["concept-consistency"]
    other = services.endpoints["aesthetic"]
    assert "a side names no endpoint" in run("clip_i", "dino", "--input", rows, expect=1)
    assert "has no variant 'beauty'" in run("clip_i", "beauty", "--input", rows, "--endpoint", where, expect=1)
    unknown = run("clip_i@00000000", "dino", "--input", rows, "--endpoint", where, expect=1)
    assert "has no release clip_i@00000000" in unknown
    assert "aesthetic and concept-consistency answer" in run(where, other, "--input", rows, expect=1)

"""The report is one file that needs nothing else, says what was measured, and shows no text as markup."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from toy_trainer import ToyPolicy, ToyScorer, toy_config

from sync_r1.trainer_client.config import ConfigError, load_config
from sync_r1.trainer_client.reports.charts import interval_chart, line_chart
from sync_r1.trainer_client.reports.run_page import ReportError, write_report
from sync_r1.trainer_client.rollouts.scorer import Scorers
from sync_r1.trainer_client.tasks.pocketbench import write_pocketbench
from sync_r1.trainer_client.tasks.unifybench import load_unifybench
from sync_r1.trainer_client.training.loop import train
from sync_r1.trainer_client.training.run import Run

CONFIG = Path(__file__).parents[3] / "trainer_client" / "configs" / "pocket_dgs.yaml"


@pytest.fixture
async def finished_run(tmp_path: Path) -> Path:
    write_pocketbench(tmp_path / "benchmark")
    config = toy_config(steps=3, selector={"kind": "dgs", "preview_at": 0.5})
    out = tmp_path / "run"
    out.mkdir()
    (out / "config.json").write_text(config.model_dump_json())
    await train(
        Run(
            config, out, policy=ToyPolicy(), reference=ToyPolicy(), bench=load_unifybench(tmp_path / "benchmark"),
            scorers=Scorers(ToyScorer(), ToyScorer()),
        )
    )  # fmt: skip
    return out


async def test_the_report_loads_nothing_from_anywhere(finished_run: Path) -> None:
    page = write_report(finished_run).read_text()
    assert not re.search(r"https?://|<script|<link|@import|url\(", page)
    sources = re.findall(r'src="([^"]{0,30})', page)
    assert len(sources) == 8
    assert all(source.startswith("data:image/png;base64,") for source in sources)


async def test_the_report_shows_what_was_measured(finished_run: Path) -> None:
    page = write_report(finished_run).read_text()
    end = json.loads((finished_run / "evaluation" / "end.json").read_text())
    assert f"{end['means']['total']:.3f}" in page
    for heading in ("Dynamic Group Scaling", "Where the time went", "What scored", "Configuration"):
        assert heading in page
    assert "0" * 64 in page
    assert "understanding-correctness: components" in page
    assert "prefers-color-scheme: dark" in page
    assert "&lt;bo&gt;" in page
    assert "<bo>" not in page
    assert "$" not in page


async def test_differences_are_paired_where_the_draws_are_known(finished_run: Path) -> None:
    files = [finished_run / "evaluation" / f"{name}.json" for name in ("start", "end")]
    start, end = (json.loads(file.read_text()) for file in files)
    start["values"]["total"] = [0.1, 0.5, 0.9, None]
    end["values"]["total"] = [0.2, 0.6, 1.0, 0.3]
    for file, values in zip(files, (start, end)):
        file.write_text(json.dumps(values))
    page = write_report(finished_run).read_text()
    # Every pair rises by the same 0.1, however far the pairs lie apart.
    assert '<td class="n up">+0.100 ± 0.000</td>' in page
    assert "of the paired differences" in page
    for file, values in zip(files, (start, end)):
        file.write_text(json.dumps({key: value for key, value in values.items() if key != "values"}))
    page = write_report(finished_run).read_text()
    assert "of the difference of independent means" in page


async def test_sections_without_data_are_left_out(finished_run: Path) -> None:
    page = write_report(finished_run).read_text()
    assert "Failed scores" not in page
    metrics = finished_run / "metrics.jsonl"
    steps = [json.loads(line) for line in metrics.read_text().splitlines()]
    for step in steps:
        step["selection"]["theta"] = step["gate_correlation"] = None
        step["failures"]["aesthetic"] = 2
        step.pop("hygiene")  # a run of the past
    metrics.write_text("".join(json.dumps(step) + "\n" for step in steps))
    page = write_report(finished_run).read_text()
    assert "Dynamic Group Scaling" not in page
    assert "failed scores per step" in page
    assert "Reward hygiene" not in page


async def test_a_run_that_was_cut_short_still_has_a_report(finished_run: Path) -> None:
    (finished_run / "evaluation" / "end.json").unlink()
    assert "has not been measured before and after yet" in write_report(finished_run).read_text()
    (finished_run / "metrics.jsonl").unlink()
    assert "not measured in this run" in write_report(finished_run).read_text()


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match=r"config\.json is missing"):
        write_report(tmp_path)


def test_charts_leave_gaps_and_survive_a_single_point() -> None:
    assert "circle" in line_chart("one", {"a": [(1, 0.5)]})
    assert "polygon" in line_chart("band", {"a": [(1, 0.5), (2, 0.7), (3, 0.6)]}, smooth=2)
    assert interval_chart([]) == ""
    assert "&lt;b&gt;" in interval_chart([("<b>", -0.2, -0.4, 0.1, (0.0,)), ("c", None, None, None, ())], zero=True)
    assert "polyline" in line_chart("gap", {"a": [(1, 0.5), (2, None), (3, float("nan")), (4, 0.7)]})
    assert "<b>" not in line_chart("<b>", {"<b>": [(1, 1.0), (2, 1.0)], "c": [(1, 2.0)]})


def test_the_shipped_configuration_is_valid() -> None:
    config = load_config(CONFIG)
    assert sum(reward.weight for reward in config.rewards.values()) == pytest.approx(1.0)


def test_overrides_are_typed_by_yaml() -> None:
    config = load_config(CONFIG, ["objective.text_loss=false", "seed=3", "selector.kind=none"])
    assert config.objective.text_loss is False
    assert config.seed == 3
    assert config.selector.kind == "none"


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("objective.txt_loss=false", "objective.txt_loss"),
        ("sampling.group_size=1", "sampling.group_size"),
        ("rewards.beauty.weight=-1", "rewards.beauty.weight"),
        ("rewards.aesthetic.judges=both", "rewards.aesthetic.judges"),
        ("selector.weights={beauty: -1}", "selector.weights.beauty"),
        ("seed", "key=value"),
        ("seed.x=1", "is a value, not a section"),
    ],
)
def test_wrong_settings_name_their_key(override: str, key: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(key)):
        load_config(CONFIG, [override])

"""Run folders of earlier versions: what they did next then, they do next now.

`fixtures/make_runs.py` says how the folders and `next.json` were made, and by which code.
"""

from __future__ import annotations

import json
import zipfile
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import BaseModel
from recorded_runs import RUNS, go_on, recorded_names, unpack
from toy_trainer import toy_config
from typer.testing import CliRunner

from sync_r1.cli.main import app
from sync_r1.reward_models.cards import BUILT_IN_REWARDS
from sync_r1.trainer_client.config import ConfigError, DapoConfig, DgsConfig, PlainConfig, PodsConfig, load_config
from sync_r1.trainer_client.config.keys import FORMAT, RENAMED, SELECTOR_KEYS, migrate, renamed_keys
from sync_r1.trainer_client.config.run_folder import changed_sections, read_config, write_config
from sync_r1.trainer_client.jobs import train as train_job
from sync_r1.trainer_client.reports.run_page import write_report
from sync_r1.trainer_client.tasks.pocketbench import write_pocketbench
from sync_r1.trainer_client.tasks.unifybench import UnifyBench, load_unifybench

KINDS = {"none", "dgs", "dapo", "pods"}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> UnifyBench:
    folder = tmp_path_factory.mktemp("pocketbench")
    write_pocketbench(folder)
    return load_unifybench(folder)


def numbers(steps: list[dict[str, Any]]) -> list[float]:
    """Everything that was measured in `steps`, in a fixed order."""
    rewards = [value for step in steps for _, value in sorted(step["rewards"].items()) if value is not None]
    return rewards + [step["grad_norm"] for step in steps]


@pytest.mark.parametrize("name", recorded_names())
async def test_an_old_run_resumes_with_the_same_draws_and_weights(tmp_path: Path, bench: UnifyBench, name: str) -> None:
    run = unpack(name, tmp_path / name)
    expected = json.loads((RUNS / name / "next.json").read_text())
    came = json.loads(json.dumps(await go_on(name, read_config(run), run, bench)))
    assert came["draws"] == expected["draws"]
    for key in ("step", "trajectories", "learned"):
        assert [step[key] for step in came["steps"]] == [step[key] for step in expected["steps"]]
    assert numbers(came["steps"]) == pytest.approx(numbers(expected["steps"]), rel=1e-3, abs=1e-5)
    assert len(came["weights"]) == len(expected["weights"])
    for now, then in zip(came["weights"], expected["weights"]):
        assert now["shape"] == then["shape"]
        assert now["norm"] == pytest.approx(then["norm"], rel=1e-4)
        torch.testing.assert_close(
            torch.tensor(now["numbers"]), torch.tensor(then["numbers"]), rtol=1e-3, atol=1e-4
        )  # fmt: skip


def test_there_is_an_old_run_of_every_selector() -> None:
    configs = [json.loads((RUNS / name / "run" / "config.json").read_text()) for name in recorded_names()]
    assert {config["selector"]["kind"] for config in configs} == KINDS


@pytest.mark.parametrize("name", recorded_names())
def test_the_report_of_an_old_run_can_be_written(tmp_path: Path, name: str) -> None:
    page = write_report(unpack(name, tmp_path / name)).read_text()
    assert "3 of 6 steps" in page or "2 of 4 steps" in page


@pytest.mark.parametrize("name", recorded_names())
def test_no_module_of_ours_is_named_in_a_checkpoint(name: str) -> None:
    """Else it could not be read once a module has moved."""
    for file in (RUNS / name / "run" / "checkpoints").rglob("*.pt"):
        with zipfile.ZipFile(file) as archive:
            for member in archive.namelist():
                assert b"sync_r1" not in archive.read(member), f"{file.name}: {member}"
        torch.load(file, weights_only=True)


# Configuration -------------------------------------------------------------------------------------------------------


def first_format(**selector: Any) -> dict[str, Any]:
    """The configuration of a run of format 1, as it stands in its folder."""
    values: dict[str, Any] = json.loads((RUNS / "none" / "run" / "config.json").read_text())
    assert "format" not in values
    values["selector"] |= selector
    return values


@pytest.mark.parametrize("name", recorded_names())
def test_an_old_run_keeps_what_it_was_told(tmp_path: Path, name: str) -> None:
    run = unpack(name, tmp_path / name)
    before, after = json.loads((run / "config.json").read_text()), read_config(run).model_dump(mode="json")
    for old, new in (("share_of_r", "recall_share"), ("batch", "rollout_rows_max")):
        before["sampling"][new] = before["sampling"].pop(old)
    own = SELECTOR_KEYS[before["selector"]["kind"]] | {"kind"}
    before["selector"], after["selector"] = (
        {key: value for key, value in values["selector"].items() if key in own} for values in (before, after)
    )
    assert _as_far_as(before, after) == before


def _as_far_as(before: Any, after: Any) -> Any:
    """`after` without the keys that came later."""
    if isinstance(before, dict) and isinstance(after, dict):
        return {key: _as_far_as(value, after[key]) for key, value in before.items()}
    return after


@pytest.mark.parametrize("name", recorded_names())
def test_an_old_run_is_migrated_once_and_for_good(tmp_path: Path, name: str) -> None:
    run = unpack(name, tmp_path / name)
    config = read_config(run)
    write_config(run, config)
    written = json.loads((run / "config.json").read_text())
    assert written["format"] == FORMAT
    assert not renamed_keys(written)
    assert set(written["selector"]) == SELECTOR_KEYS[config.selector.kind] | {"kind"}
    assert changed_sections(read_config(run), config) == []
    write_config(run, read_config(run))
    assert json.loads((run / "config.json").read_text()) == written


@pytest.mark.parametrize("section", [PlainConfig, DgsConfig, DapoConfig, PodsConfig])
def test_a_migrated_selector_has_the_keys_that_its_kind_has(section: type[BaseModel]) -> None:
    """A key that was missing here would be lost when a run is migrated."""
    fields = section.model_fields
    assert SELECTOR_KEYS[fields["kind"].default] | {"kind"} == set(fields)


def test_keys_of_other_selectors_are_dropped_and_change_nothing() -> None:
    values = first_format(kind="pods", preview_at=0.7, candidates=9, min_std=0.5)
    kept = deepcopy(values)
    assert migrate(values)["selector"] == {"kind": "pods", "candidates": 9}
    assert values == kept


def test_a_dynamic_group_that_is_dropped_leaves_its_baseline() -> None:
    """Format 1 took the leave-one-out baseline for `group: dynamic` whatever the kind was."""
    migrated = migrate(first_format(kind="dapo", group="dynamic"))
    assert "group" not in migrated["selector"]
    assert migrated["objective"]["baseline"] == "leave_one_out"
    assert migrate(first_format(kind="dapo"))["objective"]["baseline"] == "mean"
    assert migrate(first_format(kind="dgs", group="dynamic"))["objective"]["baseline"] == "mean"


def test_what_has_changed_is_named_by_its_section() -> None:
    base = toy_config(selector={"kind": "none"})
    assert changed_sections(base, toy_config(selector={"kind": "none"})) == []
    assert changed_sections(base, toy_config(selector={"kind": "pods", "candidates": 9})) == ["selector"]
    assert changed_sections(base, toy_config(selector={"kind": "none"}, seed=5)) == ["seed"]


def test_a_key_of_another_selector_is_refused_and_another_kind_takes_only_its_own(tmp_path: Path) -> None:
    file = written_yaml(tmp_path, "selector: {preview_at: 0.5, max_rounds: 3}\n")
    assert load_config(file).selector == DgsConfig(preview_at=0.5, max_rounds=3)
    assert load_config(file, ["selector.kind=none"]).selector == PlainConfig()
    assert load_config(file, ["selector.kind=dapo"]).selector == DapoConfig(max_rounds=3)
    with pytest.raises(ConfigError, match=r"key 'selector\.candidates'"):
        load_config(file, ["selector.candidates=9"])
    with pytest.raises(ConfigError, match="key 'selector'"):
        load_config(file, ["selector.kind=best"])


@pytest.mark.parametrize("version", [0, FORMAT + 1, "2"])
def test_a_run_of_a_later_version_is_refused(tmp_path: Path, version: object) -> None:
    (tmp_path / "config.json").write_text(json.dumps(first_format() | {"format": version}))
    with pytest.raises(ConfigError, match=f"format {version!r}: expected 1 to {FORMAT}"):
        read_config(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"steps": "many"}'])
def test_a_file_that_is_no_configuration_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigError, match="is not the configuration of a run"):
        read_config(tmp_path)


def test_the_command_resumes_an_old_run_and_migrates_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to its services, which are not there; with other settings it is refused before anything is written."""
    run = unpack("pocket", tmp_path / "run")
    (tmp_path / "same").mkdir()
    write_config(tmp_path / "same", read_config(run))
    (tmp_path / "endpoints.json").write_text('{"aesthetic": "localhost:1"}')
    options = ["--out", run, "--resume", "--config", tmp_path / "same" / "config.json"]
    options += ["--endpoints", tmp_path / "endpoints.json"]

    def resume(*more: str) -> str:
        result = CliRunner().invoke(app, ["train", *map(str, options), *more])
        assert result.exit_code == 1
        return " ".join(result.output.split())

    assert "was started with another sampling" in resume("--set", "sampling.recall_share=0.1")
    assert "format" not in json.loads((run / "config.json").read_text())
    assert "no endpoint for" in resume()
    assert "format" not in json.loads((run / "config.json").read_text())
    (tmp_path / "endpoints.json").write_text(json.dumps(dict.fromkeys(BUILT_IN_REWARDS, "localhost:1")))
    monkeypatch.setattr(train_job, "_READY_TIMEOUT_S", 0.5)
    assert "localhost:1" in resume()
    assert json.loads((run / "config.json").read_text())["format"] == FORMAT


def written_yaml(folder: Path, text: str = "") -> Path:
    (folder / "run.yaml").write_text("rewards: {aesthetic: {weight: 1}}\n" + text)
    return folder / "run.yaml"


@pytest.mark.parametrize(("old", "new"), [pair for names in RENAMED.values() for pair in names.items()])
def test_a_key_that_was_renamed_is_one_error_with_the_new_name(tmp_path: Path, old: str, new: str) -> None:
    section, key = old.split(".")
    named = f"'{old}' is called '{new}' now"
    with pytest.raises(ConfigError, match=named):
        load_config(written_yaml(tmp_path, f"{section}: {{{key}: 1}}\n"))
    for override in (f"{old}=1", f"{section}={{{key}: 1}}"):
        with pytest.raises(ConfigError, match=f"--set {section}.*{named}"):
            load_config(written_yaml(tmp_path), [override])
    assert load_config(written_yaml(tmp_path), [f"{new}=1"]) == load_config(
        written_yaml(tmp_path, f"{section}: {{{new.split('.')[1]}: 1}}\n")
    )


def test_the_configuration_of_a_run_can_start_another(tmp_path: Path) -> None:
    write_config(tmp_path, toy_config(seed=3))
    again = load_config(tmp_path / "config.json", ["seed=4"])
    assert changed_sections(toy_config(seed=3), again) == ["seed"]

"""`sync-r1 rewards` says all of a profile without a service; `sync-r1 new-reward` writes a package that works."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from own_graphs import profile_of, write_graph, write_profile
from typer.testing import CliRunner

from sync_r1.cli.main import app
from sync_r1.reward_models.profiles import load_profile
from sync_r1.reward_models.profiles.plugins import plugin_path


def run(*arguments: object, expect: int = 0) -> str:
    """Output of the command, on wide lines."""
    done = CliRunner().invoke(app, [*map(str, arguments)], env={"COLUMNS": "250", "NO_COLOR": "1"})
    assert done.exit_code == expect, done.output
    return done.output


def listed(profile: object) -> dict[str, dict[str, object]]:
    rows = json.loads(run("rewards", "--profile", profile, "--json"))
    return {f"{row['reward']}/{row['variant']}": row for row in rows}


@pytest.mark.parametrize("profile", ["pocket", "full", "scorers", "faces", "arcface", "judges"])
def test_every_variant_of_a_profile_is_listed_as_its_service_will_describe_it(profile: str) -> None:
    rows = listed(profile)
    rewards = load_profile(profile).rewards.values()
    expected = {f"{one.name}/{variant}": (one, reward) for one in rewards for variant, reward in one.variants.items()}
    assert list(rows) == list(expected)
    for name, (served, reward) in expected.items():
        row, card = rows[name], reward.card
        assert row["judges"] == served.judges
        assert row["is_default"] == (card.variant == served.default_variant)
        assert tuple(row["required"]) == card.required_fields
        assert (row["affine_scale"], row["affine_shift"]) == (card.affine_scale, card.affine_shift)
        assert (row["weights"] == "none") == (not reward.graphs)
    table = [line.split("│") for line in run("rewards", "--profile", profile).splitlines() if line.startswith("│")]
    assert len(table) == len(expected)
    for line, (served, reward) in zip(table, expected.values()):
        variant = reward.card.variant
        assert line[1].strip() == (f"{variant} *" if variant == served.default_variant else variant)


def test_weights_that_are_not_at_hand_are_said_with_their_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNC_R1_GRAPHS", str(tmp_path))
    rows = listed("full")
    asked = rows["text-faithfulness/vqa_yes"]
    assert (asked["kind"], asked["required"], asked["optional"]) == ("yes", ["image"], ["nouns"])
    assert asked["weights"] == "absent"
    assert "run `sync-r1 export git_vqa --weights …`" in asked["absent"][0]  # type: ignore[index]
    assert rows["understanding-correctness/bleu"]["weights"] == "none"
    assert f"there is no file {tmp_path}/git_vqa.onnx; run `sync-r1 export" in run("rewards", "--profile", "full")
    assert {row["weights"] for row in listed("judges").values()} == {"endpoint"}


def test_an_own_graph_is_at_hand_when_its_file_is(tmp_path: Path) -> None:
    profile = write_profile(tmp_path / "own.yaml", profile_of({"file": "own.onnx"}))
    assert listed(profile)["own/net"]["weights"] == "absent"
    write_graph(tmp_path / "own.onnx")
    assert listed(profile)["own/net"]["weights"] == "at hand"
    assert listed(profile)["own/net"]["absent"] == []


@pytest.mark.parametrize(
    ("profile", "sentence"),
    [
        ("pockt", "error: there is no profile 'pockt': neither the file pockt nor one of 'pocket', "),
        ("plugin:nobody", "error: there is no plugin 'nobody'; installed are none"),
    ],
)
def test_a_wrong_profile_is_one_sentence(profile: str, sentence: str) -> None:
    said = run("rewards", "--profile", profile, expect=1)
    assert said.startswith(sentence)
    assert said.count("\n") == 1


@pytest.mark.parametrize("kind", ["python", pytest.param("graph", marks=pytest.mark.slow), "judge"])
def test_a_new_package_passes_its_own_tests_which_score_at_a_real_service(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "My_Reward"
    assert f"sync-r1 up --profile {folder}/src/my_reward_reward/profile.yaml" in run(
        "new-reward", folder, "--kind", kind
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q"], cwd=folder, capture_output=True, text=True,
        timeout=280, env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout
    # What the tests promise of services is asked of one by the package's own test.
    assert ("up.start(" in (folder / "tests" / "test_my_reward.py").read_text()) == (kind != "judge")


@pytest.mark.parametrize("kind", ["python", "graph", "judge"])
@pytest.mark.parametrize("name", ["a", "class", "json", "numpy", "two-words-2", "x" * 63])
def test_any_reward_s_name_makes_a_package_whose_profile_is_complete(tmp_path: Path, kind: str, name: str) -> None:
    run("new-reward", tmp_path / "new", "--name", name, "--kind", kind)
    (package,) = (tmp_path / "new" / "src").iterdir()
    profile = load_profile(str(package / "profile.yaml"))
    assert list(profile.rewards) == [name]
    for file in (tmp_path / "new").rglob("*.py"):
        compile(file.read_text(), file.name, "exec")
    for file in (tmp_path / "new").rglob("*.yaml"):
        yaml.safe_load(file.read_text())
    assert not [file for file in (tmp_path / "new").rglob("*.*") if file.suffix != ".onnx" and "$" in file.read_text()]


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    said = run("new-reward", tmp_path, "--name", "brightness", expect=1)
    assert f"{tmp_path} is not empty; give a folder that is, or one that is not there yet" in said
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("name", ["2nd", "a/b", "-", "ä", "x" * 64])
def test_what_is_no_name_of_a_reward_is_refused_and_nothing_written(tmp_path: Path, name: str) -> None:
    said = run("new-reward", tmp_path / "new", f"--name={name}", expect=1)
    assert f"{name!r} is no name of a reward" in said
    assert "--name" in said
    assert not (tmp_path / "new").exists()


def test_an_installed_package_is_the_plugin_that_its_profile_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By pip's own wheel of it."""
    run("new-reward", tmp_path / "new", "--name", "brightness", "--kind", "graph")
    uv, site = Path(sys.executable).with_name("uv"), tmp_path / "site"
    command = [uv, "pip", "install", "--quiet", "--offline", "--no-deps", "--no-build-isolation", "--python"]
    subprocess.run([*command, sys.executable, "--target", site, tmp_path / "new"], check=True, timeout=200)
    monkeypatch.syspath_prepend(str(site))
    assert plugin_path("brightness") == site / "brightness_reward" / "profile.yaml"
    assert listed("plugin:brightness")["brightness/net"]["weights"] == "at hand"

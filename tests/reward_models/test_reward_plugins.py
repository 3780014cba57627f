"""`plugin:NAME`: profiles of installed distributions, looked up only when they are named, and without running them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from plugins import write_plugin

from sync_r1.reward_models.profiles import load_profile
from sync_r1.reward_models.types import ProfileError

LISTED_ALONE = """
import sys
from typer.testing import CliRunner
from sync_r1.cli.main import app

done = CliRunner().invoke(app, ["rewards", "--profile", sys.argv[1], "--json"])
assert done.exit_code == 0, done.output
heavy = {"torch", "transformers", "onnxruntime", "grpc", "tritonclient"} & set(sys.modules)
assert not heavy, heavy
print(done.output)
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder where Python looks for packages."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    return folder


def refused(name: str, match: str) -> None:
    with pytest.raises(ProfileError, match=match):
        load_profile(name)


def test_a_plugin_is_a_profile_and_others_extend_it(site: Path, tmp_path: Path) -> None:
    folder = write_plugin(site, "team-length")
    assert list(load_profile("plugin:team-length").rewards) == ["team-length"]
    own = tmp_path / "own.yaml"
    own.write_text("name: own\nextends: plugin:team-length\nrewards: {team-length: {judges: answer}}\n")
    extended = load_profile(str(own)).rewards["team-length"]
    assert extended.default_variant == "length"
    # The same files are the same release, installed or not.
    beside = load_profile(str(folder / "profile.yaml")).rewards["team-length"]
    assert extended.releases == beside.releases


def test_no_module_of_a_plugin_runs_and_nothing_heavy_is_imported_where_it_is_listed(site: Path) -> None:
    folder = write_plugin(site, "team-length")
    done = subprocess.run(
        [sys.executable, "-c", LISTED_ALONE, "plugin:team-length"], capture_output=True, text=True, timeout=120,
        env=dict(os.environ, PYTHONPATH=str(site)), check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (listed,) = json.loads(done.stdout)
    assert (listed["reward"], listed["kind"], listed["weights"]) == ("team-length", "python", "function")
    assert (listed["required"], listed["optional"]) == (["answer"], ["prompt"])
    assert not (folder / "ran").exists()


def test_plugins_that_nobody_names_change_nothing(site: Path) -> None:
    before = load_profile("pocket").rewards["aesthetic"].releases
    write_plugin(site, "pocket", keys={"rewards": "broken"})
    write_plugin(site, "twice", distribution="one")
    write_plugin(site, "twice", distribution="two", value="no_package:none.yaml")
    assert load_profile("pocket").rewards["aesthetic"].releases == before


def test_two_distributions_of_one_name_are_an_error_that_names_both(site: Path) -> None:
    write_plugin(site, "length", distribution="theirs")
    write_plugin(site, "length", distribution="ours")
    refused("plugin:length", r"several distributions offer the plugin 'length': ours 1\.2 and theirs 1\.2; uninstall")


def test_an_unknown_plugin_lists_those_that_are_installed_nearest_first(site: Path, tmp_path: Path) -> None:
    write_plugin(site, "brightness")
    write_plugin(site, "sharpness")
    refused("plugin:sharpnes", r"no plugin 'sharpnes'; installed are 'sharpness', 'brightness'")
    refused("sharpness", r"there is no profile 'sharpness': neither the file sharpness nor one of 'plugin:sharpness', ")
    own = tmp_path / "own.yaml"
    own.write_text("name: own\nextends: plugin:sharpnes\n")
    refused(str(own), r"own\.yaml: extends: there is no plugin 'sharpnes'")


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (
            "bad_rewards:absent.yaml",
            r"plugin 'bad' of bad-rewards 1\.2: there is no file .*absent\.yaml; is 'absent\.y",
        ),
        ("nowhere_at_all:profile.yaml", r"there is no file .*nowhere_at_all/profile\.yaml"),
        ("bad_rewards", r"its entry point is 'bad_rewards'; expected PACKAGE:FILE"),
        ("bad_rewards:profile", r"expected PACKAGE:FILE"),
        ("bad_rewards:../../etc/secret.yaml", r"expected PACKAGE:FILE"),
    ],
)
def test_an_entry_point_that_names_no_profile_is_one_sentence(site: Path, value: str, sentence: str) -> None:
    folder = write_plugin(site, "bad", value=value)
    refused("plugin:bad", sentence)
    assert not (folder / "ran").exists()


def test_what_is_wrong_in_a_plugin_s_profile_names_its_file_and_key(site: Path) -> None:
    folder = write_plugin(site, "bad", keys={"rewards": {"bad": {"judge": "answer"}}})
    refused("plugin:bad", rf"profile {folder}/profile\.yaml: rewards\.bad: there is no key 'judge' here")


def test_a_plugin_that_extends_itself_is_a_circle(site: Path) -> None:
    write_plugin(site, "round", keys={"extends": "plugin:round"})
    refused("plugin:round", r"extends: profile\.yaml → profile\.yaml leads back to itself")


def test_an_editable_package_is_found_where_python_finds_it(site: Path, tmp_path: Path) -> None:
    folder = write_plugin(site, "length")
    elsewhere = tmp_path / "sources"
    elsewhere.mkdir()
    shutil.move(folder, elsewhere / folder.name)
    (site / "length.pth").write_text(f"{elsewhere}\n")
    script = "import site, sys; site.addsitedir(sys.argv[1])\n" + LISTED_ALONE.replace("argv[1]", "argv[2]")
    done = subprocess.run(
        [sys.executable, "-c", script, str(site), "plugin:length"], capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not (elsewhere / folder.name / "ran").exists()

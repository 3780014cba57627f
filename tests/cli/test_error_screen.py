"""One way for every command to end on an error: a sentence for what is raised on purpose, the trace for a bug."""

from __future__ import annotations

import ast
import builtins
import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from sync_r1.cli.main import app
from sync_r1.cli.screen import errors_shown
from sync_r1.reward_models.errors import SyncR1Error, UserError, exit_on_error, is_deliberate
from sync_r1.services import serve
from sync_r1.trainer_client.atomic_write import append_line

ROOT = Path(__file__).parents[2]
PACKAGES = ("reward_models", "services", "trainer_client", "cli", "protos")


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)], env={"COLUMNS": "200", "NO_COLOR": "1"})


def assert_one_sentence(done: Result, *parts: str) -> None:
    assert done.exit_code == 1, done.output
    assert isinstance(done.exception, SystemExit), done.exception
    assert done.output.count("error:") == 1
    for part in parts:
        assert part in done.output


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("repository", "--out", "OUT", "--profile", "nowhere"), "there is no profile 'nowhere'"),
        (("repository", "--out", "OUT", "--reward", "beauty"), "has no reward 'beauty'"),
        (("bundle", "--out", "OUT", "--profile", "nowhere"), "there is no profile 'nowhere'"),
        (("serve", "beauty", "--triton", "127.0.0.1:9"), "has no reward 'beauty'"),
        (("serve", "aesthetic", "--triton", "127.0.0.1:9", "--limit", "beauty=1"), "limits are"),
        (("score", "beauty", "--input", "FILE", "--output", "OUT", "--up"), "has no reward 'beauty'"),
        (("compare", "a", "b", "--input", "FILE"), "names no endpoint"),
        (("capacity", "plan", "FILE", "--images", "8", "--stall", "1"), "was not written by `sync-r1 capacity"),
        (("learn-concept", "--out", "OUT"), "give either --images and --info"),
        (("train", "--set", "beauty=1"), "beauty"),
        (("report", "OUT"), "OUT"),
        (("export", "beauty", "--weights", "random"), "there is no published model 'beauty'"),
    ],
)
def test_a_deliberate_error_is_one_sentence(command: tuple[str, ...], said: str, tmp_path: Path) -> None:
    file, out = tmp_path / "rows.jsonl", tmp_path / "OUT"
    file.write_text("{}\n")
    replaced = [{"FILE": file, "OUT": out}.get(part, part) for part in command]
    assert_one_sentence(invoke(*replaced), said)


@pytest.mark.parametrize("bug", [ValueError("a bug"), RuntimeError("a bug"), KeyError("a bug"), OSError("a bug")])
def test_a_bug_keeps_its_trace(bug: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise bug

    monkeypatch.setattr("sync_r1.reward_models.profiles.load_profile", broken)
    done = invoke("bundle", "--out", tmp_path / "out")
    assert done.exception is bug
    assert "error:" not in done.output


def test_somebody_at_a_terminal_sees_the_trace_of_a_bug() -> None:
    broken = (
        "import sync_r1.reward_models.profiles as profiles\n"
        "def broken(name): raise ValueError('a bug')\n"
        "profiles.load_profile = broken\n"
        "from sync_r1.cli.main import app; app(['bundle', '--out', 'unused'])"
    )
    done = subprocess.run([sys.executable, "-c", broken], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "in broken" in done.stderr


def test_a_file_that_the_user_named_and_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    taken = tmp_path / "a-file"
    taken.write_text("")
    assert_one_sentence(invoke("repository", "--out", taken / "below", "--reward", "text-faithfulness"), str(taken))


def test_only_a_file_that_the_user_named_is_the_users(tmp_path: Path) -> None:
    with pytest.raises(OSError) as missing:
        (tmp_path / "folder" / "file").read_bytes()
    assert is_deliberate(missing.value, [tmp_path / "folder" / "file"])
    assert is_deliberate(missing.value, [tmp_path / "folder"]), "what lies below a named folder"
    assert is_deliberate(missing.value, [tmp_path / "folder" / "file" / "part"]), "a folder above a named file"
    assert not is_deliberate(missing.value, [tmp_path / "other"])
    assert not is_deliberate(missing.value)


def test_a_full_disk_is_no_bug(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, errors_shown():
        Path("/dev/full").write_text("scores")
    assert ended.value.code == 1
    out = capsys.readouterr().out
    assert "No space left on device" in out
    assert "free some space and run the command again" in out


def test_a_full_disk_names_the_file_and_the_cure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "journal.jsonl"
    log.symlink_to("/dev/full")
    with pytest.raises(SystemExit), errors_shown():
        append_line(log, "{}")
    out = capsys.readouterr().out
    assert str(log) in out
    assert "--resume" in out


def test_a_missing_permission_is_no_bug() -> None:
    assert is_deliberate(PermissionError(errno.EACCES, "Permission denied", "/graphs"))


def test_an_interrupt_and_an_exit_pass_through() -> None:
    for passing in (KeyboardInterrupt(), SystemExit(3)):
        with pytest.raises(type(passing)) as got, errors_shown():
            raise passing
        assert got.value is passing


def test_entry_points_of_modules_end_on_one_sentence_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["serve", json.dumps({"reward": 1})])
    with pytest.raises(SystemExit, match="error: the argument is no ServeConfig"):
        serve.main()
    with pytest.raises(SystemExit, match="error: said on purpose"), exit_on_error():
        raise SyncR1Error("said on purpose")
    with pytest.raises(ValueError, match="a bug"), exit_on_error():
        raise ValueError("a bug")


def test_deliberate_errors_keep_the_bases_that_callers_catch() -> None:
    assert issubclass(UserError, ValueError)


def exception_classes() -> dict[tuple[str, str], list[str]]:
    """(file, class) -> names of its bases, of every class of the packages with an exception among its ancestors."""
    found = {
        (str(file.relative_to(ROOT)), node.name): [ast.unparse(base).split(".")[-1] for base in node.bases]
        for package in PACKAGES
        for file in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ClassDef)
    }
    known = {name for name, value in vars(builtins).items() if isinstance(value, type) and issubclass(value, Exception)}
    while True:
        more = {name for (_, name), bases in found.items() if known & set(bases)} - known
        if not more:
            return {place: bases for place, bases in found.items() if known & set(bases)}
        known |= more


def test_every_exception_of_the_packages_has_the_one_base() -> None:
    classes = exception_classes()
    deliberate = {"SyncR1Error"}
    while True:
        more = {name for (_, name), bases in classes.items() if deliberate & set(bases)} - deliberate
        if not more:
            break
        deliberate |= more
    assert len(classes) > 40
    strangers = [place for place, bases in classes.items() if place[1] != "SyncR1Error" and not deliberate & set(bases)]
    assert not strangers, "derive them from SyncR1Error, beside the base that callers catch"

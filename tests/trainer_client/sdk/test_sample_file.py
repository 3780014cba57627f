"""Files of samples: what a line is, and that an odd one is one row's failure, or the file's one clear sentence."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from judge_services import png

from sync_r1.reward_models.types import Concept, FailureCode, Picture, Sample
from sync_r1.trainer_client import picture
from sync_r1.trainer_client.sdk.picture_files import PictureFiles, Unreadable
from sync_r1.trainer_client.sdk.sample_file import FileRow, SampleFile, ScoreFileError

GOOD = b'{"id": "good", "answer": "a"}\n'
EVERY_LINE_END_BUT_ONE = "\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
fixture_is_constant = settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def rows(folder: Path, content: bytes) -> list[FileRow]:
    file = folder / "in.jsonl"
    file.write_bytes(content)
    return list(SampleFile(file).rows())


def plain(value: Any) -> Any:
    """Pictures by their digest, lists as tuples."""
    if isinstance(value, list | tuple):
        return tuple(map(plain, value))
    return value.sha256 if isinstance(value, Picture) else value


@fixture_is_constant
@given(texts=st.lists(st.text(st.sampled_from(EVERY_LINE_END_BUT_ONE + 'a"\\')), min_size=1, max_size=5))
def test_only_a_line_feed_ends_a_line(texts: list[str], tmp_path: Path) -> None:
    lines = [json.dumps({"answer": text}, ensure_ascii=False) for text in texts]
    found = rows(tmp_path, b"".join(line.encode() + end for line, end in zip(lines, [b"\n", b"\r\n"] * 3)))
    assert [(one.row.answer, one.problem) for one in found] == [(text, None) for text in texts]


ODD_LINES: dict[str, tuple[bytes, str]] = {
    "Latin-1": (b'{"id": "x", "answer": "caf\xe9"}', "no UTF-8 (byte 0xe9 at column 27); save the file as UTF-8"),
    "a number as id": (b'{"id": 7}', 'id: expected a text in quotes, got 7; write "7"'),
    "no object": (b'["x"]', "Input should be an object"),
    "half a surrogate pair": (b'{"id": "x", "answer": "\\ud83d"}', "expected one JSON object"),
    "half a line": (b'{"id": "x", "ans', "expected one JSON object"),
    "two objects": (b'{"id": "x"} {"id": "y"}', "trailing characters"),
    "a byte-order mark": (b'\xef\xbb\xbf{"id": "x"}', "expected one JSON object"),
    "a wrong column": (b'{"id": "x", "imagee": "a.png"}', "imagee: there is no such field; expected some of id, group"),
    "a text for a list": (b'{"id": "x", "choices": "ab"}', 'choices: expected a list of texts in brackets, got "ab"'),
    "a list of numbers": (b'{"id": "x", "nouns": [1]}', "nouns.0: expected a text in quotes, got 1"),
    "a truth value for a number": (b'{"id": "x", "target": true}', "target: expected a whole number"),
    "a text for a number": (b'{"id": "x", "target": "1"}', 'target: expected a whole number without quotes, got "1"'),
    "null for a text": (b'{"id": "x", "prompt": null}', "prompt: expected a text in quotes, got null"),
    "a text for a concept": (b'{"id": "x", "concept": "<bo>"}', "concept: "),
    "a text for references": (b'{"id": "x", "concept": {"references": "r.png"}}', "concept.references: expected a"),
    "nested without end": (b"[" * 100_000, "recursion limit"),
    "too long": (b'{"id": "x", "answer": "' + b"a" * (17 << 20) + b'"}', "longer than 16777216 bytes"),
    "an id that stands above": (b'{"id": "good"}', "id: 'good' stands in line 1 too; ids must be unique"),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD_LINES)
def test_an_odd_line_is_one_rows_failure_that_names_file_line_and_cure(name: str, tmp_path: Path) -> None:
    line, said = ODD_LINES[name]
    good, odd, last = rows(tmp_path, GOOD + line + b"\n" + b'{"id": "last"}')
    assert (good.problem, last.problem) == (None, None)
    assert odd.problem is not None
    assert odd.problem.message.startswith(f"{tmp_path}/in.jsonl, line 2: ")
    assert said in odd.problem.message
    assert odd.row.id in ("x", "line 2")
    with pytest.raises(Unreadable) as raised:
        PictureFiles(tmp_path, max_bytes=1).to_sample(odd)
    assert raised.value.failure == odd.problem


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xef\xbb\xbf" + GOOD, "line 1 begins with a byte-order mark (BOM); save the file as UTF-8 without one"),
        (GOOD.decode().encode("utf-16"), "byte-order mark (BOM) of UTF-16; save the file as UTF-8 without one"),
        (b'{"id": "1", "answer": "caf\xe9"}\n', "none of its 1 lines is a sample; "),
        (b'{"id": 1}\n{"id": 2}\n', 'line 1: id: expected a text in quotes, got 1; write "1"'),
        (b"[\n" + GOOD[:-1] + b",\n]\n", "none of its 3 lines is a sample; "),
        (b"id,image\n1,a.png\n", "line 1: the line: expected one JSON object"),
        (png(1), "none of its"),
        (b"", "has no samples; expected one JSON object per line"),
        (b"\n \r\n", "has no samples; expected one JSON object per line"),
    ],
)
def test_a_file_in_which_nothing_can_be_scored_is_refused_in_one_sentence(
    content: bytes, said: str, tmp_path: Path
) -> None:
    with pytest.raises(ScoreFileError, match=r"in\.jsonl") as raised:
        rows(tmp_path, content)
    assert said in str(raised.value)


def test_an_input_that_cannot_be_read_twice_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, said in (("pipe", "no regular file"), (".", "no regular file"), ("nowhere", "cannot read")):
        with pytest.raises(ScoreFileError, match=said):
            SampleFile(tmp_path / path)


def test_an_input_that_changes_on_the_way_is_told(tmp_path: Path) -> None:
    file = tmp_path / "in.jsonl"
    file.write_bytes(GOOD)
    source = SampleFile(file)
    file.write_bytes(b'{"id": "new"}\n' + GOOD)
    with pytest.raises(ScoreFileError, match="changed while it was read; run the same command again"):
        list(source.rows())


@fixture_is_constant
@given(content=st.binary() | st.lists(st.sampled_from([GOOD, b'{"id":', b"\xff", b"\n", b'"', b"1}"])).map(b"".join))
def test_whatever_bytes_come_are_rows_or_one_sentence(content: bytes, tmp_path: Path) -> None:
    refusal = ""
    try:
        found = rows(tmp_path, content)
    except ScoreFileError as error:
        refusal = str(error)
    if refusal:
        assert str(tmp_path / "in.jsonl") in refusal
        return
    assert len(found) == sum(bool(line.strip()) for line in content.split(b"\n"))
    assert len({one.row.id for one in found}) == len(found)


def test_a_row_whose_id_is_lost_takes_no_other_rows_id(tmp_path: Path) -> None:
    numbered = [json.dumps({"id": str(number)}).encode() for number in range(6)]
    numbered[2] = b'{"id": "2'  # in line 3, and "3" is the id of line 4
    found = rows(tmp_path, b"\n".join(numbered))
    assert [one.row.id for one in found if one.problem is None] == ["0", "1", "3", "4", "5"]


def test_ids_stay_unique_whatever_rows_are_called(tmp_path: Path) -> None:
    found = rows(tmp_path, b'{"id": "line 2"}\n?\n{"id": "line 2"}\n{"id": "4"}\n{"id": "caf\xe9"}\n{}\n{"id": "6"}\n')
    assert [one.row.id for one in found] == ["line 2", "line 2#", "line 3", "4", "line 5", "6", "line 7"]


def test_every_field_of_a_sample_reaches_it_through_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(1))
    (tmp_path / "b.png").write_bytes(png(2))
    concept: dict[str, Any] = {
        "name": "<bo>", "class_noun": "dog", "references": ["b.png"], "info": "i", "extra_info": ["e"],
        "conversation_type": "animal",
    }  # fmt: skip
    row = {
        "id": "1", "group": "g", "image": "a.png", "prompt": "p", "concept": concept, "question": "q", "answer": "",
        "reference_answers": ["r"], "choices": ["c", "d"], "target": 1, "nouns": ["n"],
        "metadata": {"row": "1"},
    }  # fmt: skip
    (one,) = rows(tmp_path, json.dumps(row).encode())
    wanted = {**row, "image": picture(png(1)), "concept": {**concept, "references": (picture(png(2)),)}}
    sample = PictureFiles(tmp_path, max_bytes=1 << 20).to_sample(one)
    for part, expected in ((sample, wanted), (sample.concept, wanted["concept"])):
        for name, value in vars(part).items():
            if not isinstance(value, Concept):
                assert plain(value) == plain(expected[name]), name
        assert vars(part).keys() == expected.keys()
    assert isinstance(sample, Sample)


@pytest.mark.parametrize("field", ["image", "concept.references[0]"])
@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("nowhere.png", "No such file or directory"),
        (".", "no regular file"),
        ("pipe", "no regular file"),
        ("/dev/zero", "no regular file"),
        ("a\0b.png", "null byte"),
        ("a" * 5000, "File name too long"),
        ("loop", "symbolic links"),
        ("large.png", "more than 1000 bytes"),
    ],
)
def test_a_path_that_is_no_picture_file_is_one_rows_failure(field: str, path: str, said: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "large.png").write_bytes(b"\0" * 1001)
    row = {"image": path} if field == "image" else {"concept": {"references": [path]}}
    (one,) = rows(tmp_path, json.dumps(row).encode())
    with pytest.raises(Unreadable) as raised:
        PictureFiles(tmp_path, max_bytes=1000).to_sample(one)
    failure = raised.value.failure
    code = FailureCode.BAD_IMAGE if field == "image" else FailureCode.BAD_REFERENCE
    assert (failure.code, failure.field) == (code, field)
    assert said in failure.message


def test_a_picture_that_the_variant_does_not_look_at_is_not_read(tmp_path: Path) -> None:
    (one,) = rows(tmp_path, b'{"image": "nowhere.png", "concept": {"references": ["nowhere.png"]}}')
    sample = PictureFiles(tmp_path, max_bytes=1000).to_sample(one, image=False, references=False)
    assert (sample.image, sample.concept.references) == (None, ())

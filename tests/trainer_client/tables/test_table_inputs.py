"""Every kind of input gives the same rows; what is odd in one is that row's failure, which names file, row and cure."""

from __future__ import annotations

import asyncio
import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from table_runs import WHOLE, picture, pictures, rows, score, serving, value_of

from sync_r1.trainer_client import BadArgument
from sync_r1.trainer_client.sdk.sample_file import ScoreFileError
from sync_r1.trainer_client.tables import score_table
from sync_r1.trainer_client.tables.files import InputOptions
from sync_r1.trainer_client.tables.output import journal_of
from sync_r1.trainer_client.tables.rows import ColumnMap, Source
from sync_r1.trainer_client.tables.sources import open_source

COUNT = 9


def as_metadata_jsonl(folder: Path, data: dict[str, bytes]) -> Path:
    lines = [{"file_name": name, "text": f"caption of {name}"} for name in data]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def as_metadata_csv(folder: Path, data: dict[str, bytes]) -> Path:
    lines = ["file_name,text", *(f'{name},"caption of {name}"' for name in data)]
    (folder / "metadata.csv").write_text("\r\n".join(lines))
    return folder


def as_sidecars(folder: Path, data: dict[str, bytes]) -> Path:
    for name in data:
        (folder / name).with_suffix(".txt").write_text(f"caption of {name}\n")
    return folder


def as_csv(folder: Path, data: dict[str, bytes]) -> Path:
    lines = ["image;prompt;width", *(f"{name};caption of {name};8" for name in data)]
    (folder / "in.csv").write_bytes(b"\xef\xbb\xbf" + "\n".join(lines).encode())
    return folder / "in.csv"


def as_jsonl(folder: Path, data: dict[str, bytes]) -> Path:
    lines = [{"image": name, "caption": f"caption of {name}", "width": 8} for name in data]
    (folder / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / "in.jsonl"


def arrow(data: dict[str, bytes], kind: str) -> pa.Table:
    captions = [f"caption of {name}" for name in data]
    images: list[Any] = list(data)
    if kind == "bytes":
        images = list(data.values())
    elif kind == "datasets":
        images = [{"bytes": content, "path": name} for name, content in data.items()]
    return pa.table({"image": images, "text": captions, "width": [8] * len(data)})


def as_parquet_of(kind: str) -> Callable[[Path, dict[str, bytes]], Path]:
    def write(folder: Path, data: dict[str, bytes]) -> Path:
        pq.write_table(arrow(data, kind), folder / "in.parquet", row_group_size=4)
        return folder / "in.parquet"

    return write


def as_parquet_folder(folder: Path, data: dict[str, bytes]) -> Path:
    table, found = arrow(data, "datasets"), folder / "parts"
    found.mkdir()
    for number, start in enumerate(range(0, COUNT, 5)):
        pq.write_table(table.slice(start, 5), found / f"part-{number}.parquet")
    return found


def as_saved_dataset(folder: Path, data: dict[str, bytes]) -> Path:
    """What `Dataset.save_to_disk` writes."""
    table, found, files = arrow(data, "datasets"), folder / "saved", []
    found.mkdir()
    for number, start in enumerate(range(0, COUNT, 5)):
        files.append({"filename": f"data-{number:05}-of-00002.arrow"})
        with pa.ipc.new_stream(found / files[-1]["filename"], table.schema) as stream:
            stream.write_table(table.slice(start, 5))
    (found / "state.json").write_text(json.dumps({"_data_files": files, "_fingerprint": "x"}))
    (found / "dataset_info.json").write_text("{}")
    return found


def as_shards(folder: Path, data: dict[str, bytes]) -> Path:
    found = folder / "shards"
    found.mkdir()
    items = list(data.items())
    for number, start in enumerate(range(0, COUNT, 5)):
        with tarfile.open(found / f"shard-{number}.tar", "w") as shard:
            for name, content in items[start : start + 5]:
                add(shard, name, content)
                add(shard, name.replace(".png", ".txt"), f"caption of {name}".encode())
                add(shard, name.replace(".png", ".json"), b'{"width": 8}')
    return found


def as_packed_shard(folder: Path, data: dict[str, bytes]) -> Path:
    with tarfile.open(folder / "in.tar.gz", "w:gz") as shard:
        for name, content in data.items():
            add(shard, name.replace(".png", ".json"), json.dumps({"caption": f"caption of {name}"}).encode())
            add(shard, name, content)
    return folder / "in.tar.gz"


def add(shard: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    shard.addfile(member, io.BytesIO(content))


KINDS = {
    "metadata.jsonl": as_metadata_jsonl, "metadata.csv": as_metadata_csv, "sidecars": as_sidecars, "CSV": as_csv,
    "JSONL": as_jsonl, "Parquet of bytes": as_parquet_of("bytes"), "Parquet of paths": as_parquet_of("paths"),
    "Parquet of datasets": as_parquet_of("datasets"), "Parquet folder": as_parquet_folder,
    "saved data set": as_saved_dataset, "shards": as_shards, "packed shard": as_packed_shard,
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
async def test_every_kind_of_input_gives_the_same_rows(kind: str, tmp_path: Path) -> None:
    data = pictures(tmp_path / "in", COUNT)
    source, target = KINDS[kind](tmp_path / "in", data), tmp_path / "out.parquet"
    async with serving() as (service,):
        summary = await score([service], source, target)
        prompts = {sample.prompt for request in service.requests for sample in request.samples}
        asked = len(service.requests)
        await score([service], source, target)
        assert len(service.requests) == asked, "all rows were found again"
    assert prompts == {f"caption of {name}" for name in data}
    found = rows(target)
    assert (summary.rows, summary.failed_rows) == (COUNT, 0)
    assert [row["aesthetic.raw"] for row in found] == [value_of(content) for content in data.values()]
    assert [row["prompt"] for row in found] == [f"caption of {name}" for name in data]
    if kind != "Parquet of bytes":
        assert all(row["path"].endswith(name) for row, name in zip(found, data))


async def test_a_column_map_says_which_column_is_which_field(tmp_path: Path) -> None:
    data = pictures(tmp_path / "pictures", 2)
    lines = ["image,where,what,key", *(f"not this,{name},said of {name},k{n}" for n, name in enumerate(data))]
    (tmp_path / "in.csv").write_text("\n".join(lines))
    how = InputOptions(columns=("image=where,prompt=what", "id=key"), pictures=tmp_path / "pictures")
    async with serving() as services:
        await score(services, tmp_path / "in.csv", tmp_path / "out.csv", how)
        found = rows(tmp_path / "out.csv")
        assert [(row["id"], row["path"], row["prompt"]) for row in found] == [
            (f"k{number}", name, f"said of {name}") for number, name in enumerate(data)
        ]
        how = InputOptions(columns=("image=gone",))
        with pytest.raises(ScoreFileError, match=r"in.csv has no column 'gone', which --columns gives for image; it h"):
            await score(services, tmp_path / "in.csv", tmp_path / "x.csv", how)
        (tmp_path / "in.csv").write_text("picture,prompt\na.png,x\n")
        with pytest.raises(ScoreFileError, match=r"aesthetic/mean needs image, and no column of .*--columns image=COL"):
            await score(services, tmp_path / "in.csv", tmp_path / "x.csv")
    assert not (tmp_path / "x.csv").exists()
    assert not journal_of(tmp_path / "x.csv").exists()


async def test_fields_of_every_type_come_from_flat_columns(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", 1)
    lines = [
        "image,answer,target,choices,concept.name,concept.references,reference_answers",
        'a.png,yes,2,"[""one"", ""two""]",<bo>,"[""a.png""]",certainly',
    ]
    (tmp_path / "in.csv").write_text("\n".join(lines))
    async with serving(required_fields=("image", "concept.references")) as (service,):
        await score([service], tmp_path / "in.csv", tmp_path / "out.csv")
    (sample,) = service.requests[0].samples
    assert (sample.answer, sample.target, list(sample.choices)) == ("yes", 2, ["one", "two"])
    assert (sample.concept.name, len(sample.concept.references)) == ("<bo>", 1)
    assert list(sample.reference_answers) == ["certainly"]


# What is odd


async def odd_rows(source: Path, how: InputOptions = WHOLE) -> dict[str, str]:
    """Id -> reason of the rows that failed; the others are scored. (Fails unless some are.)"""
    target = source.parent / "out.parquet"
    async with serving() as services:
        await score(services, source, target, how)
    found = rows(target)
    assert any(row["aesthetic.outcome"] == "scored" for row in found)
    return {row["id"]: row["aesthetic.reason"] for row in found if row["aesthetic.outcome"] == "failed"}


async def test_odd_rows_of_a_csv_file_fail_alone(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c.png"):
        picture(tmp_path / name, ord(name[0]))
    (tmp_path.parent / "outside.png").write_bytes(b"")
    content = [
        b"id,image,prompt", b"1,a.png,fine", b"2,a.png", b"3,a.png,one,two", b"4,a.png,caf\xe9", b"1,b.png,twice",
        b"6,../outside.png,x", b"7,https://host/a.png,x", b'8,a.png,"never closed', b'9,b.png,"a ""quoted"" word"',
        b"10,gone.png,x", b"", b"11,/etc/hostname,x", b'12,c.png,"two', b'lines"', b'13,"c"x.png,x', b"14,c.png,last",
    ]  # fmt: skip
    (tmp_path / "in.csv").write_bytes(b"\n".join(content))
    odd = await odd_rows(tmp_path / "in.csv")
    expected = {
        "2": "in.csv, line 3: expected 3 cells (id, image, prompt), got 2",
        "3": "in.csv, line 4: expected 3 cells (id, image, prompt), got 4; put cells with separators in quotes",
        "4": "in.csv, line 5, column 'prompt': no UTF-8 (byte 0xe9 at character 4); save the file as UTF-8",
        "row 5": "row 5: the id '1' is that of row 1 too; give each row its own",
        "6": "in.csv, line 7, column 'image': '../outside.png' leads out of",
        "7": "in.csv, line 8, column 'image': 'https://host/a.png' is an address, and nothing is downloaded",
        "8": "in.csv, line 9: a quotation mark opens in this line and is never closed",
        "10": "gone.png: No such file",
        "11": "in.csv, line 13, column 'image': '/etc/hostname' leads out of",
        "13": "in.csv, line 16: it is no row of a CSV file",
    }
    assert dict.fromkeys(odd, True) == {
        identifier if identifier in odd else f"missing {identifier}": True for identifier in expected
    }
    for identifier, said in expected.items():
        assert said in odd[identifier]
    found = {row["id"]: row for row in rows(tmp_path / "out.parquet")}
    assert found["9"]["prompt"] == 'a "quoted" word'
    assert found["12"]["prompt"] == "two\nlines"
    assert found["14"]["aesthetic.outcome"] == "scored"


async def test_odd_rows_of_a_jsonl_file_fail_alone(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", 1)
    content = [
        b'{"image": "a.png"}', b'{"image": "a.png"', b'["a.png"]', b'{"image": 5}',
        b'{"image": "a.png", "target": "x"}',
        b'{"image": "a.png", "prompt": "caf\xe9"}', b'{"image": "a.png", "prompt": 5}',
        b'{"image": "s3://bucket/a.png"}', b'{"image": "a.png", "choices": "[1, "}',
    ]  # fmt: skip
    (tmp_path / "in.jsonl").write_bytes(b"\n".join(content))
    odd = await odd_rows(tmp_path / "in.jsonl")
    expected = ["expected one JSON object", "expected one JSON object, got ['a.png']", "expected a path or the bytes"]
    expected += ["expected a whole number, got 'x'", "no UTF-8 (byte 0xe9 at column 34)", "expected a text in quotes"]
    expected += ["is an address", "expected a list of texts as JSON"]
    assert list(odd) == [str(number) for number in range(2, 10)]
    for (identifier, said), part in zip(odd.items(), expected):
        assert f"in.jsonl, line {identifier}" in said
        assert part in said


async def test_pictures_that_are_none_fail_alone(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    picture(folder / "a.png", 1)
    (folder / "b.txt").write_bytes(b"caf\xe9")
    picture(folder / "b.png", 2)
    (folder / "folder.png").mkdir()
    (folder / "gone.png").symlink_to("nowhere.png")
    picture(folder / "sub" / "c.PNG", 3)
    lines = ['{"file_name": "d.png"}', '{"text": "of nothing"}', '{"file_name": "c.PNG", "text": "c"}']
    (folder / "sub" / "metadata.jsonl").write_text("\n".join(lines))
    picture(folder / "sub" / "unnamed.png", 4)
    odd = await odd_rows(folder)
    assert list(odd) == ["b.png", "gone.png", "sub/d.png", "sub/metadata.jsonl 2"]
    assert "b.txt is no UTF-8 (byte 0xe9); save it as UTF-8" in odd["b.png"]
    assert "names no picture; give each row a file_name" in odd["sub/metadata.jsonl 2"]
    found = {row["id"]: row["aesthetic.outcome"] for row in rows(tmp_path / "out.parquet")}
    assert {name for name, outcome in found.items() if outcome == "scored"} == {
        "a.png", "sub/c.PNG", "sub/unnamed.png",
    }  # fmt: skip


async def test_a_broken_shard_is_one_failed_row_and_the_others_are_scored(tmp_path: Path) -> None:
    data = pictures(tmp_path / "in", COUNT)
    shards = as_shards(tmp_path / "in", data)
    first = shards / "shard-0.tar"
    content = first.read_bytes()
    for broken in (content[: len(content) // 2], content[:3072] + b"\xff" * 512 + content[3584:]):
        first.write_bytes(broken)
        journal_of(shards.parent / "out.parquet").unlink(missing_ok=True)
        (shards.parent / "out.parquet").unlink(missing_ok=True)
        odd = await odd_rows(shards)
        assert list(odd) == ["shard-0.tar (rest)"]
        assert "shard-0.tar: the shard is broken behind its first" in odd["shard-0.tar (rest)"]
        scored = [row for row in rows(shards.parent / "out.parquet") if row["aesthetic.outcome"] == "scored"]
        assert len(scored) >= 4 + 1


async def test_the_part_of_a_parquet_file_that_is_broken_fails_alone(tmp_path: Path) -> None:
    data = pictures(tmp_path / "in", COUNT)
    file = as_parquet_of("bytes")(tmp_path / "in", data)
    at = pq.ParquetFile(file).metadata.row_group(1).column(0)
    content = bytearray(file.read_bytes())
    start = at.dictionary_page_offset or at.data_page_offset
    content[start : start + at.total_compressed_size] = b"\xff" * at.total_compressed_size
    file.write_bytes(content)
    odd = await odd_rows(file)
    assert list(odd) == [str(number) for number in range(5, 9)]  # of row group 2
    assert "in.parquet, row 5, column 'image': its picture cannot be read" in odd["5"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("in.csv", b"", "line 1 is empty; expected the names of the columns"),
        ("in.csv", b"\xff\xfei\0d\0", "begins with the byte-order mark (BOM) of UTF-16; save the file as UTF-8"),
        ("in.csv", b"id,id\n1,2\n", "names the column 'id' twice"),
        ("in.csv", b"image\nhttp://a/b.png\nhttp://a/c.png\n", "none of the 2 rows .* is an address, and nothing"),
        ("in.csv", b"image,prompt\n", "has no rows"),
        ("in.jsonl", b"no json\n", "none of the 1 rows of .*line 1: expected one JSON object"),
        ("in.parquet", b"PAR1 no Parquet", r"cannot read .*in.parquet: .*; make the file again"),
        ("in.tar", b"no tar", "is no tar file"),
        ("in.xlsx", b"", "has no ending that says what it is; expected a folder"),
    ],
)
async def test_an_input_that_is_none_is_refused_in_one_sentence(
    name: str, content: bytes, said: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    async with serving() as services:
        with pytest.raises(ScoreFileError, match=said.replace("(BOM)", r"\(BOM\)")):
            await score(services, tmp_path / name, tmp_path / "out.csv")
    assert os.listdir(tmp_path) == [name]


async def test_an_input_that_changes_while_it_is_read_is_no_table(tmp_path: Path) -> None:
    pictures(tmp_path / "in", 5)

    async def changes(request: Any, context: Any) -> None:
        picture(tmp_path / "in" / "000a.png", 9)

    async with serving(script=[changes]) as services:
        with pytest.raises(ScoreFileError, match="was changed while it was read; run the same command again"):
            await score(services, tmp_path / "in", tmp_path / "out.csv")
        assert not (tmp_path / "out.csv").exists()
        summary = await score(services, tmp_path / "in", tmp_path / "out.csv")
    assert summary.uses["aesthetic"].scored == 6


def test_a_source_reads_no_picture_that_is_not_wanted(tmp_path: Path) -> None:
    data = pictures(tmp_path / "in", COUNT)
    for kind in ("Parquet of bytes", "Parquet of datasets", "shards", "packed shard"):
        source: Source = open_source(KINDS[kind](tmp_path / "in", data), ColumnMap())
        for wanted, expected in ((None, 0), (lambda at: at == 3, 1), (lambda at: True, COUNT)):
            assert sum(bool(row.data) for row in source.rows(wanted)) == expected, kind


# Tables in memory


class Frame:
    """As a DataFrame of pandas or polars: it makes Arrow data of itself."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self._table.__arrow_c_stream__(requested_schema)


class Dataset:
    """As a Dataset of `datasets`, of which only some rows are selected."""

    def __init__(self, table: pa.Table) -> None:
        self.data = pa.concat_tables([table, table])
        self._table = table

    def with_format(self, kind: str) -> dict[Any, pa.Table]:
        assert kind == "arrow"
        return self

    def __getitem__(self, key: slice) -> pa.Table:
        assert key == slice(None)
        return self._table


@pytest.mark.parametrize("kind", [lambda table: table, Frame, Dataset], ids=["Arrow", "frame", "dataset"])
async def test_a_table_in_memory_is_scored_by_the_same_rules(kind: Callable[[pa.Table], Any], tmp_path: Path) -> None:
    data = pictures(tmp_path, COUNT)
    table = arrow(data, "datasets")
    odd = pa.table({"image": [{"bytes": b"", "path": None}, None], "text": ["fail", "x"], "width": [1, 1]})
    table = pa.concat_tables([table, odd.cast(table.schema)])
    async with serving("aesthetic", "text-faithfulness") as services:  # the loop goes on: it runs on a thread
        at = {service.reward: service.target for service in services}
        found = await asyncio.to_thread(score_table, at, kind(table))
    assert isinstance(found, pa.Table)
    assert found["row"].to_pylist() == list(range(1, COUNT + 3))
    assert found["aesthetic.raw"].to_pylist()[:COUNT] == [value_of(content) for content in data.values()]
    assert found["text-faithfulness.outcome"].to_pylist()[:COUNT] == ["scored"] * COUNT
    assert found["aesthetic.outcome"].to_pylist()[COUNT] == "failed"


def test_what_is_no_table_is_refused_with_what_was_expected() -> None:
    with pytest.raises(BadArgument, match=r"expected a pyarrow\.Table or what makes one"):
        score_table({"aesthetic": "127.0.0.1:9"}, 5)
    with pytest.raises(BadArgument, match="at least one reward"):
        score_table({}, pa.table({"image": ["a.png"]}))

"""Own ONNX files: what does not fit is told when the profile is read; what fits gives its own numbers."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from own_graphs import PIXELS, RED, SCORE, SIDE, TOKENS, profile_of, write_graph, write_profile
from typer.testing import CliRunner

from sync_r1.cli.main import app
from sync_r1.reward_models.backends.bundles import BundleError, write_bundle
from sync_r1.reward_models.backends.graph_store import ensure_graphs
from sync_r1.reward_models.backends.local import LocalRunner
from sync_r1.reward_models.graphs.onnx_header import NoOnnxFile, OnnxTensor, read_header
from sync_r1.reward_models.graphs.spec import GraphFileMissing, graph_store
from sync_r1.reward_models.profiles import load_profile
from sync_r1.reward_models.runner import RunContext
from sync_r1.reward_models.types import Failure, FailureCode, Outcome, Picture, ProfileError, Sample, Score

CHECKED_IN = Path(__file__).parents[2] / "reward_models" / "pocket" / "artefacts"
DTYPES = {
    getattr(TensorProto, name): str(np.dtype(helper.tensor_dtype_to_np_dtype(getattr(TensorProto, name))))
    for name in ("FLOAT", "UINT8", "INT64", "FLOAT16", "BOOL", "INT32", "DOUBLE")
}


# Reading a file


def held(value: Any) -> OnnxTensor:
    """What onnx says of an input or output."""
    kind = value.type.tensor_type
    dims = tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim)
    return OnnxTensor(DTYPES[kind.elem_type], dims if kind.HasField("shape") else None)


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8"), min_size=1, max_size=6),
        st.tuples(
            st.sampled_from(sorted(DTYPES)),
            st.none() | st.lists(st.integers(1, 2**40) | st.sampled_from(["N", None]), max_size=4),
        ),
        min_size=2,
    ),
    st.binary(max_size=300),
)
def test_what_is_read_of_a_file_is_what_onnx_reads_and_weights_are_no_inputs(
    tmp_path_factory: pytest.TempPathFactory, tensors: dict[str, tuple[int, list | None]], weights: bytes
) -> None:
    values = [helper.make_tensor_value_info(name, dtype, shape) for name, (dtype, shape) in tensors.items()]
    initializer = numpy_helper.from_array(np.frombuffer(weights, np.uint8), values[0].name)
    graph = helper.make_graph([], "g", values[:-1], values[-1:], [initializer])
    file = tmp_path_factory.mktemp("onnx") / "made.onnx"
    onnx.save(helper.make_model(graph), str(file))
    read = onnx.load(str(file)).graph
    header = read_header(file)
    assert header.inputs == {value.name: held(value) for value in read.input[1:]}
    assert header.outputs == {value.name: held(value) for value in read.output}


def test_the_graphs_at_hand_are_read_as_onnx_reads_them() -> None:
    ensure_graphs(load_profile("pocket"))
    files = [*CHECKED_IN.glob("*.onnx"), *graph_store().glob("minilm.onnx"), *graph_store().glob("efficientnet*.onnx")]
    assert len(files) == 5
    for file in files:
        read, header = onnx.load(str(file)).graph, read_header(file)
        assert header.outputs == {value.name: held(value) for value in read.output}
        names = {weight.name for weight in read.initializer}
        assert header.inputs == {value.name: held(value) for value in read.input if value.name not in names}


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_any_bytes_are_a_header_or_no_onnx_file(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("bytes")
    whole = write_graph(folder / "own.onnx").read_bytes()
    content = data.draw(
        st.binary(max_size=200)
        | st.integers(0, len(whole) - 1).map(lambda cut: whole[:cut])
        | st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 255)).map(
            lambda change: whole[: change[0]] + bytes([change[1]]) + whole[change[0] + 1 :]
        )
    )
    (folder / "other.onnx").write_bytes(content)
    try:
        header = read_header(folder / "other.onnx")
    except NoOnnxFile:
        return
    assert header.outputs


# What does not fit its file


def outside(file: Path) -> None:
    model = onnx.load(str(file))
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(2000, np.float32), "large"))
    onnx.save_model(model, str(file), save_as_external_data=True, location="weights.bin", size_threshold=100)


def gone(file: Path) -> None:
    outside(file)
    model = onnx.load(str(file))
    onnx.save_model(model, str(file), save_as_external_data=True, location="own.onnx.data", size_threshold=100)
    file.with_name("own.onnx.data").unlink()


Change = tuple[Callable[[Path], object], dict[str, Any], dict[str, Any], str]
UNFIT: dict[str, Change] = {
    "a wrong output name": (
        write_graph, {"outputs": {"scroe": SCORE["score"]}}, {"output": "scroe"},
        r"graphs\.own_net\.outputs\.scroe: .*own\.onnx has no output 'scroe'; it has 'score', 'red'",
    ),
    "a wrong input name": (
        write_graph, {"inputs": {"pixel": PIXELS["pixels"]}}, {},
        r"graphs\.own_net\.inputs\.pixel: .*own\.onnx has no input 'pixel'; it has 'pixels'",
    ),
    "an input that is not stated": (
        lambda file: write_graph(file, tokens=64), {}, {},
        r"graphs\.own_net\.inputs: .*own\.onnx takes 'tokens' too, which the profile does not state",
    ),
    "a fixed batch": (
        lambda file: write_graph(file, batch=1), {}, {},
        r"graphs\.own_net\.inputs\.pixels: the first axis is the batch .*own\.onnx fixes it to 1; export it with a dyn",
    ),
    "float pixels": (
        lambda file: write_graph(file, pixels=TensorProto.FLOAT), {}, {},
        r"graphs\.own_net\.inputs\.pixels\.dtype: expected uint8, but in .*own\.onnx it is float32; pictures come as",
    ),
    "float pixels that are stated as such": (
        lambda file: write_graph(file, pixels=TensorProto.FLOAT),
        {"inputs": {"pixels": {"dtype": "float32", "shape": [SIDE, SIDE, 3]}}}, {},
        r"rewards\.own\.variants\.net: graph 'own_net': its input 'pixels' is float32 \[8, 8, 3\]; expected one pict",
    ),
    "another type": (
        write_graph, {"outputs": {"score": {"dtype": "int64", "shape": [1]}}}, {},
        r"graphs\.own_net\.outputs\.score\.dtype: expected int64, but in .*own\.onnx it is float32; state what it is",
    ),
    "another size": (
        write_graph, {"inputs": {"pixels": {"dtype": "uint8", "shape": [9, 9, 3]}}}, {},
        r"graphs\.own_net\.inputs\.pixels\.shape: expected \[9, 9, 3\] .*own\.onnx has \[8, 8, 3\]; state what it has",
    ),
    "a score of two numbers": (
        write_graph, {"outputs": {"score": {"dtype": "float32", "shape": [2]}}}, {},
        r"graphs\.own_net\.outputs\.score\.shape: expected \[2\] .*own\.onnx has \[1\]",
    ),
    "no file": (lambda file: None, {}, {}, r"graphs\.own_net\.file: there is no file .*own\.onnx"),
    "a text": (lambda file: file.write_text("weights"), {}, {}, r"graphs\.own_net: .*own\.onnx is no ONNX file"),
    "nothing": (lambda file: file.write_text(""), {}, {}, r"graphs\.own_net: .*own\.onnx is no ONNX file"),
    "half a file": (
        lambda file: file.write_bytes(write_graph(file).read_bytes()[:300]), {}, {}, r"is no ONNX file: it is cut",
    ),
    "a folder": (lambda file: file.mkdir(), {}, {}, r"graphs\.own_net\.file: there is no file .*own\.onnx"),
    "weights elsewhere": (
        lambda file: outside(write_graph(file)), {}, {},
        r"own\.onnx keeps weights in 'weights\.bin', expected all of them in 'own\.onnx\.data'; save it again",
    ),
    "weights that are gone": (
        lambda file: gone(write_graph(file)), {}, {}, r"keeps weights in 'own\.onnx\.data', which is not beside it",
    ),
    "an unstated output": (
        write_graph, {}, {"components": ["rde"]},
        r"rewards\.own\.variants\.net: graph 'own_net' states no output 'rde'; it has 'score'",
    ),
    "tokens without a tokenizer": (
        lambda file: write_graph(file, tokens=64), {"inputs": PIXELS | TOKENS}, {},
        r"variants\.net: graph 'own_net': its tokenizer is 'none', but its input 'tokens' needs one of pocket, minilm",
    ),
    "tokens of another tokenizer": (
        lambda file: write_graph(file, tokens=64), {"inputs": PIXELS | TOKENS, "tokenizer": "minilm"}, {},
        r"its inputs beside a picture are tokens, but its tokenizer 'minilm' makes input_ids int64 \[-1\], att",
    ),
    "a pin that is none": (
        write_graph, {"sha256": "abc"}, {}, r"graphs\.own_net\.sha256: .*'abc'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", UNFIT)
def test_what_does_not_fit_its_file_is_one_sentence_with_profile_and_key_when_it_is_read(
    kind: str, tmp_path: Path
) -> None:
    write, graph, variant, message = UNFIT[kind]
    write(tmp_path / "own.onnx")
    profile = write_profile(tmp_path / "team.yaml", profile_of({"file": "own.onnx"} | graph, variant))
    with pytest.raises(ProfileError, match=message) as caught:
        load_profile(profile)
    assert str(caught.value).startswith(f"profile {profile}: ")
    assert "\n" not in str(caught.value)


def test_checked_in_graphs_are_checked_as_own_ones_are(tmp_path: Path) -> None:
    pocket = yaml.safe_load((CHECKED_IN.parents[1] / "profiles" / "pocket.yaml").read_text())
    graph = pocket["graphs"]["pocket_clip_image"]
    graph["outputs"] = {"embeding": graph["outputs"]["embedding"]}
    own = write_profile(tmp_path / "own.yaml", {"name": "own", "extends": "pocket", "graphs": {"wrong": graph}})
    with pytest.raises(ProfileError, match=r"graphs\.wrong\.outputs\.embeding: .*it has 'embedding'"):
        load_profile(own)


# Where the file is, and what a release says of it


def test_a_file_is_found_beside_the_profile_that_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    team, mine = tmp_path / "team", tmp_path / "mine"
    team.mkdir(), mine.mkdir()
    write_graph(team / "own.onnx")
    write_profile(team / "team.yaml", profile_of({"file": "own.onnx"}))
    extended = write_profile(mine / "mine.yaml", {"name": "mine", "extends": "../team/team.yaml"})
    monkeypatch.chdir(mine)
    for name in (extended, "mine.yaml", "../team/team.yaml"):
        assert load_profile(name).graphs["own_net"].file.samefile(team / "own.onnx")
    monkeypatch.chdir(tmp_path)
    relative = load_profile("team/team.yaml").graphs["own_net"]
    monkeypatch.chdir(mine)
    assert relative.sha256, "it stays where it was when the profile was read"
    absolute = write_profile(mine / "absolute.yaml", profile_of({"file": str(team / "own.onnx")}))
    assert load_profile(absolute).graphs["own_net"].file == team / "own.onnx"


def test_a_release_names_the_file_and_a_pin_holds_it(tmp_path: Path) -> None:
    file = write_graph(tmp_path / "own.onnx")
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    pinned = write_profile(tmp_path / "pinned.yaml", profile_of({"file": "own.onnx", "sha256": sha256}))
    free = write_profile(tmp_path / "free.yaml", profile_of({"file": "own.onnx"}))
    first = load_profile(pinned).rewards["own"].release("net")
    assert [pin.sha256 for pin in first.graphs] == [sha256]
    assert load_profile(free).rewards["own"].release("net") == first
    model = onnx.load(str(file))
    model.doc_string = "another"
    onnx.save(model, str(file))
    assert load_profile(free).rewards["own"].release("net").digest != first.digest
    with pytest.raises(GraphFileMissing, match=rf"graphs\.own_net\.sha256\) expects {sha256}; put that file back"):
        load_profile(pinned).rewards["own"].release("net")


def with_minilm(folder: Path) -> str:
    """A profile over a graph that counts MiniLM's tokens, and MiniLM's own tokenizer."""
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["N", "L"])
    mask = helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["N", "L"])
    score = helper.make_tensor_value_info("score", TensorProto.FLOAT, ["N", 1])
    nodes = [
        helper.make_node("Mul", ["input_ids", "attention_mask"], ["kept"]),
        helper.make_node("Greater", ["kept", "zero"], ["there"]),
        helper.make_node("Cast", ["there"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["float", "axis"], ["score"], keepdims=1),
    ]
    weights = [numpy_helper.from_array(np.array([1]), "axis"), numpy_helper.from_array(np.array(0), "zero")]
    graph = helper.make_graph(nodes, "count", [ids, mask], [score], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, str(folder / "count.onnx"))
    ensure_graphs(load_profile("pocket"), graphs=["minilm"])
    (folder / "count.tokenizer.json").write_bytes((graph_store() / "minilm.tokenizer.json").read_bytes())
    tokens = {name: {"dtype": "int64", "shape": [-1]} for name in ("attention_mask", "input_ids")}
    stated = {"file": "count.onnx", "inputs": tokens, "tokenizer": "minilm"}
    return write_profile(folder / "count.yaml", profile_of(stated, {"text": "answer"}, judges="answer"))


def test_a_tokenizer_of_its_own_is_part_of_the_release(tmp_path: Path) -> None:
    profile = with_minilm(tmp_path)
    first = load_profile(profile).rewards["own"].release("net")
    tokenizer = tmp_path / "count.tokenizer.json"
    tokenizer.write_text(tokenizer.read_text() + "\n")
    assert load_profile(profile).rewards["own"].release("net").digest != first.digest
    tokenizer.unlink()
    with pytest.raises(ProfileError, match=r"graph 'own_net': there is no tokenizer .*count\.tokenizer\.json; put"):
        load_profile(profile)


# What it scores


async def scored(profile: str, samples: list[Sample]) -> list[Outcome]:
    loaded = load_profile(profile)
    served = loaded.rewards["own"]
    with LocalRunner(loaded) as runner:
        context = RunContext(served.release("net"), time.monotonic() + 60, "own")
        return await served.variants["net"].score(samples, runner, context)


def grey(value: int) -> Picture:
    return Picture(np.full((SIDE, SIDE, 3), value, np.uint8), f"{value:064x}")


def reddish() -> Picture:
    pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
    pixels[..., 0] = 90
    return Picture(pixels, "c" * 64)


async def test_a_graph_of_pictures_gives_its_number_its_components_and_one_item_s_nan_stays_its_own(
    tmp_path: Path,
) -> None:
    write_graph(tmp_path / "own.onnx")
    graph = {"file": "own.onnx", "outputs": RED | SCORE}
    profile = write_profile(tmp_path / "team.yaml", profile_of(graph, {"components": ["red"]}))
    samples = [Sample(image=grey(7)), Sample(image=grey(0)), Sample(), Sample(image=reddish()), Sample(image=grey(9))]
    first, black, nothing, red, last = await scored(profile, samples)
    assert first == Score(7.0, {"red": 7.0})
    assert isinstance(black, Failure)
    assert (black.code, "own_net" in black.message) == (FailureCode.NON_FINITE, True)
    assert isinstance(nothing, Failure)
    assert (nothing.code, nothing.field) == (FailureCode.MISSING_FIELD, "image")
    assert red == Score(30.0, {"red": 90.0})
    assert last == Score(9.0, {"red": 9.0})


@pytest.mark.parametrize("inputs", [PIXELS | TOKENS, TOKENS | PIXELS], ids=["picture first", "text first"])
async def test_a_graph_of_picture_and_text_takes_each_by_its_shape(tmp_path: Path, inputs: dict[str, Any]) -> None:
    write_graph(tmp_path / "own.onnx", tokens=64)
    graph = {"file": "own.onnx", "inputs": dict(inputs), "tokenizer": "pocket"}
    file = tmp_path / "team.yaml"
    file.write_text(yaml.safe_dump(profile_of(graph), sort_keys=False))
    samples = [
        Sample(image=grey(5), prompt="a red cat"),
        Sample(image=grey(5), prompt="qqq"),
        Sample(image=grey(6), prompt="a cat"),
        Sample(image=grey(5), prompt=" "),
    ]
    whole, unknown, other, blank = await scored(str(file), samples)
    assert (whole, other) == (Score(5.0 + 4), Score(6.0 + 3)), "words and the end mark"
    assert isinstance(unknown, Failure)
    assert (unknown.code, unknown.field) == (FailureCode.BAD_TEXT, "prompt")
    assert isinstance(blank, Failure)
    assert (blank.code, blank.field) == (FailureCode.MISSING_FIELD, "prompt")
    assert load_profile(str(file)).rewards["own"].variants["net"].card.required_fields == ("image", "prompt")


async def test_a_graph_of_answers_reads_the_field_that_the_variant_names(tmp_path: Path) -> None:
    profile = with_minilm(tmp_path)
    long = "word " * 200
    samples = [Sample(answer="a red cat", prompt="one two three four five"), Sample(answer=long), Sample(answer="cat")]
    first, refused, last = await scored(profile, samples)
    assert (first, last) == (Score(5.0), Score(3.0)), "with the marks of beginning and end"
    assert isinstance(refused, Failure)
    assert (refused.code, refused.field) == (FailureCode.BAD_TEXT, "answer")
    assert "the limit is 128" in refused.message
    assert load_profile(profile).rewards["own"].variants["net"].card.required_fields == ("answer",)


# How it reaches a cluster


def test_a_bundle_brings_own_files_to_where_only_the_profile_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_minilm(tmp_path)
    (tmp_path / "count.notes").write_text("no part of the graph")
    before = load_profile(str(tmp_path / "count.yaml"))
    digest = write_bundle([replace(before, graphs={"own_net": before.graphs["own_net"]})], tmp_path / "bundle")
    monkeypatch.setenv("SYNC_R1_GRAPHS", str(tmp_path / "store"))
    (tmp_path / "pod").mkdir()
    pod = str(shutil.copy(tmp_path / "count.yaml", tmp_path / "pod"))
    with pytest.raises(ProfileError, match=r"graphs\.own_net\.file: there is no file"):
        load_profile(pod)
    done = CliRunner().invoke(
        app,
        ["repository", "--profile", pod, "--reward", "own", "--backend", "python", "--out", str(tmp_path / "models"),
         "--bundle", str(tmp_path / "bundle"), "--digest", digest],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert (tmp_path / "models" / "own_net" / "config.pbtxt").is_file()
    assert {file.name for file in (tmp_path / "store").iterdir()} == {"count.onnx", "count.tokenizer.json"}
    assert load_profile(pod).rewards["own"].release("net") == before.rewards["own"].release("net")


def test_two_files_of_one_name_are_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    write_graph(tmp_path / "own.onnx"), write_graph(tmp_path / "other" / "own.onnx", tokens=64)
    file = profile_of({"file": "own.onnx"})
    graph = {"file": "other/own.onnx", "inputs": PIXELS | TOKENS, "tokenizer": "pocket"}
    file["graphs"]["other_net"] = file["graphs"]["own_net"] | graph
    file["rewards"]["own"]["variants"]["other"] = file["rewards"]["own"]["variants"]["net"] | {"graph": "other_net"}
    loaded = load_profile(write_profile(tmp_path / "team.yaml", file))
    own = {name: graph for name, graph in loaded.graphs.items() if graph.own}
    with pytest.raises(BundleError, match=r"own\.onnx has the name of another graph's file.*rename it"):
        write_bundle([replace(loaded, graphs=own)], tmp_path / "bundle")

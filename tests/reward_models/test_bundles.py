"""Bundles bring a pod exactly the graph files that their digest names, or an error that says what is wrong."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sync_r1.reward_models.backends.bundles import BundleError, blob_name, write_bundle
from sync_r1.reward_models.graphs.spec import pin_path
from sync_r1.reward_models.profiles import Profile, load_profile
from sync_r1.services import bundle_source
from sync_r1.services.bundle_source import fetch_bundle

GRAPHS = ["efficientnet_lite2", "minilm"]
WEIGHTS = b"nobody reads these as a graph here: "


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty graph store."""
    monkeypatch.setenv("SYNC_R1_GRAPHS", str(tmp_path / "store"))
    return tmp_path / "store"


def write_graph(file: Path, data: bytes) -> None:
    """A graph's file as an export leaves it, with its pin."""
    file.write_bytes(data)
    pin_path(file).write_text(json.dumps({"sha256": hashlib.sha256(data).hexdigest()}))


@pytest.fixture
def bundle(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, str]:
    """A bundle of two small graphs (`pocket`'s own are 110 MB), and its digest; the store is empty again."""
    monkeypatch.setenv("SYNC_R1_GRAPHS", str(tmp_path / "made"))
    (tmp_path / "made").mkdir()
    for name in GRAPHS:
        write_graph(tmp_path / "made" / f"{name}.onnx", WEIGHTS + name.encode())
        (tmp_path / "made" / f"{name}.lock").touch()
    (tmp_path / "made" / "minilm.tokenizer.json").write_text("{}")
    digest = write_bundle([load_profile("pocket")], tmp_path / "bundle")
    monkeypatch.setenv("SYNC_R1_GRAPHS", str(store))
    return tmp_path / "bundle", digest


@pytest.fixture
def profile(store: Path) -> Profile:
    return load_profile("pocket")


@pytest.fixture
def web(bundle: tuple[Path, str]) -> Iterator[str]:
    """A plain web server over the bundle, as an object store shows it."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(bundle[0]))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join(10)
    server.server_close()


def test_the_files_of_the_wanted_graphs_arrive_and_no_others(
    bundle: tuple[Path, str], profile: Profile, store: Path
) -> None:
    fetch_bundle(str(bundle[0]), bundle[1], [profile], graphs=["minilm", "pocket_aesthetic"])
    assert sorted(file.name for file in store.iterdir()) == [
        "minilm.onnx", "minilm.onnx.json", "minilm.tokenizer.json",
    ]  # fmt: skip
    assert profile.graphs["minilm"].sha256 == hashlib.sha256(WEIGHTS + b"minilm").hexdigest()


def test_a_web_server_will_do_and_a_second_start_fetches_nothing(
    web: str, bundle: tuple[Path, str], profile: Profile, store: Path
) -> None:
    assert fetch_bundle(web, bundle[1], [profile], graphs=GRAPHS) > 0
    assert sorted(file.name for file in store.iterdir())[0] == "efficientnet_lite2.onnx"
    assert fetch_bundle(web, bundle[1], [profile], graphs=GRAPHS) == 0
    (store / "minilm.onnx").write_bytes(b"changed on the disk")
    assert fetch_bundle(web, bundle[1], [profile], graphs=GRAPHS) == len(WEIGHTS + b"minilm")


def test_two_writings_of_the_same_files_have_one_digest_and_bundles_share_a_folder(
    bundle: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYNC_R1_GRAPHS", str(tmp_path / "made"))
    before = set((bundle[0] / "sha256").iterdir())
    assert write_bundle([load_profile("pocket")], bundle[0]) == bundle[1]
    write_graph(tmp_path / "made" / "minilm.onnx", b"the next version")
    assert write_bundle([load_profile("pocket")], bundle[0]) != bundle[1]
    assert len(set((bundle[0] / "sha256").iterdir()) - before) == 3  # a graph, its pin and an index


@pytest.mark.parametrize("place", ["index", "graph"])
def test_other_bytes_than_the_digest_names_are_refused_and_leave_no_file(
    place: str, bundle: tuple[Path, str], profile: Profile, store: Path
) -> None:
    folder, digest = bundle
    sha256 = hashlib.sha256(WEIGHTS + b"minilm").hexdigest()
    blob = folder / blob_name(digest.removeprefix("sha256:") if place == "index" else sha256)
    text = bytearray(blob.read_bytes())
    text[len(text) // 2] ^= 1
    blob.write_bytes(bytes(text))
    with pytest.raises(BundleError, match="its bytes are sha256"):
        fetch_bundle(str(folder), digest, [profile], graphs=["minilm"])
    assert not (store / "minilm.onnx").exists()
    assert not list(store.glob(".*draft"))


def test_a_blob_that_grew_is_given_up_at_the_size_its_bundle_states(
    bundle: tuple[Path, str], profile: Profile, store: Path
) -> None:
    blob = bundle[0] / blob_name(hashlib.sha256(WEIGHTS + b"minilm").hexdigest())
    blob.write_bytes(blob.read_bytes() + bytes(5 << 20))
    with pytest.raises(BundleError, match="larger than"):
        fetch_bundle(str(bundle[0]), bundle[1], [profile], graphs=["minilm"])


@pytest.mark.parametrize("digest", ["", "unset", "sha256:abc", "sha256:" + "Z" * 64, "9" * 64])
def test_a_digest_that_was_not_filled_in_says_how_to_get_one(
    digest: str, bundle: tuple[Path, str], profile: Profile
) -> None:
    with pytest.raises(BundleError, match="`sync-r1 bundle --out DIR` prints it"):
        fetch_bundle(str(bundle[0]), digest, [profile], graphs=["minilm"])


def test_a_bundle_that_is_not_there_or_lacks_a_graph_is_named(
    web: str, bundle: tuple[Path, str], profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BundleError, match="404"):
        fetch_bundle(web, f"sha256:{'0' * 64}", [profile], graphs=["minilm"])
    with pytest.raises(BundleError, match="cannot be had"):
        fetch_bundle(str(tmp_path / "nowhere"), bundle[1], [profile], graphs=["minilm"])
    empty = write_bundle([Profile("none", {}, {})], bundle[0])
    with pytest.raises(BundleError, match="has no graph minilm"):
        fetch_bundle(web, empty, [profile], graphs=["minilm"])


def test_a_source_that_does_not_answer_at_first_is_asked_again(
    bundle: tuple[Path, str], profile: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    class Hesitant(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            if len(asked) < 3:
                self.send_error(503)
            else:
                super().do_GET()

    monkeypatch.setattr(bundle_source.time, "sleep", lambda seconds: None)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Hesitant, directory=str(bundle[0])))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        source = f"http://127.0.0.1:{server.server_address[1]}"
        assert fetch_bundle(source, bundle[1], [profile], graphs=["minilm"]) > 0
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()
    assert asked[0] == asked[2]


def test_a_token_is_never_sent_in_plain_text(
    web: str, bundle: tuple[Path, str], profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text("secret")
    monkeypatch.setenv("SYNC_R1_BUNDLE_TOKEN_FILE", str(tmp_path / "token"))
    with pytest.raises(BundleError, match="not https"):
        fetch_bundle(web, bundle[1], [profile], graphs=["minilm"])

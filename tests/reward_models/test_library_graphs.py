"""Library graphs give what their libraries give, and their archives pin what decides the numbers."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import real_faces
from PIL import Image

from sync_r1.reward_models.backends.graph_store import ensure_graphs
from sync_r1.reward_models.backends.repository import write_repository
from sync_r1.reward_models.library import archive
from sync_r1.reward_models.library.archive import ArchiveError
from sync_r1.reward_models.library.catalogue import LIBRARY_GRAPHS, Engine, load, pack
from sync_r1.reward_models.profiles import load_profile

ASTRONAUT = real_faces.photo("astronaut.png")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Engine]:
    folder = tmp_path_factory.mktemp("archives")
    made: dict[str, Engine] = {}

    def get(name: str) -> Engine:
        if name not in made:
            pack(name, folder / f"{name}.zip")
            made[name] = load(name, folder / f"{name}.zip", 1)
        return made[name]

    return get


def outputs(engine: Engine, name: str, *pictures: np.ndarray) -> dict[str, np.ndarray]:
    found = engine({"pixels": np.stack(pictures)})
    return {tensor.name: array for tensor, array in zip(LIBRARY_GRAPHS[name].outputs, found)}


@pytest.mark.parametrize("name", LIBRARY_GRAPHS)
def test_every_output_is_of_the_catalogues_type_and_shape_whatever_the_size(
    name: str, engine: Callable[[str], Engine]
) -> None:
    for height, width in ((1, 1), (3, 200), (16, 16), (64, 90)):
        noise = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), dtype=np.uint8)
        for tensor, array in zip(LIBRARY_GRAPHS[name].outputs, engine(name)({"pixels": noise})):
            tensor.check(array, name)
            assert len(array) == 2


def test_brisque_equals_its_package_and_knows_no_value_of_one_colour(engine: Callable[[str], Engine]) -> None:
    from brisque import BRISQUE

    original = BRISQUE(url=False)
    scale = original.scale_features
    original.scale_features = lambda features: scale([np.asarray(feature).item() for feature in features])
    noisy = np.clip(ASTRONAUT + np.random.default_rng(0).normal(0, 30, ASTRONAUT.shape), 0, 255).astype(np.uint8)
    flat = np.full_like(ASTRONAUT, 90)
    clean_score, noisy_score, flat_score = outputs(engine("brisque"), "brisque", ASTRONAUT, noisy, flat)["score"][:, 0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert clean_score == pytest.approx(original.score(ASTRONAUT), abs=1e-4)
        assert noisy_score == pytest.approx(original.score(noisy), abs=1e-4)
    assert clean_score + 10 < noisy_score
    assert np.isnan(flat_score)


def test_dlib_equals_the_calls_that_face_recognition_makes(engine: Callable[[str], Engine]) -> None:
    import dlib
    from face_recognition_files import DESCRIPTOR, LANDMARKS

    face = dlib.get_frontal_face_detector()(ASTRONAUT, 1)[0]
    shape = dlib.shape_predictor(str(LANDMARKS))(ASTRONAUT, face)
    expected = np.array(dlib.face_recognition_model_v1(str(DESCRIPTOR)).compute_face_descriptor(ASTRONAUT, shape, 1))
    found = outputs(engine("dlib_face"), "dlib_face", ASTRONAUT, np.zeros_like(ASTRONAUT))
    assert found["found"][:, 0].tolist() == [1, 0]
    assert found["box"][0].tolist() == [face.left(), face.top(), face.right(), face.bottom()]
    assert np.abs(found["embedding"][0] - expected).max() < 1e-5
    mutant = np.ascontiguousarray(ASTRONAUT[..., ::-1])
    wrong = outputs(engine("dlib_face"), "dlib_face", mutant)["embedding"][0]
    assert np.linalg.norm(wrong - expected) > 0.05, "a mutant in BGR is another face"


def test_mtcnn_crops_the_face_that_facenet_pytorch_crops(engine: Callable[[str], Engine]) -> None:
    from facenet_pytorch import MTCNN

    small, black, body = ASTRONAUT[::2, ::2], np.zeros((256, 64, 3), np.uint8), ASTRONAUT[128:384, 128:384]
    beside = np.concatenate([small, black, body], axis=1)
    for pixels in (ASTRONAUT, beside, real_faces.photo("coffee.png")):
        original = MTCNN(image_size=160, margin=32, min_face_size=20, thresholds=[0.6, 0.7, 0.7], factor=0.709)
        expected = original(Image.fromarray(pixels))
        boxes, _ = original.detect(Image.fromarray(pixels))
        found = outputs(engine("mtcnn"), "mtcnn", pixels)
        assert bool(found["found"][0, 0]) == (expected is not None)
        if expected is None:
            continue
        assert np.abs(found["box"][0] - boxes[0]).max() < 1e-3
        normalised = (found["face160"][0].astype(np.float32).transpose(2, 0, 1) - 127.5) / 128
        assert np.abs(normalised - expected.numpy()).max() < 1e-6
        without_margin = MTCNN(image_size=160, margin=0)(Image.fromarray(pixels))
        assert np.abs(without_margin.numpy() - expected.numpy()).max() > 0.1, "a mutant must be seen"


def test_arcface_gets_faces_upright_with_the_eyes_where_it_wants_them(engine: Callable[[str], Engine]) -> None:
    from sync_r1.reward_models.library.mtcnn import ARCFACE_POINTS

    tilted = real_faces.rotated(ASTRONAUT, 20)
    found = outputs(engine("mtcnn"), "mtcnn", ASTRONAUT, tilted)
    assert found["found"][:, 0].tolist() == [1, 1]
    difference = np.abs(found["face112"][0].astype(int) - found["face112"][1].astype(int)).mean()
    cropped = [np.asarray(Image.fromarray(face).resize((112, 112))).astype(int) for face in found["face160"]]
    assert difference < 12, "the same face, however the head is held"
    assert np.abs(cropped[0] - cropped[1]).mean() > 2 * difference, "a crop alone would not do it"
    # Eyes lie where ArcFace's training had them; noses and mouths as far off as this face is from the mean one.
    large = np.asarray(Image.fromarray(found["face112"][0]).resize((336, 336)))
    again = outputs(engine("mtcnn"), "mtcnn", large)["landmarks"][0] / 3
    assert np.abs(again - np.array(ARCFACE_POINTS))[:2].max() < 6
    assert np.abs(again - np.array(ARCFACE_POINTS))[2:].max() < 14


def test_the_alignment_is_the_one_that_insightface_computes() -> None:
    from skimage.transform import estimate_transform

    from sync_r1.reward_models.library.mtcnn import ARCFACE_POINTS, alignment

    rng = np.random.default_rng(0)
    for _ in range(20):
        points = np.array(ARCFACE_POINTS) * rng.uniform(0.5, 4) + rng.normal(0, 6, (5, 2)) + rng.uniform(0, 300, 2)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = estimate_transform("similarity", points, np.array(ARCFACE_POINTS)).params[:2]
        assert np.abs(alignment(points) - expected).max() < 1e-6
    assert np.isfinite(alignment(np.ones((5, 2)))).all(), "points that coincide"


def test_ocr_reads_what_is_written_line_by_line(engine: Callable[[str], Engine]) -> None:
    from sync_r1.reward_models.rewards.rendered_text import text_of

    sign, black = real_faces.written("Open 24 hours"), np.zeros((512, 512, 3), np.uint8)
    found = outputs(engine("rapidocr"), "rapidocr", sign, black)
    texts = [text_of({name: array[row] for name, array in found.items()}) for row in (0, 1)]
    assert texts[0].replace(" ", "") == "Open24hours\n"
    assert texts[1] == ""
    assert found["confidence"][0, 0] > 0.9


def test_an_archive_is_the_same_whenever_it_is_made(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        pack("brisque", tmp_path / folder / "brisque.zip")
    assert (tmp_path / "a" / "brisque.zip").read_bytes() == (tmp_path / "b" / "brisque.zip").read_bytes()
    assert (tmp_path / "a" / "brisque.zip.json").read_text() == (tmp_path / "b" / "brisque.zip.json").read_text()


def test_no_archive_holds_a_pickle(tmp_path: Path) -> None:
    for name in ("brisque", "mtcnn"):
        pack(name, tmp_path / f"{name}.zip")
        with zipfile.ZipFile(tmp_path / f"{name}.zip") as archive:
            for member in archive.namelist():
                assert member.endswith((".json", ".txt", ".safetensors")), member


def test_another_version_of_the_library_is_refused_with_both_and_the_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "brisque.zip"
    pack("brisque", file)
    monkeypatch.setattr(archive.importlib.metadata, "version", lambda name: "9.9")
    with pytest.raises(ArchiveError, match=r"zip was made for brisque 0\.2\.0.*is brisque 9\.9.*export again"):
        load("brisque", file, 1)


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[: len(data) // 2], lambda data: b"PK" + data])
def test_a_damaged_archive_is_named_with_the_cure(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    file = tmp_path / "brisque.zip"
    pack("brisque", file)
    file.write_bytes(damage(file.read_bytes())[:-3])
    with pytest.raises(ArchiveError, match=r"brisque\.zip is no library graph .*delete it and export again"):
        load("brisque", file, 1)


def test_a_repository_for_any_triton_runs_libraries_in_the_python_backend_on_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYNC_R1_GRAPHS", str(tmp_path / "store"))
    profile = load_profile("scorers")
    ensure_graphs(profile, graphs=("brisque",))
    write_repository(profile, tmp_path / "models", backend="onnxruntime", graphs=("brisque",), device="gpu")
    folder = tmp_path / "models" / "brisque"
    version = str(profile.graphs["brisque"].pin.triton_version)
    assert sorted(file.name for file in (folder / version).iterdir()) == ["model.py", "model.zip"]
    config = (folder / "config.pbtxt").read_text()
    for line in ('backend: "python"', "kind: KIND_CPU", 'key: "library" value { string_value: "brisque" }'):
        assert line in config
    assert "max_queue_size" in config, "a shared Triton's queue is bounded"

"""FaceNet equals facenet-pytorch from picture to cosine; ArcFace's graph equals the user's file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import real_faces
import torch
from PIL import Image

from sync_r1.reward_models.library import catalogue
from sync_r1.reward_models.published import arcface, convert
from sync_r1.reward_models.published.catalogue import MODELS
from sync_r1.reward_models.published.weights import WeightsError
from sync_r1.reward_models.releases import file_sha256


@pytest.fixture(scope="module")
def astronaut_faces(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """What the served detector cuts out of three pictures of one face."""
    file = tmp_path_factory.mktemp("mtcnn") / "mtcnn.zip"
    catalogue.pack("mtcnn", file)
    pixels = real_faces.photo("astronaut.png")
    pictures = np.stack([pixels, real_faces.brighter(pixels), real_faces.rotated(pixels, 10)])
    found = catalogue.load("mtcnn", file, 1)({"pixels": pictures})
    return {tensor.name: array for tensor, array in zip(catalogue.LIBRARY_GRAPHS["mtcnn"].outputs, found)} | {
        "pixels": pictures
    }


@pytest.mark.slow  # InceptionResnetV1 is exported at full size
def test_facenet_equals_its_original_from_picture_to_cosine(
    astronaut_faces: dict[str, np.ndarray], tmp_path: Path
) -> None:
    from facenet_pytorch import MTCNN

    (exported,) = convert.export_model(MODELS["facenet"], ["random"], tmp_path)
    original = convert.load_model(MODELS["facenet"], ["random"])[0]
    mtcnn = MTCNN(image_size=160, margin=32, min_face_size=20)
    faces = torch.stack([mtcnn(Image.fromarray(pixels)) for pixels in astronaut_faces["pixels"]])
    with torch.no_grad():
        expected = original(faces).numpy()
    session = onnxruntime.InferenceSession(str(exported.file), providers=["CPUExecutionProvider"])
    got = session.run(["embedding"], {"pixels": astronaut_faces["face160"]})[0]
    assert np.abs(got - expected).max() <= 1e-4
    assert np.abs(got @ got.T - expected @ expected.T).max() <= 1e-4
    normalised = (astronaut_faces["face160"].astype(np.float32).transpose(0, 3, 1, 2) - 127.5) / 128
    assert np.abs(normalised - faces.numpy()).max() <= 1e-6
    for wrong in (normalised[:, ::-1], normalised * 128 / 255, normalised + 0.5 / 128):
        with torch.no_grad():
            other = original(torch.from_numpy(np.ascontiguousarray(wrong))).numpy()
        assert np.abs(wrong - faces.numpy()).max() > 1e-3
        assert other.shape == expected.shape


def test_arcface_is_the_users_file_behind_insightfaces_normalisation(
    astronaut_faces: dict[str, np.ndarray], tmp_path: Path
) -> None:
    import cv2

    folder = tmp_path / "antelopev2"
    folder.mkdir()
    arcface.random_network(folder / "glintr100.onnx")
    (exported,) = convert.export_model(
        MODELS["arcface"], [str(folder)], tmp_path / "out", sha256=[file_sha256(folder / "glintr100.onnx").upper()]
    )
    assert exported.weights_sha256 == file_sha256(folder / "glintr100.onnx")
    original = onnxruntime.InferenceSession(str(folder / "glintr100.onnx"), providers=["CPUExecutionProvider"])
    # insightface's ArcFaceONNX.get_feat: pictures come in BGR.
    bgr = [np.ascontiguousarray(face[..., ::-1]) for face in astronaut_faces["face112"]]
    blob = cv2.dnn.blobFromImages(bgr, 1 / 127.5, (112, 112), (127.5, 127.5, 127.5), swapRB=True)
    expected = original.run(None, {"input.1": blob})[0]
    session = onnxruntime.InferenceSession(str(exported.file), providers=["CPUExecutionProvider"])
    got = session.run(["embedding"], {"pixels": astronaut_faces["face112"]})[0]
    scale = np.abs(expected).max()
    assert np.abs(got - expected).max() <= 1e-4 * scale
    for mutant in (astronaut_faces["face112"][..., ::-1], astronaut_faces["face160"][:, 24:136, 24:136]):
        wrong = session.run(["embedding"], {"pixels": np.ascontiguousarray(mutant)})[0]
        assert np.abs(wrong - expected).max() > 1e-2 * scale


def _detector(file: Path) -> None:
    arcface.random_network(file)
    model = onnx.load(str(file))
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 640
    model.graph.input[0].type.tensor_type.shape.dim[3].dim_value = 640
    onnx.save(model, str(file))


def _cut_off(file: Path) -> None:
    arcface.random_network(file)
    file.write_bytes(file.read_bytes()[:1000])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_detector, r"glintr100\.onnx is no network of aligned faces: expected float \(N, 3, 112, 112\).*640"),
        (_cut_off, r"glintr100\.onnx is no ONNX model, or is cut off"),
        (lambda file: file.write_bytes(b""), r"glintr100\.onnx is no"),
        (lambda file: None, r"should hold glintr100\.onnx, its ONNX files are: none"),
    ],
)
def test_what_is_no_face_network_is_one_line_with_the_file_and_the_cure(
    tmp_path: Path, make: Callable[[Path], object], message: str
) -> None:
    make(tmp_path / "glintr100.onnx")
    with pytest.raises(WeightsError, match=message) as caught:
        convert.export_model(MODELS["arcface"], [str(tmp_path)], tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_arcface_is_never_fetched_and_a_wrong_digest_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="not fetched for you"):
        convert.export_model(MODELS["arcface"], ["deepinsight/antelopev2"], tmp_path)
    arcface.random_network(tmp_path / "glintr100.onnx")
    with pytest.raises(WeightsError, match=r"has sha256 .* expected 00"):
        convert.export_model(MODELS["arcface"], [str(tmp_path)], tmp_path / "out", sha256=["0" * 64])
    with pytest.raises(WeightsError, match="one ONNX file in fp32"):
        convert.export_model(MODELS["arcface"], ["random"], tmp_path / "out", engine="torch")

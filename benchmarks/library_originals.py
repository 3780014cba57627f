"""The rewards over faces, text in pictures and distortion as their original libraries compute them, on real pictures.

Detectors and readers have their real weights, from packages; FaceNet, CLIP and ArcFace have random ones, the same on
both sides. Compared with our variants by `benchmarks.fidelity`.
"""

from __future__ import annotations

import importlib.util
import io
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from benchmarks.originals import Item, clip_inputs, opened

GLINTR100 = "glintr100.onnx"
"""Below the folder of what was prepared: `iresnet.py` writes it."""
_Face = npt.NDArray[Any] | None
_SIGNS = ("Open 24 hours", "bakery market", "Closed", "Garden of Eden", "platform 9", "mind the gap")


@dataclass(frozen=True)
class LibraryOriginal:
    """How the original of a variant scores items: (items, the folder of what was prepared) -> scores."""

    library: str
    scores: Callable[[Sequence[Item], Path], list[float]]
    items: Callable[[], list[Item]]
    """What both sides are asked about."""
    note: str = ""


def photographs() -> list[Item]:
    """One face in changing light, turn and size, and a picture without a face; from scikit-image."""
    face, other = (Image.open(_package("skimage") / "data" / name) for name in ("astronaut.png", "coffee.png"))
    face, other = face.convert("RGB"), other.convert("RGB")
    noise = np.random.default_rng(0).normal(0, 20, (face.height, face.width, 3))
    pictures = [
        face.point(lambda value: min(255, value * 5 // 4 + 10)),
        face.rotate(10, Image.Resampling.BICUBIC),
        face.resize((301, 317), Image.Resampling.BICUBIC),
        face.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        Image.fromarray(np.clip(np.asarray(face) + noise, 0, 255).astype(np.uint8)),
        other,
    ]
    references = _png(face), _png(pictures[1])
    return [Item(_png(picture), references, "", ()) for picture in pictures]


def signs() -> list[Item]:
    """Signs with the text that the prompt quotes, with one letter changed, or with another text."""
    items = []
    for number, text in enumerate(_SIGNS):
        sign = Image.new("RGB", (512, 384), (240, 235, 220))
        font = ImageFont.load_default(32 + 4 * number)
        ImageDraw.Draw(sign).text((30, 60 + 40 * number), text, fill=(20, 20, 60), font=font)
        wanted = (text, text[:-1] + "x", _SIGNS[number - 1])[number % 3]
        items.append(Item(_png(sign), (), f'a sign that says "{wanted}"', ()))
    return items


def _dlib_face(items: Sequence[Item], work: Path) -> list[float]:
    """face_recognition 1.3's `face_encodings` and `face_distance` (the package itself needs a compiler)."""
    encode = _face_recognition()
    return [_over_references(item, encode, _closeness, lambda found: found) for item in items]


def _sync_r1(items: Sequence[Item], work: Path) -> list[float]:
    """The release's `utils.py`: 0.7 FaceNet + 0.3 dlib, each ramped, or CLIP where no face is found."""
    import torch
    from facenet_pytorch import MTCNN

    from sync_r1.reward_models.published import convert
    from sync_r1.reward_models.published.catalogue import MODELS

    clip, network = MODELS["clip_vit_b_32"], convert.load_model(MODELS["clip_vit_b_32"], [convert.RANDOM])[0]
    facenet = convert.load_model(MODELS["facenet"], [convert.RANDOM])[0]
    mtcnn = MTCNN(image_size=160, margin=32, min_face_size=20, thresholds=[0.6, 0.7, 0.7], factor=0.709)
    by_dlib = _face_recognition()

    def by_facenet(data: bytes) -> _Face:
        face = mtcnn(opened(data))
        return None if face is None else facenet(face[None])[0].numpy()

    def by_clip(data: bytes) -> _Face:
        return network.clip.encode_image(clip_inputs(clip, 224, [data]), normalize=True)[0].numpy()

    def score(item: Item) -> float:
        parts = [(0.7, by_facenet, _cosine), (0.3, by_dlib, _closeness)]
        found = [(weight, _over_references(item, *how, _ramp)) for weight, *how in parts]
        seen = [(weight, value) for weight, value in found if not np.isnan(value)]
        if not seen:
            return float(_ramp(_over_references(item, by_clip, _cosine, lambda cosine: cosine)))
        return sum(weight * value for weight, value in seen) / sum(weight for weight, _ in seen)

    with torch.inference_mode():
        return [score(item) for item in items]


def _arcface(items: Sequence[Item], work: Path) -> list[float]:
    """insightface's `norm_crop` and `get_feat` on the user's file; the points are facenet-pytorch's."""
    import cv2
    import onnxruntime
    from facenet_pytorch import MTCNN
    from skimage.transform import estimate_transform

    from sync_r1.reward_models.library.mtcnn import ARCFACE_POINTS

    mtcnn = MTCNN(min_face_size=20, thresholds=[0.6, 0.7, 0.7], factor=0.709)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(work / GLINTR100), options, providers=["CPUExecutionProvider"])

    def encode(data: bytes) -> _Face:
        picture = opened(data)
        _, _, points = mtcnn.detect(picture, landmarks=True)
        if points is None:
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            matrix = estimate_transform("similarity", np.asarray(points[0], float), np.array(ARCFACE_POINTS)).params[:2]
        bgr = cv2.warpAffine(np.asarray(picture)[..., ::-1], matrix, (112, 112), borderValue=0.0)
        blob = cv2.dnn.blobFromImages([bgr], 1 / 127.5, (112, 112), (127.5, 127.5, 127.5), swapRB=True)
        return np.asarray(session.run(None, {"input.1": blob})[0][0])

    return [_over_references(item, encode, _cosine, lambda found: found) for item in items]


def _ocr(items: Sequence[Item], work: Path) -> list[float]:
    """Flow-GRPO's `ocr.py` around the package's own reader, told to turn and drop no line, as Flow-GRPO tells its."""
    from nltk.metrics import edit_distance
    from rapidocr import RapidOCR

    reader = RapidOCR(params={"Global.use_cls": False, "Global.text_score": 0.0, "Global.log_level": "critical"})
    scores = []
    for item in items:
        lines = reader(item.image).txts or ()
        read, wanted = ("".join(text.split()).lower() for text in ("".join(lines), item.prompt.split('"')[1]))
        distance = 0 if wanted in read else min(edit_distance(read, wanted), len(wanted))
        scores.append(1 - distance / len(wanted))
    return scores


def _technical(items: Sequence[Item], work: Path) -> list[float]:
    """The brisque package; some of its features are arrays of one element, which numpy 2 takes for no number."""
    from brisque import BRISQUE

    original = BRISQUE(url=False)
    scale = original.scale_features
    original.scale_features = lambda features: scale([np.asarray(feature).item() for feature in features])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rated = [original.score(np.asarray(opened(item.image))) for item in items]
    return [1 - float(np.clip(value, 0, 100)) / 100 for value in rated]


def _face_recognition() -> Callable[[bytes], _Face]:
    """`face_encodings(picture, model="small")[0]`: HOG, five landmarks, ResNet."""
    import dlib

    models = _package("face_recognition_models") / "models"
    detector = dlib.get_frontal_face_detector()
    landmarks = dlib.shape_predictor(str(models / "shape_predictor_5_face_landmarks.dat"))
    descriptor = dlib.face_recognition_model_v1(str(models / "dlib_face_recognition_resnet_model_v1.dat"))

    def encode(data: bytes) -> _Face:
        pixels = np.asarray(opened(data))
        faces = detector(pixels, 1)
        return np.array(descriptor.compute_face_descriptor(pixels, landmarks(pixels, faces[0]), 1)) if faces else None

    return encode


def _over_references(
    item: Item, encode: Callable[[bytes], _Face], likeness: Callable[..., float], then: Callable[[float], float]
) -> float:
    """Mean of the likenesses to the references' faces; NaN without a face on both sides."""
    image, *references = map(encode, (item.image, *item.references))
    likenesses = [then(likeness(image, face)) for face in references if image is not None and face is not None]
    return float(np.mean(likenesses)) if likenesses else float("nan")


def _ramp(likeness: float) -> float:
    return 0.0 if likeness < 0.5 else 2 * (likeness - 0.5)


def _cosine(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def _closeness(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> float:
    return 1 - float(np.linalg.norm(a - b))


def _png(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)  # importing face_recognition_models needs setuptools' pkg_resources
    if spec is None or spec.origin is None:
        raise SystemExit(f"{name} is not installed; install the `scorers` extra")
    return Path(spec.origin).parent


LIBRARY_ORIGINALS = {
    ("scorers", "concept-consistency", "dlib_face"): LibraryOriginal(
        "dlib, as face_recognition calls it", _dlib_face, photographs, "the calls of face_recognition 1.3, real weights"
    ),
    ("scorers", "text-faithfulness", "ocr"): LibraryOriginal(
        "rapidocr", _ocr, signs, "the package's reader in Flow-GRPO's formula, real weights"
    ),
    ("scorers", "aesthetic", "technical"): LibraryOriginal("brisque", _technical, photographs, "real weights"),
    ("faces", "concept-consistency", "sync_r1"): LibraryOriginal(
        "facenet-pytorch, dlib, open_clip", _sync_r1, photographs, "random FaceNet and CLIP; MTCNN and dlib are real"
    ),
    ("arcface", "concept-consistency", "arcface"): LibraryOriginal(
        "facenet-pytorch, skimage, cv2, onnxruntime", _arcface, photographs,
        "insightface's steps from these libraries' parts, on an IResNet-100 with random weights; MTCNN is real",
    ),
}  # fmt: skip
"""(profile, reward, variant) -> its original."""

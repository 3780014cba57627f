"""Faces by dlib, with the models and the order of the `face_recognition` package, which the released Sync-R1 calls.

HOG detector on the picture at twice its size, five landmarks, ResNet descriptor of 128 numbers. Like there, the face
that the detector is surest of is *the* face.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sync_r1.reward_models.library.catalogue import Engine

_LANDMARKS, _DESCRIPTOR = "shape_predictor_5_face_landmarks.dat", "dlib_face_recognition_resnet_model_v1.dat"


def pack() -> dict[str, bytes]:
    """The two models; the HOG detector is part of dlib itself."""
    spec = importlib.util.find_spec("face_recognition_models")  # importing it needs setuptools' pkg_resources
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("face_recognition_models is not installed", name="face_recognition_models")
    models = Path(spec.origin).parent / "models"
    return {name: (models / name).read_bytes() for name in (_LANDMARKS, _DESCRIPTOR)}


def load(folder: Path, threads: int) -> Engine:
    """found (N, 1), box (N, 4), embedding (N, 128)."""
    import dlib

    detector = dlib.get_frontal_face_detector()
    landmarks = dlib.shape_predictor(str(folder / _LANDMARKS))
    descriptor = dlib.face_recognition_model_v1(str(folder / _DESCRIPTOR))

    def run(inputs: Mapping[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        count = len(inputs["pixels"])
        found_N_1, box_N_4 = np.zeros((count, 1), np.float32), np.zeros((count, 4), np.float32)
        embedding_N_D = np.zeros((count, 128), np.float32)
        for row, view in enumerate(inputs["pixels"]):
            pixels = np.ascontiguousarray(view)
            faces = detector(pixels, 1)
            if not faces:
                continue
            height, width = pixels.shape[:2]
            face = dlib.rectangle(  # face_recognition cuts boxes at the picture's edges
                max(faces[0].left(), 0), max(faces[0].top(), 0),
                min(faces[0].right(), width), min(faces[0].bottom(), height),
            )  # fmt: skip
            found_N_1[row] = 1
            box_N_4[row] = face.left(), face.top(), face.right(), face.bottom()
            embedding_N_D[row] = descriptor.compute_face_descriptor(pixels, landmarks(pixels, face), 1)
        return [found_N_1, box_N_4, embedding_N_D]

    return run

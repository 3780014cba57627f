"""The largest face by MTCNN (arXiv 1604.02878), cut out for those who embed it.

`face160` is cropped by `facenet-pytorch` with the arguments of the released Sync-R1, which finds its faces this way.
`face112` is aligned to ArcFace's five points as insightface does it (`face_align.norm_crop`).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sync_r1.reward_models.library.catalogue import Engine

_NETS = ("pnet", "rnet", "onet")
# The released Sync-R1's arguments of facenet_pytorch.MTCNN.
MIN_FACE_SIZE, THRESHOLDS, FACTOR, MARGIN = 20, [0.6, 0.7, 0.7], 0.709, 32
# Eyes, nose and corners of the mouth in ArcFace's picture of 112 x 112 (arXiv 1801.07698, as in insightface).
ARCFACE_POINTS = [(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)]


def pack() -> dict[str, bytes]:
    """The weights of the three nets as safetensors: the package's own files are pickles, read here and never again."""
    import torch
    from safetensors.torch import save

    spec = importlib.util.find_spec("facenet_pytorch")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("facenet_pytorch is not installed", name="facenet_pytorch")
    data = Path(spec.origin).parent / "data"
    archive = {}
    for net in _NETS:
        tensors = torch.load(data / f"{net}.pt", weights_only=True)
        archive[f"{net}.safetensors"] = save({name: tensor.contiguous() for name, tensor in tensors.items()})
    return archive


def load(folder: Path, threads: int) -> Engine:
    """found (N, 1), box (N, 4), landmarks (N, 5, 2), face160 (N, 160, 160, 3), face112 (N, 112, 112, 3)."""
    import cv2
    import torch
    from facenet_pytorch.models.mtcnn import ONet, PNet, RNet
    from facenet_pytorch.models.utils.detect_face import detect_face, extract_face
    from PIL import Image
    from safetensors.torch import load_file

    torch.set_num_threads(threads)
    nets = [make(pretrained=False) for make in (PNet, RNet, ONet)]
    for name, net in zip(_NETS, nets):
        net.load_state_dict(load_file(folder / f"{name}.safetensors"))

    def largest(pixels: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]] | None:
        if min(pixels.shape[:2]) < MIN_FACE_SIZE:
            return None
        with torch.inference_mode():
            boxes, points = detect_face(pixels, MIN_FACE_SIZE, *nets, THRESHOLDS, FACTOR, torch.device("cpu"))
        if len(boxes[0]) == 0:
            return None
        areas = (boxes[0][:, 2] - boxes[0][:, 0]) * (boxes[0][:, 3] - boxes[0][:, 1])
        best = int(np.argmax(areas))
        return boxes[0][best, :4].astype(np.float32), points[0][best].astype(np.float32)

    def aligned(pixels: npt.NDArray[np.uint8], points_5_2: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
        return np.asarray(cv2.warpAffine(pixels, alignment(points_5_2), (112, 112), borderValue=0.0), np.uint8)

    def run(inputs: Mapping[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        count = len(inputs["pixels"])
        found_N_1, box_N_4 = np.zeros((count, 1), np.float32), np.zeros((count, 4), np.float32)
        landmarks_N_5_2 = np.zeros((count, 5, 2), np.float32)
        face160_N, face112_N = np.zeros((count, 160, 160, 3), np.uint8), np.zeros((count, 112, 112, 3), np.uint8)
        for row, view in enumerate(inputs["pixels"]):
            pixels = np.ascontiguousarray(view)
            face = largest(pixels)
            if face is not None:
                found_N_1[row] = 1
                box_N_4[row], landmarks_N_5_2[row] = face
                cropped = extract_face(Image.fromarray(pixels), face[0], 160, MARGIN)
                face160_N[row] = cropped.permute(1, 2, 0).numpy()
                face112_N[row] = aligned(pixels, face[1])
        return [found_N_1, box_N_4, landmarks_N_5_2, face160_N, face112_N]

    return run


def alignment(points_5_2: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
    """The similarity (2, 3) that brings a face's points closest to ArcFace's, by least squares: scale, turn and shift.

    The same as skimage's SimilarityTransform, which insightface uses.
    """
    x, y = points_5_2.astype(np.float64).T
    zero, one = np.zeros(5), np.ones(5)
    equations = np.concatenate([np.stack([x, -y, one, zero], axis=1), np.stack([y, x, zero, one], axis=1)])
    targets = np.array(ARCFACE_POINTS).T.reshape(10)
    (a, b, shift_x, shift_y), *_ = np.linalg.lstsq(equations, targets, rcond=None)
    return np.array([[a, -b, shift_x], [b, a, shift_y]])

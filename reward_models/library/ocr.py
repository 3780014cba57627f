"""Text in pictures by RapidOCR (PP-OCR models in ONNX, shipped in its package)."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sync_r1.reward_models.library.catalogue import Engine

_DETECTION, _RECOGNITION = "PP-OCRv6_det_small.onnx", "PP-OCRv6_rec_small.onnx"
_SMALLEST = 8
"""Pixels; no letter fits a smaller picture."""


def pack() -> dict[str, bytes]:
    """The two models that the package's defaults use."""
    spec = importlib.util.find_spec("rapidocr")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("rapidocr is not installed", name="rapidocr")
    models = Path(spec.origin).parent / "models"
    return {name: (models / name).read_bytes() for name in (_DETECTION, _RECOGNITION)}


def load(folder: Path, threads: int) -> Engine:
    """text (N, L): UTF-8 bytes of all lines, each ended by a newline, then zeros; confidence (N, 1): their mean."""
    from rapidocr import RapidOCR

    # As Flow-GRPO calls PaddleOCR: no turning of lines, and every line counts that is recognised at all.
    engine = RapidOCR(
        params={
            "Global.use_cls": False,
            "Global.text_score": 0.0,
            "Global.log_level": "critical",
            "Det.model_path": str(folder / _DETECTION),
            "Rec.model_path": str(folder / _RECOGNITION),
            "EngineConfig.onnxruntime.intra_op_num_threads": threads,
            "EngineConfig.onnxruntime.inter_op_num_threads": 1,
        }
    )
    engine(np.full((64, 64, 3), 255, np.uint8))  # it reads a model when it first needs it, and the folder goes
    engine._load_rec_model()

    def read(pixels: npt.NDArray[np.uint8]) -> tuple[bytes, float]:
        if min(pixels.shape[:2]) < _SMALLEST:
            return b"", 0.0
        found = engine(np.ascontiguousarray(pixels[:, :, ::-1]))  # it takes arrays for OpenCV's: BGR
        lines = [line for line, score in zip(found.txts or (), found.scores or ()) if score > 0]
        return "".join(f"{line}\n" for line in lines).encode(), float(np.mean(found.scores)) if lines else 0.0

    def run(inputs: Mapping[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        read_N = [read(pixels) for pixels in inputs["pixels"]]
        length = max(1, *(len(text) for text, _ in read_N))
        text_N_L = np.zeros((len(read_N), length), np.uint8)
        for row, (text, _) in enumerate(read_N):
            text_N_L[row, : len(text)] = np.frombuffer(text, np.uint8)
        return [text_N_L, np.array([[confidence] for _, confidence in read_N], np.float32)]

    return run

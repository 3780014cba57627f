"""Where the `face_recognition_models` package keeps dlib's models (importing it needs setuptools' pkg_resources)."""

from __future__ import annotations

import importlib.util
from pathlib import Path

_SPEC = importlib.util.find_spec("face_recognition_models")
assert _SPEC is not None
assert _SPEC.origin is not None
_MODELS = Path(_SPEC.origin).parent / "models"
LANDMARKS = _MODELS / "shape_predictor_5_face_landmarks.dat"
DESCRIPTOR = _MODELS / "dlib_face_recognition_resnet_model_v1.dat"

"""BRISQUE (Mittal et al., 2012) by the `brisque` package: how unlike an undistorted photograph a picture is."""

from __future__ import annotations

import importlib.util
import json
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sync_r1.reward_models.library.catalogue import Engine

_SVM, _SCALE = "svm.txt", "scale.json"


def pack() -> dict[str, bytes]:
    """The support vectors, and the features' ranges as JSON: the package's pickle is read here and never again."""
    spec = importlib.util.find_spec("brisque.models")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("brisque is not installed", name="brisque")
    folder = Path(spec.origin).parent
    ranges = pickle.loads((folder / "normalize.pickle").read_bytes())
    scale = {name: [float(value) for value in ranges[name]] for name in ("min_", "max_")}
    return {_SVM: (folder / _SVM).read_bytes(), _SCALE: json.dumps(scale, sort_keys=True).encode()}


def load(folder: Path, threads: int) -> Engine:
    """score (N, 1): about 0 for a clean photograph, 100 and more for a ruined one; NaN for a flat or tiny picture."""
    from brisque import BRISQUE
    from libsvm import svmutil

    class Brisque(BRISQUE):
        def __init__(self) -> None:
            self.url = False
            self.model = svmutil.svm_load_model(str(folder / _SVM))
            self.scale_params = json.loads((folder / _SCALE).read_text())

        def scale_features(self, features: Any) -> Any:
            # Some features are arrays of one element, which newer numpy refuses to take for a number.
            return super().scale_features([np.asarray(feature).item() for feature in features])

    model = Brisque()

    def score(pixels: npt.NDArray[np.uint8]) -> float:
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                return float(model.score(pixels))
        except Exception:  # OpenCV and SciPy have many, for pictures without any texture or of a few pixels
            return float("nan")

    def run(inputs: Mapping[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        return [np.array([[score(pixels)] for pixels in inputs["pixels"]], np.float32)]

    return run

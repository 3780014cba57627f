"""Weights of published models from a file, a folder or the hub, as tensors and nothing else.

safetensors hold tensors only; torch's own files (.bin, .pt, .pth) are read with `weights_only=True`, which refuses
every other object. What comes out is written once as ONNX or safetensors; serving never reads these files.
"""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from torch import Tensor

from sync_r1.reward_models.releases import file_sha256
from sync_r1.reward_models.types import RewardError

SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
_INDEX = ".safetensors.index.json"


class WeightsError(RewardError):
    """Weights that cannot be used; the message names the file and the cure."""


@dataclass(frozen=True)
class Weights:
    """Tensors by their published names, the file they came from, its sha256, and what lies beside it."""

    tensors: dict[str, Tensor]
    file: str
    sha256: str
    folder: Path


def read_weights(where: str, *, preferred: tuple[str, ...] = (), sha256: str = "") -> Weights:
    """Weights at `where`: a file, a folder with one weights file, or OWNER/NAME on the hub.

    `preferred` are the file names the publisher uses, best first. `sha256`, if given, must be the file's.
    Raises WeightsError: nothing there, another digest, a damaged file, a file that holds more than tensors.
    """
    path = Path(where).expanduser()
    if path.is_dir():
        path = _pick(path, preferred)
    elif not path.is_file():
        if where.count("/") != 1 or where.startswith((".", "/", "~")) or path.suffix in SUFFIXES:
            raise WeightsError(
                f"there are no weights at {where}: give a file, a folder, OWNER/NAME of the hub or `random`"
            )
        path = _download(where, preferred)
    shards = _shards(path)
    digest = file_sha256(path) if len(shards) == 1 else _joint_sha256(shards)
    if sha256 and digest != sha256.lower():
        raise WeightsError(
            f"{path} has sha256 {digest}, expected {sha256.lower()}; "
            "fetch the file again, or drop --sha256 to accept it"
        )
    tensors: dict[str, Tensor] = {}
    for shard in shards:
        tensors |= _read(shard)
    return Weights(tensors, path.name, digest, path.parent)


def load_into(model: Any, weights: dict[str, Tensor], file: str) -> None:
    """Copy tensors into a module. Extra tensors are let be: published files carry buffers and training heads too.

    Raises WeightsError when any is missing or of another shape.
    """
    wanted = model.state_dict()
    missing = sorted(name for name in wanted if name not in weights)
    if missing:
        known = ", ".join(sorted(weights)[:3]) or "nothing"
        raise WeightsError(
            f"{file} lacks {len(missing)} of {len(wanted)} tensors, among them {missing[0]!r} (it has {known}, …); "
            "give the weights of this very model in the publisher's form"
        )
    for name, tensor in wanted.items():
        if weights[name].shape != tensor.shape:
            raise WeightsError(
                f"{file}: tensor {name!r} has shape {tuple(weights[name].shape)}, expected {tuple(tensor.shape)}; "
                "it belongs to a model of another size"
            )
    model.load_state_dict({name: weights[name] for name in wanted})


def _pick(folder: Path, preferred: tuple[str, ...]) -> Path:
    for name in preferred:
        if (folder / name).is_file():
            return folder / name
    found = sorted(file for file in folder.iterdir() if file.suffix in SUFFIXES)
    whole = [file for file in found if file.suffix == ".safetensors"] or found
    index = sorted(folder.glob(f"*{_INDEX}"))
    if len(index) == 1 and len(whole) != 1:
        return index[0]
    if len(whole) != 1:
        names = ", ".join(file.name for file in found) or "none"
        cure = "name the file itself" if found else "fetch it from the publisher and put it there"
        raise WeightsError(
            f"folder {folder} should hold one weights file ({' or '.join(preferred or SUFFIXES)}), it holds: {names}; "
            f"{cure}"
        )
    return whole[0]


def _shards(path: Path) -> list[Path]:
    if not path.name.endswith(_INDEX):
        return [path]
    try:
        names = sorted(set(json.loads(path.read_text())["weight_map"].values()))
    except (ValueError, LookupError, AttributeError, TypeError):
        raise WeightsError(f"{path} is cut off or no index of safetensors; fetch it again") from None
    absent = [name for name in names if Path(name).name != name or not (path.parent / name).is_file()]
    if absent:
        raise WeightsError(f"{path} names {absent[0]}, which is not beside it; fetch all {len(names)} parts")
    return [path.parent / name for name in names]


def _joint_sha256(files: list[Path]) -> str:
    import hashlib

    return hashlib.sha256("".join(file_sha256(file) for file in files).encode()).hexdigest()


def _download(name: str, preferred: tuple[str, ...]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    patterns = list(preferred) or [f"*{suffix}" for suffix in SUFFIXES]
    try:
        folder = snapshot_download(name, allow_patterns=[*patterns, "tokenizer.json", "vocab.txt", "*.index.json"])
    except RepositoryNotFoundError:
        raise WeightsError(f"the hub has no public model {name}; check the name, or log in to it first") from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise WeightsError(
            f"{name} could not be fetched from the hub ({reason}); fetch it elsewhere and give its folder"
        ) from None
    return _pick(Path(folder), preferred)


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise WeightsError(f"{path} is cut off or no safetensors file ({error}); fetch it again") from None
    return _read_torch(path)


def _read_torch(path: Path) -> dict[str, Tensor]:
    import torch

    if _is_torchscript(path):
        raise WeightsError(f"{path} is a TorchScript program, not weights; take the safetensors form of the same model")
    try:
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError:
        raise WeightsError(
            f"{path} holds objects other than tensors (or is cut off), which are never loaded; "
            "take its safetensors form, or fetch it again"
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        reason = str(error).split("\n")[0].split(". ")[0] or "it ends too soon"
        raise WeightsError(f"{path} is cut off or no torch file ({reason}); fetch it again") from None
    for key in ("state_dict", "model"):  # training scripts wrap what they save
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    named = found.items() if isinstance(found, dict) else ()
    tensors = {str(name): value for name, value in named if isinstance(value, Tensor)}
    if not tensors:
        raise WeightsError(f"{path} holds no named tensors; give the file with the model's state")
    return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("constants.pkl") for name in archive.namelist())

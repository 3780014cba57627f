"""The SDK that other teams install stays thin, and its public names are exactly those it announces."""

from __future__ import annotations

import subprocess
import sys
import types

import sync_r1.trainer_client as sdk

HEAVY = ("torch", "transformers", "onnxruntime", "tritonclient", "torchvision", "open_clip")


def test_importing_the_sdk_imports_nothing_heavy() -> None:
    code = f"import sys, sync_r1.trainer_client; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_sdk_works_without_anything_beyond_its_own_dependencies() -> None:
    """Blocks every module that the default install lacks, then builds a client and an ensemble."""
    blocked = (
        *HEAVY, "grpc_health", "grpc_reflection", "yaml", "typer", "rich", "tokenizers", "safetensors", "opentelemetry",
    )  # fmt: skip
    code = f"""
import sys
sys.modules.update(dict.fromkeys({blocked}))
import numpy
from sync_r1.trainer_client import RewardClient, RewardEnsemble, RewardUse, Sample, picture
Sample(image=picture(numpy.zeros((2, 2, 3), numpy.uint8)))
RewardEnsemble({{"aesthetic": (RewardClient("localhost:1"), RewardUse(1.0))}})
"""
    subprocess.run([sys.executable, "-c", code], timeout=60, check=True)


def test_public_namespace_is_what_it_announces() -> None:
    public = {
        name
        for name, value in vars(sdk).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert public == set(sdk.__all__)
    assert sdk.__all__ == sorted(sdk.__all__, key=lambda name: (not name.isupper(), name.islower(), name))

"""Regenerate the stubs of `rewards.proto`: `make protos`, or `python protos/generate.py [OUT]`.

The proto is compiled under the path it has inside the `sync_r1` namespace, so that the generated import statements
name `sync_r1.protos.rewards.v1` and never a package of another team.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

PROTO = "sync_r1/protos/rewards/v1/rewards.proto"


def generate(out: Path) -> list[Path]:
    """Write the three stub files into `out` and return their paths. Raises RuntimeError if protoc refuses the proto."""
    with tempfile.TemporaryDirectory() as temporary:
        well_known = str(files("grpc_tools") / "_proto")
        mapping = f"-Isync_r1/protos={Path(__file__).parent}"
        outputs = [f"--{kind}_out={temporary}" for kind in ("python", "pyi", "grpc_python")]
        if protoc.main(["protoc", mapping, f"-I{well_known}", *outputs, PROTO]) != 0:
            raise RuntimeError(f"protoc could not compile {PROTO}; its message stands above")
        out.mkdir(parents=True, exist_ok=True)
        made = sorted(Path(temporary).rglob("rewards_pb2*"))
        return [Path(shutil.copy(path, out / path.name)) for path in made]


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "rewards" / "v1"
    for written in generate(target):
        print(written)

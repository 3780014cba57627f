"""The contract: its stubs are those the generator makes, and every field says what it holds."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

PROTOS = Path(__file__).parents[2] / "protos"


def test_checked_in_stubs_are_what_the_generator_makes(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("generate", PROTOS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made = module.generate(tmp_path)
    assert [path.name for path in made] == ["rewards_pb2.py", "rewards_pb2.pyi", "rewards_pb2_grpc.py"]
    for path in made:
        assert path.read_text() == (PROTOS / "rewards" / "v1" / path.name).read_text(), (
            f"run `make protos` ({path.name})"
        )


def test_every_field_is_documented_on_its_line() -> None:
    fields = [
        line.strip()
        for line in (PROTOS / "rewards" / "v1" / "rewards.proto").read_text().splitlines()
        if re.match(r"\s*(?:repeated )?[\w.<>, ]+ \w+ = \d+;", line) and "FAILURE_CODE_UNSPECIFIED" not in line
    ]
    assert len(fields) > 70
    assert [field for field in fields if not re.search(r"; +// \w|; +// [\[(\"]", field)] == []

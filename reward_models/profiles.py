"""Profiles: which graphs there are and which variants of which reward use them.

A profile is a YAML file, validated here; `profiles/pocket.yaml` is built in. Nothing is loaded or exported by reading
one: digests of graph files are computed when a release is first asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sync_r1.reward_models.graphs import DType, GraphSpec, TensorSpec, graph_store
from sync_r1.reward_models.images import ResizeMode
from sync_r1.reward_models.types import RewardError

_HERE = Path(__file__).parent


class ProfileError(RewardError):
    """The profile does not exist or is not valid; the message says where and why."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TensorConfig(_Strict):
    dtype: DType
    shape: tuple[int, ...]


class GraphConfig(_Strict):
    version: int = Field(default=1, ge=1)
    checked_in: str = ""
    package: Literal["", "efficientnet_lite2", "minilm"] = ""
    inputs: dict[str, TensorConfig] = Field(min_length=1)
    outputs: dict[str, TensorConfig] = Field(min_length=1)
    max_batch_size: int = Field(ge=1, le=1024)
    instances: int = Field(default=1, ge=1)
    resize: ResizeMode = "crop_bicubic"

    @model_validator(mode="after")
    def _one_origin(self) -> GraphConfig:
        if bool(self.checked_in) == bool(self.package):
            raise ValueError("a graph needs exactly one of `checked_in` and `package`")
        return self

    def spec(self, name: str) -> GraphSpec:
        return GraphSpec(
            name=name,
            version=self.version,
            file=_HERE / self.checked_in if self.checked_in else graph_store() / f"{self.package}.onnx",
            inputs=tuple(TensorSpec(n, t.dtype, t.shape) for n, t in self.inputs.items()),
            outputs=tuple(TensorSpec(n, t.dtype, t.shape) for n, t in self.outputs.items()),
            max_batch_size=self.max_batch_size,
            resize=self.resize,
            package=self.package,
            instances=self.instances,
        )


class ProfileConfig(_Strict):
    name: str
    graphs: dict[str, GraphConfig]


@dataclass(frozen=True)
class Profile:
    """Graphs by name."""

    name: str
    graphs: dict[str, GraphSpec]


def load_profile(name_or_path: str) -> Profile:
    """Read a profile: the name of a built-in one ("pocket") or the path of a YAML file. Raises ProfileError."""
    built_in = _HERE / "profiles" / f"{name_or_path}.yaml"
    path = built_in if built_in.is_file() else Path(name_or_path)
    if not path.is_file():
        names = sorted(file.stem for file in built_in.parent.glob("*.yaml"))
        raise ProfileError(f"there is no profile {name_or_path!r}: neither a file nor one of {names}")
    try:
        config = ProfileConfig.model_validate(yaml.safe_load(path.read_text()))
    except (ValidationError, yaml.YAMLError) as error:
        raise ProfileError(f"profile {path}: {error}") from error
    return Profile(config.name, {name: graph.spec(name) for name, graph in config.graphs.items()})

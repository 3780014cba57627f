"""What a profile file may say: the YAML's shape, validated by pydantic.

A graph is told apart by its origin (`file`, `checked_in`, `published`, …), and `graph_origins.py` makes a `GraphSpec`
of it; a variant by its `kind`: see `variant_files.py`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from sync_r1.reward_models.cards import Part
from sync_r1.reward_models.graphs.spec import DType, Engine
from sync_r1.reward_models.images import ResizeMode
from sync_r1.reward_models.profiles.file_parts import BesideProfile, GraphName, RewardName, Strict, VariantName
from sync_r1.reward_models.profiles.variant_files import VariantFile


class TensorFile(Strict):
    """Element type and shape without the batch axis; -1 is any length."""

    dtype: DType
    shape: tuple[Annotated[int, Field(ge=-1)], ...]


class ServedGraphFile(Strict):
    """What every graph that Triton runs has."""

    version: int = Field(default=1, ge=1)
    max_batch_size: int = Field(ge=1, le=1024)
    instances: int = Field(default=1, ge=1)


class OwnGraphFile(ServedGraphFile):
    """A graph whose tensors and preprocessing the profile states itself."""

    inputs: dict[str, TensorFile] = Field(min_length=1)
    outputs: dict[str, TensorFile] = Field(min_length=1)
    resize: ResizeMode = "crop_bicubic"
    tokenizer: Literal["", "pocket", "minilm"] = ""


class CheckedInGraphFile(OwnGraphFile):
    checked_in: str
    """A path below reward_models/."""


class FileGraphFile(OwnGraphFile):
    """A graph of the operator's own."""

    file: BesideProfile
    """An ONNX file."""
    sha256: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")
    """What the file's must be; empty = whatever it is, which the release names anyway."""


class PackageGraphFile(OwnGraphFile):
    package: Literal["efficientnet_lite2", "minilm"]
    """An exporter of `backends/graph_store.py`."""


class PublishedGraphFile(ServedGraphFile):
    published: str
    """A graph of `published/catalogue.py`, which knows its tensors, preprocessing and tokenizer."""
    engine: Engine = "onnx"


class LibraryGraphFile(Strict):
    """A graph of `library/catalogue.py`, which knows its tensors."""

    library: str
    version: int = Field(default=1, ge=1)
    max_batch_size: int = Field(default=8, ge=1, le=1024)
    instances: int = Field(default=1, ge=1)


class EndpointGraphFile(Strict):
    """A judge: a prompt of `reward_models/judges/`, and the model it is put to. Where that is, only `--judges` says."""

    endpoint: Literal["answer", "pictures", "scene", "vqascore"]
    model: str = Field(min_length=1)
    version: int = Field(default=1, ge=1)


GRAPH_ORIGINS = ("file", "checked_in", "package", "published", "library", "endpoint")


def _origin(raw: Any) -> str | None:
    """The one origin that a graph names; None, hence an error, when it names none or several."""
    named = [origin for origin in GRAPH_ORIGINS if (origin in raw if isinstance(raw, dict) else hasattr(raw, origin))]
    return named[0] if len(named) == 1 else None


GraphFile = Annotated[
    Annotated[FileGraphFile, Tag("file")]
    | Annotated[CheckedInGraphFile, Tag("checked_in")]
    | Annotated[PackageGraphFile, Tag("package")]
    | Annotated[PublishedGraphFile, Tag("published")]
    | Annotated[LibraryGraphFile, Tag("library")]
    | Annotated[EndpointGraphFile, Tag("endpoint")],
    Discriminator(
        _origin,
        custom_error_type="graph_origin",
        custom_error_message=f"a graph needs exactly one of {', '.join(GRAPH_ORIGINS)}",
    ),
]


class RewardFile(Strict):
    """A reward: any variants, whatever its name. What is left out comes from the profile that is extended."""

    judges: Part | None = None
    """Which part of a trajectory it is credit for; None = as the built-in reward of that name."""
    default: str = ""
    """The variant of requests that name none."""
    variants: dict[VariantName, VariantFile] = Field(default_factory=dict)


class ProfileFile(Strict):
    name: str
    base: str = ""
    """A built-in profile: rewards that are not stated here are its, with the graphs they run."""
    extends: str = ""
    """A built-in profile, an installed one (`plugin:NAME`), or the path of one relative to this file: graphs, rewards
    and variants are added to its, and take the place of those with the same name.
    """
    graphs: dict[GraphName, GraphFile] = Field(default_factory=dict)
    rewards: dict[RewardName, RewardFile] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_origin(self) -> ProfileFile:
        if self.base and self.extends:
            raise ValueError(
                "`base` replaces rewards as a whole and `extends` adds to them: expected one of the two, got both"
            )
        return self

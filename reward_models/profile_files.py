"""What a profile file may say: the YAML's shape, validated by pydantic; `profiles.py` makes rewards of it."""

from __future__ import annotations

from typing import Annotated, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sync_r1.reward_models.graphs import DType
from sync_r1.reward_models.images import ResizeMode
from sync_r1.reward_models.rewards.concept_consistency import ReferenceMode


class Strict(BaseModel):
    """Unknown keys are errors: a misspelt option must not be ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TensorFile(Strict):
    """Element type and shape without the batch axis; -1 is any length."""

    dtype: DType
    shape: tuple[Annotated[int, Field(ge=-1)], ...]


class GraphFile(Strict):
    """One graph. `checked_in` is a path below reward_models/; `package` names an exporter of `export.py`."""

    version: int = Field(default=1, ge=1)
    checked_in: str = ""
    package: Literal["", "efficientnet_lite2", "minilm"] = ""
    inputs: dict[str, TensorFile] = Field(min_length=1)
    outputs: dict[str, TensorFile] = Field(min_length=1)
    max_batch_size: int = Field(ge=1, le=1024)
    instances: int = Field(default=1, ge=1)
    resize: ResizeMode = "crop_bicubic"
    tokenizer: Literal["", "pocket", "minilm"] = ""

    @model_validator(mode="after")
    def _one_origin(self) -> GraphFile:
        if bool(self.checked_in) == bool(self.package):
            raise ValueError("a graph needs exactly one of `checked_in` and `package`")
        return self


class CardFile(Strict):
    """What a card says that the formula does not know: it depends on the graphs."""

    summary: str
    source: str
    licence: str
    zero_at: float = 0.0
    """The raw score that the suggested map takes to 0."""
    one_at: float = 1.0
    """The raw score that the suggested map takes to 1."""
    raw_min: float = 0.0
    raw_max: float = 1.0
    validity: dict[str, str] = {}
    """Name of a group of figures ("" for none) -> FILE#KEY or FILE#KEY.KEY below reward_models/, where they lie."""
    validity_command: str = ""
    failure_modes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _rising(self) -> CardFile:
        if not self.one_at > self.zero_at:
            raise ValueError("`one_at` must be above `zero_at`")
        return self


class ConceptVariantFile(Strict):
    image_encoder: str
    references: ReferenceMode = "mean_cosine"
    card: CardFile


class TextVariantFile(Strict):
    image_encoder: str
    text_encoder: str
    split: bool = False
    card: CardFile


class UnderstandingVariantFile(Strict):
    """Without a text encoder the variant is the string metric of its name."""

    text_encoder: str = ""
    card: CardFile


class AestheticVariantFile(Strict):
    image_encoder: str
    card: CardFile


V = TypeVar("V", bound=Strict)


class RewardFile(Strict, Generic[V]):
    default: str
    variants: dict[str, V]

    @model_validator(mode="after")
    def _default_exists(self) -> RewardFile[V]:
        if self.default not in self.variants:
            raise ValueError(f"the default {self.default!r} is none of the variants {sorted(self.variants)}")
        return self


class RewardsFile(Strict):
    concept_consistency: RewardFile[ConceptVariantFile] = Field(alias="concept-consistency")
    text_faithfulness: RewardFile[TextVariantFile] = Field(alias="text-faithfulness")
    understanding_correctness: RewardFile[UnderstandingVariantFile] = Field(alias="understanding-correctness")
    aesthetic: RewardFile[AestheticVariantFile]


class ProfileFile(Strict):
    name: str
    graphs: dict[str, GraphFile]
    rewards: RewardsFile

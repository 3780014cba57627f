"""What a profile file may say: the YAML's shape, validated by pydantic.

A graph is told apart by its origin (`checked_in`, `published`, …), and `profile_graphs.py` makes a `GraphSpec` of it; a
variant by its `kind`: see `variant_files.py`.
"""

from __future__ import annotations

from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import Discriminator, Field, Tag, model_validator

from sync_r1.reward_models.graphs import DType, Engine
from sync_r1.reward_models.images import ResizeMode
from sync_r1.reward_models.variant_files import (
    AestheticVariantFile,
    ConceptVariantFile,
    Strict,
    TextVariantFile,
    UnderstandingVariantFile,
)


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


class PackageGraphFile(OwnGraphFile):
    package: Literal["efficientnet_lite2", "minilm"]
    """An exporter of `export.py`."""


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
    """A judge: a prompt of `judges.py`, and the model it is put to. Where that is, only `--judges` says."""

    endpoint: Literal["answer", "pictures", "vqascore"]
    model: str = Field(min_length=1)
    version: int = Field(default=1, ge=1)


GRAPH_ORIGINS = ("checked_in", "package", "published", "library", "endpoint")


def _origin(raw: Any) -> str | None:
    """The one origin that a graph names; None, hence an error, when it names none or several."""
    named = [origin for origin in GRAPH_ORIGINS if (origin in raw if isinstance(raw, dict) else hasattr(raw, origin))]
    return named[0] if len(named) == 1 else None


GraphFile = Annotated[
    Annotated[CheckedInGraphFile, Tag("checked_in")]
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


<<<<<<< HEAD
# Variants


class CardFile(Strict):
    """What a card says that the formula does not know: it depends on the graphs."""

    summary: str
    source: str
    licence: str = ""
    """Of the weights; empty where the catalogue of published models says it."""
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


class EmbeddingVariantFile(Strict):
    """Cosine of the picture's embedding with those of the references."""

    kind: Literal["embedding"]
    image_encoder: str
    references: ReferenceMode = "mean_cosine"
    card: CardFile


class CosineVariantFile(Strict):
    """Cosine of picture and prompt."""

    kind: Literal["cosine"]
    image_encoder: str
    text_encoder: str
    card: CardFile


class ClausesVariantFile(Strict):
    """Cosines of the picture and every clause of the prompt."""

    kind: Literal["clauses"]
    image_encoder: str
    text_encoder: str
    card: CardFile


class YesVariantFile(Strict):
    """A question about each of the sample's nouns, and the probability of yes."""

    kind: Literal["yes"]
    encoder: str
    """A graph that reads a picture and a question."""
    card: CardFile


class StringVariantFile(Strict):
    """The string metric of the variant's name; runs no graph."""

    kind: Literal["string"]
    card: CardFile


class SemanticVariantFile(Strict):
    """Meaning by a sentence encoder, and key facts by name."""

    kind: Literal["semantic"]
    text_encoder: str
    card: CardFile


class RatingVariantFile(Strict):
    """The rating that one graph gives a picture."""

    kind: Literal["rating"]
    image_encoder: str
    card: CardFile


class ImageTextVariantFile(Strict):
    """Picture against prompt by a model trained on preferences: the dot product of two embeddings."""

    kind: Literal["image_text"]
    image_encoder: str
    text_encoder: str
    card: CardFile


class PairVariantFile(Strict):
    """The rating of a graph that reads picture and prompt together."""

    kind: Literal["pair"]
    encoder: str
    card: CardFile


class ReleasedIdentityVariantFile(Strict):
    """Faces by FaceNet and dlib where the concept is a person, CLIP otherwise, as the released Sync-R1."""

    kind: Literal["released_identity"]
    detector: str
    facenet: str
    dlib: str
    image_encoder: str
    card: CardFile


class FaceVariantFile(Strict):
    """Likeness of the face in the picture to those in the references."""

    kind: Literal["face"]
    detector: str
    embedder: str = ""
    """Empty where the detector embeds as well."""
    likeness: Literal["cosine", "closeness"] = "cosine"
    card: CardFile


class OcrVariantFile(Strict):
    """Whether the text that the prompt quotes is written in the picture."""

    kind: Literal["ocr"]
    reader: str
    card: CardFile


class DistortionVariantFile(Strict):
    """How distorted the picture is."""

    kind: Literal["distortion"]
    graph: str
    card: CardFile


class JudgedAnswerVariantFile(Strict):
    """A judge's mark for the answer."""

    kind: Literal["judged_answer"]
    judge: str
    card: CardFile


class JudgedPicturesVariantFile(Strict):
    """A judge's marks for all pictures of a group."""

    kind: Literal["judged_pictures"]
    judge: str
    mark: Literal["structure", "identity"]
    max_group: int = Field(default=16, ge=1, le=64)
    card: CardFile


class VqaScoreVariantFile(Strict):
    """A judge's probability of yes."""

    kind: Literal["vqascore"]
    judge: str
    card: CardFile


ConceptVariantFile = Annotated[
    EmbeddingVariantFile | ReleasedIdentityVariantFile | FaceVariantFile | JudgedPicturesVariantFile,
    Field(discriminator="kind"),
]
TextVariantFile = Annotated[
    CosineVariantFile | ClausesVariantFile | YesVariantFile | OcrVariantFile | VqaScoreVariantFile,
    Field(discriminator="kind"),
]
UnderstandingVariantFile = Annotated[
    StringVariantFile | SemanticVariantFile | JudgedAnswerVariantFile, Field(discriminator="kind")
]
AestheticVariantFile = Annotated[
    RatingVariantFile
    | ImageTextVariantFile
    | PairVariantFile
    | DistortionVariantFile
    | JudgedPicturesVariantFile,
    Field(discriminator="kind"),
]

VariantFile = (
    EmbeddingVariantFile
    | CosineVariantFile
    | ClausesVariantFile
    | YesVariantFile
    | StringVariantFile
    | SemanticVariantFile
    | RatingVariantFile
    | ReleasedIdentityVariantFile
    | FaceVariantFile
    | OcrVariantFile
    | DistortionVariantFile
    | JudgedAnswerVariantFile
    | JudgedPicturesVariantFile
    | VqaScoreVariantFile
    | ImageTextVariantFile
    | PairVariantFile
)


# The whole

=======
>>>>>>> zoo-models
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
    """The four rewards, each with the kinds of variants that it has."""

    concept_consistency: RewardFile[ConceptVariantFile] = Field(alias="concept-consistency")
    text_faithfulness: RewardFile[TextVariantFile] = Field(alias="text-faithfulness")
    understanding_correctness: RewardFile[UnderstandingVariantFile] = Field(alias="understanding-correctness")
    aesthetic: RewardFile[AestheticVariantFile]


class ProfileFile(Strict):
    name: str
    base: str = ""
    """A built-in profile: rewards that are not stated here are its, with the graphs they run."""
    graphs: dict[str, GraphFile]
    rewards: RewardsFile

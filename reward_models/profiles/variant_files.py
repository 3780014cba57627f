"""What a profile file may say of variants: one class per `kind`. `variants.py` makes rewards of them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sync_r1.reward_models.profiles.file_parts import CardFile, Strict
from sync_r1.reward_models.profiles.own_variant_files import GraphVariantFile, JudgeVariantFile
from sync_r1.reward_models.profiles.python_variants import PythonVariantFile
from sync_r1.reward_models.rewards.concept_consistency import ReferenceMode


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


class JudgedSceneVariantFile(Strict):
    """A judge's marks for subject and scene, beside a reference."""

    kind: Literal["judged_scene"]
    judge: str
    card: CardFile


class VqaScoreVariantFile(Strict):
    """A judge's probability of yes."""

    kind: Literal["vqascore"]
    judge: str
    card: CardFile


VariantFile = Annotated[
    EmbeddingVariantFile
    | CosineVariantFile
    | ClausesVariantFile
    | YesVariantFile
    | StringVariantFile
    | SemanticVariantFile
    | RatingVariantFile
    | ImageTextVariantFile
    | PairVariantFile
    | ReleasedIdentityVariantFile
    | FaceVariantFile
    | OcrVariantFile
    | DistortionVariantFile
    | JudgedAnswerVariantFile
    | JudgedPicturesVariantFile
    | JudgedSceneVariantFile
    | VqaScoreVariantFile
    | GraphVariantFile
    | JudgeVariantFile
    | PythonVariantFile,
    Field(discriminator="kind"),
]
"""Any of them, under any reward."""

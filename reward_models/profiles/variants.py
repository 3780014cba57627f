"""How a variant's YAML becomes a `Reward`: one small function per kind, all of them here.

A new kind is a class in `variant_files.py`, its formula in `rewards/`, and a `case` with its function below.
"""

from __future__ import annotations

from dataclasses import dataclass

from sync_r1.reward_models.graphs.spec import GraphSpec
from sync_r1.reward_models.inputs.encoders import (
    ImageEncoder,
    PairEncoder,
    TextEncoder,
    minilm_text_encoder,
    pocket_text_encoder,
)
from sync_r1.reward_models.profiles import graph_variants, judge_variants, library_variants, python_variants
from sync_r1.reward_models.profiles.card_texts import CardMaker
from sync_r1.reward_models.profiles.own_variant_files import GraphVariantFile, JudgeVariantFile
from sync_r1.reward_models.profiles.python_variants import PythonVariantFile
from sync_r1.reward_models.profiles.variant_files import (
    ClausesVariantFile,
    CosineVariantFile,
    DistortionVariantFile,
    EmbeddingVariantFile,
    FaceVariantFile,
    ImageTextVariantFile,
    JudgedAnswerVariantFile,
    JudgedPicturesVariantFile,
    JudgedSceneVariantFile,
    OcrVariantFile,
    PairVariantFile,
    RatingVariantFile,
    ReleasedIdentityVariantFile,
    SemanticVariantFile,
    StringVariantFile,
    VariantFile,
    VqaScoreVariantFile,
    YesVariantFile,
)
from sync_r1.reward_models.published.texts import (
    clip_text_encoder,
    git_vqa_encode,
    image_reward_encode,
    siglip_text_encoder,
)
from sync_r1.reward_models.rewards import (
    aesthetic,
    concept_consistency,
    preference,
    questions,
    text_faithfulness,
    understanding,
)
from sync_r1.reward_models.rewards.base import Reward
from sync_r1.reward_models.types import ProfileError

_TEXT_ENCODERS = {
    "pocket": pocket_text_encoder,
    "minilm": minilm_text_encoder,
    "clip": clip_text_encoder,
    "siglip": siglip_text_encoder,
}
_PAIR_ENCODES = {"image_reward": image_reward_encode, "git_vqa": git_vqa_encode}


@dataclass(frozen=True)
class Encoders:
    """Encoders over the graphs of a profile, by the graphs' names. Raises ProfileError for one that does not fit."""

    graphs: dict[str, GraphSpec]

    def image(self, name: str) -> ImageEncoder:
        graph = self.graph(name)
        if len(graph.inputs) != 1 or not graph.takes_pictures:
            raise ProfileError(f"graph {name!r} is no image encoder: it needs one uint8 input of shape [size, size, 3]")
        return ImageEncoder(graph)

    def text(self, name: str) -> TextEncoder:
        graph = self.graph(name)
        if graph.tokenizer not in _TEXT_ENCODERS:
            raise ProfileError(
                f"graph {name!r} is no text encoder: its tokenizer is {graph.tokenizer or 'none'!r}, "
                f"expected one of {', '.join(_TEXT_ENCODERS)}"
            )
        return _TEXT_ENCODERS[graph.tokenizer](graph)

    def pair(self, name: str, tokenizer: str) -> PairEncoder:
        graph = self.graph(name)
        if graph.tokenizer != tokenizer or not graph.takes_pictures:
            raise ProfileError(
                f"graph {name!r} does not read pictures with texts as this kind needs: its tokenizer is "
                f"{graph.tokenizer or 'none'!r}, expected {tokenizer!r}"
            )
        return PairEncoder(graph, _PAIR_ENCODES[tokenizer](graph))

    def graph(self, name: str) -> GraphSpec:
        if name not in self.graphs:
            raise ProfileError(f"there is no graph {name!r}; the profile has {sorted(self.graphs)}")
        return self.graphs[name]


def build_reward(reward: str, variant: str, file: VariantFile, graphs: dict[str, GraphSpec]) -> Reward:
    """The variant of `reward` that the file describes; an own judge or function joins `graphs`. Raises ProfileError."""
    make, encoders = CardMaker(reward, variant), Encoders(graphs)
    match file:
        case EmbeddingVariantFile():
            return _embedding(file, make, encoders)
        case CosineVariantFile():
            return _text_image(file, make, encoders, split=False)
        case ClausesVariantFile():
            return _text_image(file, make, encoders, split=True)
        case YesVariantFile():
            return _yes(file, make, encoders)
        case StringVariantFile():
            return _string(file, make)
        case SemanticVariantFile():
            return _semantic(file, make, encoders)
        case RatingVariantFile():
            return _rating(file, make, encoders)
        case ImageTextVariantFile():
            return _image_text(file, make, encoders)
        case PairVariantFile():
            return _pair(file, make, encoders)
        case ReleasedIdentityVariantFile():
            return library_variants.released_identity(
                file, make, encoders.image(file.image_encoder), detector=encoders.graph(file.detector),
                facenet=encoders.graph(file.facenet), dlib=encoders.graph(file.dlib),
            )  # fmt: skip
        case FaceVariantFile():
            embedder = encoders.graph(file.embedder) if file.embedder else None
            return library_variants.face(file, make, encoders.graph(file.detector), embedder)
        case OcrVariantFile():
            return library_variants.ocr(file, make, encoders.graph(file.reader))
        case DistortionVariantFile():
            return library_variants.distortion(file, make, encoders.graph(file.graph))
        case JudgedAnswerVariantFile():
            return judge_variants.judged_answer(file, make, encoders.graph(file.judge))
        case JudgedPicturesVariantFile():
            return judge_variants.judged_pictures(file, make, encoders.graph(file.judge))
        case JudgedSceneVariantFile():
            return judge_variants.judged_scene(file, make, encoders.graph(file.judge))
        case VqaScoreVariantFile():
            return judge_variants.vqascore(file, make, encoders.graph(file.judge))
        case GraphVariantFile():
            return graph_variants.graph_score(file, make, encoders.graph(file.graph))
        case JudgeVariantFile():
            return judge_variants.own_judge(file, make, graphs)
        case PythonVariantFile():
            return python_variants.python(file, make, graphs)


def _embedding(file: EmbeddingVariantFile, make: CardMaker, encoders: Encoders) -> Reward:
    formula, encoder = concept_consistency, encoders.image(file.image_encoder)
    card = make.card(
        file.card, version=formula.FORMULA_VERSION, required=formula.REQUIRED_FIELDS, graphs=[encoder.graph]
    )
    return formula.ConceptConsistency(card, encoder, file.references)


def _text_image(
    file: CosineVariantFile | ClausesVariantFile, make: CardMaker, encoders: Encoders, *, split: bool
) -> Reward:
    formula, images, texts = text_faithfulness, encoders.image(file.image_encoder), encoders.text(file.text_encoder)
    graphs = [images.graph, texts.graph]
    card = make.card(file.card, version=formula.FORMULA_VERSION, required=formula.REQUIRED_FIELDS, graphs=graphs)
    return formula.TextFaithfulness(card, images, texts, split)


def _yes(file: YesVariantFile, make: CardMaker, encoders: Encoders) -> Reward:
    formula, encoder = questions, encoders.pair(file.encoder, "git_vqa")
    required = formula.REQUIRED_FIELDS
    card = make.card(file.card, version=formula.FORMULA_VERSION, required=required, graphs=[encoder.graph])
    return formula.YesProbability(card, encoder)


def _string(file: StringVariantFile, make: CardMaker) -> Reward:
    formula = understanding
    if make.variant not in formula.STRING_METRICS:
        raise ProfileError(
            f"{make.reward} has no string metric {make.variant!r}; there are {sorted(formula.STRING_METRICS)}"
        )
    required = formula.STRING_METRICS[make.variant].required_fields
    return formula.StringCorrectness(make.card(file.card, version=formula.FORMULA_VERSION, required=required))


def _semantic(file: SemanticVariantFile, make: CardMaker, encoders: Encoders) -> Reward:
    formula, encoder = understanding, encoders.text(file.text_encoder)
    required = formula.SEMANTIC_REQUIRED_FIELDS
    card = make.card(file.card, version=formula.SEMANTIC_FORMULA_VERSION, required=required, graphs=[encoder.graph])
    return formula.SemanticCorrectness(card, encoder)


def _rating(file: RatingVariantFile, make: CardMaker, encoders: Encoders) -> Reward:
    formula, encoder = aesthetic, encoders.image(file.image_encoder)
    card = make.card(
        file.card, version=formula.FORMULA_VERSION, required=formula.REQUIRED_FIELDS, graphs=[encoder.graph]
    )
    return formula.Aesthetic(card, encoder)


def _image_text(file: ImageTextVariantFile, make: CardMaker, encoders: Encoders) -> Reward:
    formula, images, texts = preference, encoders.image(file.image_encoder), encoders.text(file.text_encoder)
    graphs = [images.graph, texts.graph]
    card = make.card(file.card, version=formula.FORMULA_VERSION, required=formula.REQUIRED_FIELDS, graphs=graphs)
    return formula.ImageTextPreference(card, images, texts)


def _pair(file: PairVariantFile, make: CardMaker, encoders: Encoders) -> Reward:
    formula, encoder = preference, encoders.pair(file.encoder, "image_reward")
    required = formula.REQUIRED_FIELDS
    card = make.card(file.card, version=formula.FORMULA_VERSION, required=required, graphs=[encoder.graph])
    return formula.PairPreference(card, encoder)

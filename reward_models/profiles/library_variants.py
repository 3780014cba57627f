"""Variants over library graphs, from their YAML to a `Reward`: part of `variants.py`."""

from __future__ import annotations

from sync_r1.reward_models.graphs.spec import GraphSpec
from sync_r1.reward_models.inputs.encoders import ImageEncoder
from sync_r1.reward_models.inputs.faces import CroppedFaces, DetectedFaces, FaceEncoder
from sync_r1.reward_models.inputs.whole_pictures import WholePictures
from sync_r1.reward_models.profiles.card_texts import CardMaker
from sync_r1.reward_models.profiles.variant_files import (
    DistortionVariantFile,
    FaceVariantFile,
    OcrVariantFile,
    ReleasedIdentityVariantFile,
)
from sync_r1.reward_models.rewards import faces, rendered_text, technical
from sync_r1.reward_models.rewards.base import Reward
from sync_r1.reward_models.types import ProfileError


def released_identity(
    file: ReleasedIdentityVariantFile,
    make: CardMaker,
    clip: ImageEncoder,
    *,
    detector: GraphSpec,
    facenet: GraphSpec,
    dlib: GraphSpec,
) -> Reward:
    """`concept-consistency` as the released Sync-R1 has it. Raises ProfileError."""
    graphs = [detector, facenet, dlib, clip.graph]
    card = make.card(file.card, version=faces.FORMULA_VERSION, required=faces.REQUIRED_FIELDS, graphs=graphs)
    return faces.ReleasedIdentity(card, _cropped(detector, facenet), _detected(dlib), clip)


def face(file: FaceVariantFile, make: CardMaker, detector: GraphSpec, embedder: GraphSpec | None) -> Reward:
    """`concept-consistency` by one face encoder. Raises ProfileError."""
    graphs = [detector] if embedder is None else [detector, embedder]
    card = make.card(file.card, version=faces.FORMULA_VERSION, required=faces.REQUIRED_FIELDS, graphs=graphs)
    encoder: FaceEncoder = _detected(detector) if embedder is None else _cropped(detector, embedder)
    return faces.FaceIdentity(card, encoder, file.likeness)


def ocr(file: OcrVariantFile, make: CardMaker, reader: GraphSpec) -> Reward:
    """`text-faithfulness` of text that is to be rendered. Raises ProfileError."""
    formula = rendered_text
    card = make.card(file.card, version=formula.FORMULA_VERSION, required=formula.REQUIRED_FIELDS, graphs=[reader])
    return formula.RenderedText(card, _whole(reader, "text", "confidence"))


def distortion(file: DistortionVariantFile, make: CardMaker, graph: GraphSpec) -> Reward:
    """`aesthetic` by distortion alone. Raises ProfileError."""
    formula = technical
    card = make.card(file.card, version=formula.FORMULA_VERSION, required=formula.REQUIRED_FIELDS, graphs=[graph])
    return formula.TechnicalQuality(card, _whole(graph, "score"))


def _detected(graph: GraphSpec) -> DetectedFaces:
    return DetectedFaces(_whole(graph, "found", "embedding"))


def _cropped(detector: GraphSpec, embedder: GraphSpec) -> CroppedFaces:
    if not embedder.takes_pictures or [output.name for output in embedder.outputs] != ["embedding"]:
        raise ProfileError(f"graph {embedder.name!r} embeds no faces: it needs square `pixels` and gives `embedding`")
    return CroppedFaces(_whole(detector, "found", f"face{embedder.picture_size}"), embedder)


def _whole(graph: GraphSpec, *outputs: str) -> WholePictures:
    found = [output.name for output in graph.outputs]
    missing = [output for output in outputs if output not in found]
    if not graph.library or missing:
        raise ProfileError(
            f"graph {graph.name!r} does not fit here: expected a library graph with outputs {', '.join(outputs)}, "
            f"it is {'a library graph' if graph.library else 'none'} with {', '.join(found) or 'none'}"
        )
    return WholePictures(graph)

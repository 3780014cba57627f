"""Concept consistency by faces: is the person in the picture *this* person?

`sync_r1` is the released Sync-R1's reward (arXiv 2605.10445, `grpo.py` and `utils.py` of its code), without the shift
to a mean of 0.8 that the release adds per type: that belongs to the trainer's normalisation. `arcface` and `dlib_face`
are one face encoder each.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from sync_r1.reward_models.cards import Card
from sync_r1.reward_models.inputs.encoders import ImageEncoder, Outputs, cosine
from sync_r1.reward_models.inputs.faces import FaceEncoder, Faces
from sync_r1.reward_models.rewards.base import ItemReward
from sync_r1.reward_models.rewards.fields import finite_score, missing_field
from sync_r1.reward_models.runner import GraphRunner, RunContext
from sync_r1.reward_models.types import Failure, FailureCode, NotApplicable, Outcome, Picture, Sample

FORMULA_VERSION = "1"
REQUIRED_FIELDS = ("image", "concept.references", "concept.conversation_type")
PERSON_TYPES = ("person", "human")
"""What `concept.conversation_type` says of a person; UnifyBench++ says "human"."""

FACENET_WEIGHT, DLIB_WEIGHT = 0.7, 0.3
Embedding = npt.NDArray[np.float32]
Likeness = Callable[[Embedding, Embedding], float]


def is_person(sample: Sample) -> bool:
    """The release looks for "man" in the class instead, which a German shepherd has and a girl has not."""
    return sample.concept.conversation_type.strip().lower() in PERSON_TYPES


def ramp(likeness: float) -> float:
    """rho: 0 up to 0.5, then rising to 1 at 1; NaN stays NaN."""
    return float(np.maximum(0.0, 2 * (likeness - 0.5)))


def closeness(a: Embedding, b: Embedding) -> float:
    """1 - Euclidean distance: how `face_recognition` compares dlib's descriptors."""
    return 1 - float(np.linalg.norm(a.astype(np.float64) - b.astype(np.float64)))


@dataclass(frozen=True)
class ReleasedIdentity(ItemReward):
    """sync_r1, for a person: 0.7 * facenet + 0.3 * dlib, or the one of them that finds a face in the picture and in a
    reference, or where none does, clip; for anything else: clip.

    facenet = mean over references with a face of ramp(cosine), dlib = the same of ramp(1 - distance), clip = ramp(mean
    cosine over all references). Components: those of `facenet`, `dlib` and `clip` that made the value.
    """

    card: Card
    facenet: FaceEncoder
    dlib: FaceEncoder
    clip: ImageEncoder

    @property
    def graphs(self) -> tuple[str, ...]:
        """Those of both face encoders, and CLIP."""
        return (*self.facenet.graphs, *self.dlib.graphs, self.clip.graph.name)

    async def score_batch(self, samples: Sequence[Sample], runner: GraphRunner, context: RunContext) -> list[Outcome]:
        """See `Reward.score`. Faces are looked for in persons' pictures only, CLIP runs where they do not decide."""
        failures = [missing_field(sample, REQUIRED_FIELDS) for sample in samples]
        usable = [sample for sample, failure in zip(samples, failures) if failure is None]
        persons = list(_pictures(sample for sample in usable if is_person(sample)))
        facenet, dlib = await asyncio.gather(
            self.facenet.run(persons, runner, context), self.dlib.run(persons, runner, context)
        )
        by_face = {
            number: self._faces(sample, facenet, dlib)
            for number, (sample, failure) in enumerate(zip(samples, failures))
            if failure is None and is_person(sample)
        }
        others = [s for number, (s, f) in enumerate(zip(samples, failures)) if f is None and not by_face.get(number)]
        embeddings = await self.clip.run(_pictures(others), runner, context)
        return [
            failure or self._score(sample, by_face.get(number, {}), embeddings)
            for number, (sample, failure) in enumerate(zip(samples, failures))
        ]

    def _faces(self, sample: Sample, facenet: Faces, dlib: Faces) -> dict[str, float]:
        found = {"facenet": _mean_ramp(sample, facenet, cosine), "dlib": _mean_ramp(sample, dlib, closeness)}
        return {name: value for name, value in found.items() if value is not None}

    def _score(self, sample: Sample, by_face: dict[str, float], embeddings: dict[str, Outputs]) -> Outcome:
        if len(by_face) == 2:
            value = FACENET_WEIGHT * by_face["facenet"] + DLIB_WEIGHT * by_face["dlib"]
            return finite_score(value, by_face, self.graphs)
        if by_face:
            return finite_score(next(iter(by_face.values())), by_face, self.graphs)
        assert sample.image is not None  # checked by missing_field
        image_D = embeddings[sample.image.sha256]["embedding"]
        cosines = [cosine(image_D, embeddings[picture.sha256]["embedding"]) for picture in sample.concept.references]
        value = ramp(float(np.mean(cosines)))
        return finite_score(value, {"clip": value}, self.graphs)


@dataclass(frozen=True)
class FaceIdentity(ItemReward):
    """value = mean over the references with a face of its cosine, or 1 - distance, to the picture's face.

    Not applicable to a concept that is no person. A person's picture without a face is a measured 0 with component
    `face_found` = 0; references without any face are a failure. Component `reference_faces`: in how many one is found.
    """

    card: Card
    faces: FaceEncoder
    likeness: Literal["cosine", "closeness"] = "cosine"

    @property
    def graphs(self) -> tuple[str, ...]:
        """Those of the face encoder."""
        return self.faces.graphs

    async def score_batch(self, samples: Sequence[Sample], runner: GraphRunner, context: RunContext) -> list[Outcome]:
        """See `Reward.score`. Each distinct picture is searched once."""
        early = [missing_field(sample, REQUIRED_FIELDS) or _no_person(sample) for sample in samples]
        pictures = _pictures(sample for sample, done in zip(samples, early) if done is None)
        faces = await self.faces.run(pictures, runner, context)
        return [done or self._score(sample, faces) for sample, done in zip(samples, early)]

    def _score(self, sample: Sample, faces: Faces) -> Outcome:
        assert sample.image is not None  # checked by missing_field
        references = [face for p in sample.concept.references if (face := faces[p.sha256]) is not None]
        if not references:
            count = len(sample.concept.references)
            message = f"no face is found in any of the {count} references; send one that shows the person's face"
            return Failure(FailureCode.BAD_REFERENCE, message, "concept.references")
        image = faces[sample.image.sha256]
        components = {"face_found": float(image is not None), "reference_faces": float(len(references))}
        if image is None:
            return finite_score(0.0, components, self.graphs)
        likeness = cosine if self.likeness == "cosine" else closeness
        return finite_score(float(np.mean([likeness(image, face) for face in references])), components, self.graphs)


def _pictures(samples: Iterable[Sample]) -> Iterable[Picture]:
    for sample in samples:
        if sample.image is not None:
            yield from (sample.image, *sample.concept.references)


def _mean_ramp(sample: Sample, faces: Faces, likeness: Likeness) -> float | None:
    """None unless there is a face in the picture and in one of the references."""
    assert sample.image is not None
    image = faces[sample.image.sha256]
    references = [face for p in sample.concept.references if (face := faces[p.sha256]) is not None]
    if image is None or not references:
        return None
    return float(np.mean([ramp(likeness(image, face)) for face in references]))


def _no_person(sample: Sample) -> NotApplicable | None:
    if is_person(sample):
        return None
    return NotApplicable(f"faces are compared of persons only, the concept is {sample.concept.conversation_type!r}")

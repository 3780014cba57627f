"""From pictures to the embedding of the face in each, or None where no face is found."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from sync_r1.reward_models.graphs.spec import GraphSpec
from sync_r1.reward_models.inputs.preparation import Preparation
from sync_r1.reward_models.inputs.whole_pictures import WholePictures
from sync_r1.reward_models.runner import GraphRunner, RunContext
from sync_r1.reward_models.types import Picture

Faces = dict[str, "npt.NDArray[np.float32] | None"]
"""Embedding (D,) of a picture's face, by the picture's digest."""


class FaceEncoder(Protocol):
    """Finds a face in every picture and embeds it."""

    @property
    def graphs(self) -> tuple[str, ...]:
        """Names of the graphs it runs."""
        ...

    @property
    def preparations(self) -> tuple[Preparation, ...]:
        """What it needs of each picture."""
        ...

    async def run(self, pictures: Iterable[Picture], runner: GraphRunner, context: RunContext) -> Faces:
        """Each picture once. Raises GraphError."""
        ...


@dataclass(frozen=True)
class DetectedFaces:
    """One graph that finds and embeds: outputs `found` and `embedding`."""

    detector: WholePictures

    @property
    def preparations(self) -> tuple[Preparation, ...]:
        """What it needs of each picture."""
        return self.detector.preparations

    @property
    def graphs(self) -> tuple[str, ...]:
        """The one."""
        return (self.detector.graph.name,)

    async def run(self, pictures: Iterable[Picture], runner: GraphRunner, context: RunContext) -> Faces:
        """See `FaceEncoder.run`."""
        outputs = await self.detector.run(pictures, runner, context)
        return {digest: output["embedding"] if output["found"].item() else None for digest, output in outputs.items()}


@dataclass(frozen=True)
class CroppedFaces:
    """A graph that finds and cuts out (`found`, `face<size>`), and one that embeds what was cut out."""

    detector: WholePictures
    embedder: GraphSpec

    @property
    def preparations(self) -> tuple[Preparation, ...]:
        """What it needs of each picture."""
        return self.detector.preparations

    @property
    def graphs(self) -> tuple[str, ...]:
        """Both."""
        return (self.detector.graph.name, self.embedder.name)

    @property
    def crop(self) -> str:
        """Which output of the detector is of the embedder's size."""
        return f"face{self.embedder.inputs[0].shape[0]}"

    async def run(self, pictures: Iterable[Picture], runner: GraphRunner, context: RunContext) -> Faces:
        """See `FaceEncoder.run`."""
        outputs = await self.detector.run(pictures, runner, context)
        found = [digest for digest, output in outputs.items() if output["found"].item()]
        faces: Faces = dict.fromkeys(outputs)
        if found:
            pixels = np.stack([outputs[digest][self.crop] for digest in found])
            result = await runner.run(context, self.embedder.name, {self.embedder.inputs[0].name: pixels})
            faces |= dict(zip(found, result.outputs["embedding"]))
        return faces

"""From pictures of any size to a library graph's outputs: these graphs see the picture itself, not a square of it.

Equal pictures are run once; pictures of one shape share a request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from sync_r1.reward_models.graphs.spec import GraphSpec
from sync_r1.reward_models.inputs.encoders import Outputs
from sync_r1.reward_models.inputs.preparation import Preparation
from sync_r1.reward_models.runner import GraphRunner, RunContext
from sync_r1.reward_models.threads import in_thread
from sync_r1.reward_models.types import Picture, Pixels

LONGEST_SIDE = 1024
"""Pixels. Larger pictures are reduced to it: libraries need seconds for them, and find the same faces and lines."""


@dataclass(frozen=True)
class WholePictures:
    """A graph that takes `pixels` (N, H, W, 3) of uint8, of any height and width."""

    graph: GraphSpec

    @property
    def preparations(self) -> tuple[Preparation, ...]:
        """What it needs of each picture."""
        return (BOUNDED,)

    async def run(self, pictures: Iterable[Picture], runner: GraphRunner, context: RunContext) -> dict[str, Outputs]:
        """Outputs by picture digest, each picture run once. Raises GraphError."""
        distinct = {picture.sha256: picture for picture in pictures}
        shapes = await in_thread(context.deadline_s, lambda: _by_shape(distinct))
        tasks = [
            asyncio.ensure_future(runner.run(context, self.graph.name, {self.graph.inputs[0].name: np.stack(pixels)}))
            for pixels in (list(group.values()) for group in shapes)
        ]
        try:
            results = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        return {
            digest: {name: array[row] for name, array in result.outputs.items()}
            for group, result in zip(shapes, results)
            for row, digest in enumerate(group)
        }


def bounded(pixels: Pixels) -> Pixels:
    """The picture (H, W, 3), reduced where its longer side is above LONGEST_SIDE (bicubic, antialiased)."""
    size = _bounded_size(*pixels.shape[:2])
    if size == pixels.shape[:2]:
        return pixels
    return np.asarray(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BICUBIC))


def _bounded_size(height: int, width: int) -> tuple[int, int]:
    scale = LONGEST_SIDE / max(height, width)
    if scale >= 1:
        return height, width
    return max(1, round(height * scale)), max(1, round(width * scale))


@dataclass(frozen=True)
class _Bounded:
    """`bounded`, as a `Preparation`."""

    def __call__(self, pixels: Pixels) -> Pixels:
        return bounded(pixels)

    def size_bytes(self, height: int, width: int) -> int:
        tall, wide = _bounded_size(height, width)
        return tall * wide * 3


BOUNDED = _Bounded()


def _by_shape(pictures: dict[str, Picture]) -> list[dict[str, Pixels]]:
    """Pixels by digest, pictures of one shape together."""
    groups: dict[tuple[int, ...], dict[str, Pixels]] = {}
    for digest, picture in pictures.items():
        pixels = picture.prepared(BOUNDED)
        groups.setdefault(pixels.shape, {})[digest] = pixels
    return list(groups.values())

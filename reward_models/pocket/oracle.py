"""The oracle: a supervised recogniser that reads a scene graph from a pocket picture. It judges the loop and is never
a reward.

It shares no weights with pocket-clip or pocket-aesthetic, so that a policy which learnt to please the rewards without
drawing what they ask for would be found out. Needs torch (extra `train`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from sync_r1.reward_models.pocket.world.attributes import ATTRIBUTES, scene_from
from sync_r1.reward_models.pocket.world.scene_graph import PICTURE_SIZE, Accessory, Scene, Things

# What a PocketBench condition asks for: an accessory, a companion (its count and side do not matter), or the name of a
# background.
Condition = Accessory | Things | str
_BATCH = 256


@dataclass(frozen=True)
class Reading:
    """What the oracle sees in one picture, and how sure it is of each attribute (probability of the chosen class)."""

    scene: Scene
    confidence: Mapping[str, float]


class OracleNet(nn.Module):
    """A small residual CNN: float (N, 3, 64, 64) in [-1, 1] to one row of logits per picture, all attributes side by
    side."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes = [len(options) for options in ATTRIBUTES.values()]
        self.stem = nn.Sequential(_conv(3, 32, 2), _conv(32, 64, 2), _conv(64, 112, 2))
        self.blocks = nn.ModuleList(nn.Sequential(_conv(112, 112), _conv(112, 112)) for _ in range(2))
        self.reduce = _conv(112, 96, 2)
        self.read = nn.Sequential(nn.Flatten(), nn.Linear(96 * 16, 256), nn.ReLU(), nn.Linear(256, sum(self.sizes)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        logits: Tensor = self.read(self.reduce(x))
        return logits


def _conv(entering: int, leaving: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(entering, leaving, 3, stride, 1, bias=False), nn.BatchNorm2d(leaving), nn.ReLU(inplace=True)
    )


class Oracle:
    """The trained recogniser. `Oracle.load().read(pictures)`."""

    def __init__(self, net: OracleNet) -> None:
        self.net = net.eval()

    @classmethod
    def load(cls, path: Path = Path(__file__).parent / "artefacts" / "oracle.safetensors") -> Oracle:
        """The checked-in oracle. Raises `FileNotFoundError` where it has not been trained yet."""
        net = OracleNet()
        net.load_state_dict({name: _full(tensor) for name, tensor in load_file(path).items()})
        return cls(net)

    @torch.no_grad()
    def read(self, pictures_N: npt.NDArray[np.uint8]) -> list[Reading]:
        """One `Reading` per picture of `pictures_N`, uint8 (N, 64, 64, 3) RGB. Raises `ValueError` on another shape
        or type."""
        if pictures_N.dtype != np.uint8 or pictures_N.shape[1:] != (PICTURE_SIZE, PICTURE_SIZE, 3):
            raise ValueError(
                f"the oracle reads uint8 pictures (N, {PICTURE_SIZE}, {PICTURE_SIZE}, 3); got {pictures_N.dtype} "
                f"{pictures_N.shape}: resize and stack them first"
            )
        readings: list[Reading] = []
        for start in range(0, len(pictures_N), _BATCH):
            pixels = torch.from_numpy(np.ascontiguousarray(pictures_N[start : start + _BATCH]))
            logits = self.net(pixels.permute(0, 3, 1, 2).float() * (2 / 255) - 1)
            readings += _readings(logits.split(self.net.sizes, dim=-1))
        return readings


def _readings(logits_per_attribute: Sequence[Tensor]) -> list[Reading]:
    probabilities = {name: logits.softmax(-1) for name, logits in zip(ATTRIBUTES, logits_per_attribute)}
    # Whether there is an accessory (a companion) is its kind's decision; its colour, count and side then name a real
    # class.
    for name in ("accessory_colour", "thing_colour", "count", "relation"):
        probabilities[name] = torch.cat(
            [torch.zeros_like(probabilities[name][:, :1]), probabilities[name][:, 1:]], dim=1
        )
    sure_A_N, class_A_N = zip(*(probability.max(-1) for probability in probabilities.values()))
    return [
        Reading(scene_from(classes), dict(zip(ATTRIBUTES, sure)))
        for classes, sure in zip(torch.stack(class_A_N, -1).tolist(), torch.stack(sure_A_N, -1).tolist())
    ]


def _full(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def concept_right(reading: Reading, concept: Scene) -> bool:
    """Whether the figure is the concept's: kind, colour and pattern."""
    seen = reading.scene
    return (seen.kind, seen.colour, seen.pattern) == (concept.kind, concept.colour, concept.pattern)


def condition_right(reading: Reading, condition: Condition) -> bool:
    """Whether the condition's fact is visible: accessory (kind and colour), companion (kind and colour) or
    background."""
    seen = reading.scene
    if isinstance(condition, Accessory):
        return seen.accessory == condition
    if isinstance(condition, Things):
        return seen.things is not None and (seen.things.kind, seen.things.colour) == (condition.kind, condition.colour)
    return seen.background == condition


def success(reading: Reading, concept: Scene, condition: Condition) -> bool:
    """The success of a generated picture: the right concept, and the condition's fact visible."""
    return concept_right(reading, concept) and condition_right(reading, condition)

"""What graphs take of a picture, made as soon as it is decoded, so that its pixels need not be kept.

A call may hold 64 MB of files that decode to gigabytes, while a graph reads 224 x 224 pixels of each. A reward says
what its graphs take (`preparations`); whoever decodes makes just that, one picture after the other, and frees the
pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from sync_r1.reward_models.images import Preprocessing
from sync_r1.reward_models.types import Picture, Pixels


class Preparation(Protocol):
    """One way to make a graph's input of a picture; equal ones make the same of it."""

    def __call__(self, pixels: Pixels) -> Any:
        """(H, W, 3) of uint8 to what the graph takes of one picture."""
        ...

    def size_bytes(self, height: int, width: int) -> int:
        """At most how many bytes it makes of a picture of that size."""
        ...

    def __hash__(self) -> int:
        """It is looked up by its value."""
        ...


@dataclass(frozen=True)
class Square:
    """The `size` x `size` pixels of a graph, by its preprocessing."""

    preprocessing: Preprocessing
    size: int

    def __call__(self, pixels: Pixels) -> Any:
        """See `Preparation`."""
        return self.preprocessing(pixels, self.size)

    def size_bytes(self, height: int, width: int) -> int:
        """See `Preparation`."""
        return self.size * self.size * 3 * (4 if self.preprocessing.resize == "pad_bicubic" else 1)


class PreparedPicture(Picture):
    """A picture of which only what some preparations made is left."""

    made: Mapping[Callable[[Pixels], Any], Any]

    def __init__(self, sha256: str, made: Mapping[Callable[[Pixels], Any], Any]) -> None:
        object.__setattr__(self, "sha256", sha256)
        object.__setattr__(self, "made", made)

    @property
    def pixels(self) -> Pixels:
        """Raises LookupError: they are gone."""
        raise LookupError(f"the pixels of this picture are gone; what is left of it is by {list(self.made)}")

    def prepared(self, by: Callable[[Pixels], Any]) -> Any:
        """See `Picture.prepared`. Raises KeyError for what nobody asked for when it was decoded."""
        return self.made[by]


def prepare(picture: Picture, preparations: tuple[Preparation, ...]) -> Picture:
    """The picture without its pixels, if somebody said what is needed of them; else the picture."""
    if not preparations:
        return picture
    return PreparedPicture(picture.sha256, {by: picture.prepared(by) for by in preparations})


def needed_bytes(height: int, width: int, preparations: tuple[Preparation, ...]) -> int:
    """At most how many bytes `prepare` leaves of a picture of that size."""
    if not preparations:
        return height * width * 3
    return sum(by.size_bytes(height, width) for by in preparations)

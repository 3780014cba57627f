"""The six places of the pocket domain, painted once each (see `drawing.py`), every one with its own layout and
colours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image, ImageDraw

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class _Canvas:
    """Flat shapes in pixels of the small picture, drawn `scale` times as large."""

    draw: ImageDraw.ImageDraw
    width: int
    height: int
    scale: int

    def box(self, left: float, top: float, right: float, bottom: float, fill: Colour) -> None:
        scale = self.scale
        self.draw.rectangle((left * scale, top * scale, right * scale, bottom * scale), fill=fill)

    def disc(self, x: float, y: float, radius: float, fill: Colour) -> None:
        scale = self.scale
        self.draw.ellipse(
            ((x - radius) * scale, (y - radius) * scale, (x + radius) * scale, (y + radius) * scale), fill=fill
        )

    def triangle(self, x: float, top: float, bottom: float, half: float, fill: Colour) -> None:
        scale = self.scale
        self.draw.polygon(
            [(x * scale, top * scale), ((x - half) * scale, bottom * scale), ((x + half) * scale, bottom * scale)],
            fill=fill,
        )


def paint(name: str, width: int, height: int, scale: int) -> Image.Image:
    """The empty place `name` as an RGB picture of (width x height) px, drawn `scale` times as large."""
    if name not in _PLACES:
        raise ValueError(f"no place is called {name!r}; there are {', '.join(_PLACES)}")
    picture = Image.new("RGB", (width * scale, height * scale))
    _PLACES[name](_Canvas(ImageDraw.Draw(picture), width, height, scale))
    return picture


def _beach(on: _Canvas) -> None:
    on.box(0, 0, on.width, 26, (150, 220, 250))
    on.box(0, 26, on.width, 40, (40, 170, 200))
    on.box(0, 40, on.width, on.height, (245, 222, 160))
    on.disc(16, 9, 6, (255, 245, 150))


def _forest(on: _Canvas) -> None:
    on.box(0, 0, on.width, on.height, (170, 205, 160))
    on.box(0, 48, on.width, on.height, (50, 95, 50))
    for x in (6, 23, 40, 57, 74):
        on.box(x - 2, 36, x + 2, 54, (80, 60, 45))
        on.triangle(x, 2 + x % 2 * 5, 42, 9, (25, 85, 50))


def _snow(on: _Canvas) -> None:
    on.box(0, 0, on.width, 30, (190, 205, 225))
    on.box(0, 30, on.width, on.height, (250, 252, 255))
    for x, y in ((5, 6), (17, 18), (29, 5), (41, 15), (53, 4), (64, 19), (72, 8)):
        on.disc(x, y, 2.2, (255, 255, 255))
    on.triangle(14, 12, 32, 14, (225, 235, 245))
    on.triangle(60, 14, 32, 16, (225, 235, 245))


def _night(on: _Canvas) -> None:
    on.box(0, 0, on.width, on.height, (18, 22, 60))
    on.box(0, 50, on.width, on.height, (30, 45, 50))
    on.disc(62, 11, 8, (250, 245, 200))
    for x, y in ((6, 8), (18, 20), (28, 6), (40, 16), (50, 28), (10, 34), (70, 30)):
        on.disc(x, y, 1.2, (240, 240, 220))


def _city(on: _Canvas) -> None:
    on.box(0, 0, on.width, on.height, (235, 215, 205))
    for x, top in ((0, 20), (15, 8), (31, 26), (46, 12), (61, 22)):
        on.box(x, top, x + 13, 52, (130, 135, 145))
        for row in range(top + 4, 50, 8):
            on.box(x + 2, row, x + 5, row + 4, (235, 230, 190))
            on.box(x + 8, row, x + 11, row + 4, (235, 230, 190))
    on.box(0, 50, on.width, on.height, (85, 85, 92))
    for x in range(2, on.width, 14):
        on.box(x, 56, x + 7, 58, (230, 230, 230))


def _room(on: _Canvas) -> None:
    on.box(0, 0, on.width, on.height, (225, 200, 225))
    on.box(0, 46, on.width, on.height, (165, 125, 100))
    on.box(0, 44, on.width, 46, (250, 245, 245))
    on.box(8, 6, 26, 26, (250, 250, 250))
    on.box(10, 8, 16, 24, (170, 215, 245))
    on.box(18, 8, 24, 24, (170, 215, 245))
    on.box(54, 8, 68, 22, (130, 90, 60))
    on.box(56, 10, 66, 20, (245, 240, 220))


_PLACES: dict[str, Callable[[_Canvas], None]] = {
    "beach": _beach,
    "forest": _forest,
    "snow": _snow,
    "night": _night,
    "city": _city,
    "room": _room,
}

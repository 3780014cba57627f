"""Outlined flat shapes in unit coordinates, supersampled: what `drawing.py` and `figures.py` draw with."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
SUPER = 3  # pictures are drawn this many times as large
INK, SKIN, HAIR, WHITE = (25, 20, 25), (250, 205, 165), (70, 40, 20), (255, 255, 255)


class Pen:
    """Draws in unit coordinates: `origin` and `scale` map a unit point to a supersampled pixel."""

    def __init__(self, picture: Image.Image, x: float, y: float, scale: float) -> None:
        self.draw, self.x, self.y, self.scale = ImageDraw.Draw(picture), x, y, scale
        self.line_width = round(1.1 * SUPER)

    def points(self, units: Sequence[float]) -> list[tuple[float, float]]:
        return [(self.x + u * self.scale, self.y + v * self.scale) for u, v in zip(units[::2], units[1::2])]

    def box(self, units: Sequence[float], grow: float = 0.0) -> tuple[float, float, float, float]:
        (left, top), (right, bottom) = self.points(units[:4])
        return left - grow, top - grow, right + grow, bottom + grow

    def shape(self, shape: str, units: Sequence[float], fill: Colour | int, outline: bool = True) -> None:
        """Fills one shape; with `outline`, an ink rim is laid under it first."""
        if outline:
            self.rim(shape, units)
        if shape == "polygon":
            self.draw.polygon(self.points(units), fill=fill)
        elif shape == "ellipse":
            self.draw.ellipse(self.box(units), fill=fill)
        else:
            self.draw.ellipse(self.box(units), outline=fill, width=int(units[4] * self.scale))

    def rim(self, shape: str, units: Sequence[float]) -> None:
        width = self.line_width
        if shape == "polygon":
            points = self.points(units)
            self.draw.polygon(points, fill=INK)
            self.draw.line([*points, points[0], points[1]], fill=INK, width=2 * width, joint="curve")
        elif shape == "ellipse":
            self.draw.ellipse(self.box(units, width), fill=INK)
        else:
            self.draw.ellipse(self.box(units, width), outline=INK, width=int(units[4] * self.scale) + 2 * width)

    def rectangle(self, left: float, top: float, right: float, bottom: float, fill: Colour) -> None:
        self.shape("polygon", (left, top, right, top, right, bottom, left, bottom), fill)


def shaded(colour: Colour, factor: float) -> Colour:
    """`colour` made darker (factor below 1) or lighter."""
    red, green, blue = (min(255, max(0, int(channel * factor))) for channel in colour)
    return red, green, blue

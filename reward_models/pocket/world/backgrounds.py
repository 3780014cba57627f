"""The six places of the pocket domain, painted once each (see `drawing.py`), every one with its own layout and
colours."""

from __future__ import annotations

from PIL import Image, ImageDraw


def paint(name: str, width: int, height: int, scale: int) -> Image.Image:
    """The empty place `name` as an RGB picture of (width x height) px, drawn `scale` times as large."""
    picture = Image.new("RGB", (width * scale, height * scale))
    draw = ImageDraw.Draw(picture)

    def box(left: float, top: float, right: float, bottom: float, fill: tuple[int, int, int]) -> None:
        draw.rectangle((left * scale, top * scale, right * scale, bottom * scale), fill=fill)

    def disc(x: float, y: float, radius: float, fill: tuple[int, int, int]) -> None:
        draw.ellipse(
            ((x - radius) * scale, (y - radius) * scale, (x + radius) * scale, (y + radius) * scale), fill=fill
        )

    def triangle(x: float, top: float, bottom: float, half: float, fill: tuple[int, int, int]) -> None:
        draw.polygon(
            [(x * scale, top * scale), ((x - half) * scale, bottom * scale), ((x + half) * scale, bottom * scale)],
            fill=fill,
        )

    if name == "beach":
        box(0, 0, width, 26, (150, 220, 250))
        box(0, 26, width, 40, (40, 170, 200))
        box(0, 40, width, height, (245, 222, 160))
        disc(16, 9, 6, (255, 245, 150))
    elif name == "forest":
        box(0, 0, width, height, (170, 205, 160))
        box(0, 48, width, height, (50, 95, 50))
        for x in (6, 23, 40, 57, 74):
            box(x - 2, 36, x + 2, 54, (80, 60, 45))
            triangle(x, 2 + x % 2 * 5, 42, 9, (25, 85, 50))
    elif name == "snow":
        box(0, 0, width, 30, (190, 205, 225))
        box(0, 30, width, height, (250, 252, 255))
        for x, y in ((5, 6), (17, 18), (29, 5), (41, 15), (53, 4), (64, 19), (72, 8)):
            disc(x, y, 2.2, (255, 255, 255))
        triangle(14, 12, 32, 14, (225, 235, 245))
        triangle(60, 14, 32, 16, (225, 235, 245))
    elif name == "night":
        box(0, 0, width, height, (18, 22, 60))
        box(0, 50, width, height, (30, 45, 50))
        disc(62, 11, 8, (250, 245, 200))
        for x, y in ((6, 8), (18, 20), (28, 6), (40, 16), (50, 28), (10, 34), (70, 30)):
            disc(x, y, 1.2, (240, 240, 220))
    elif name == "city":
        box(0, 0, width, height, (235, 215, 205))
        for x, top in ((0, 20), (15, 8), (31, 26), (46, 12), (61, 22)):
            box(x, top, x + 13, 52, (130, 135, 145))
            for row in range(top + 4, 50, 8):
                box(x + 2, row, x + 5, row + 4, (235, 230, 190))
                box(x + 8, row, x + 11, row + 4, (235, 230, 190))
        box(0, 50, width, height, (85, 85, 92))
        for x in range(2, width, 14):
            box(x, 56, x + 7, 58, (230, 230, 230))
    elif name == "room":
        box(0, 0, width, height, (225, 200, 225))
        box(0, 46, width, height, (165, 125, 100))
        box(0, 44, width, 46, (250, 245, 245))
        box(8, 6, 26, 26, (250, 250, 250))
        box(10, 8, 16, 24, (170, 215, 245))
        box(18, 8, 24, 24, (170, 215, 245))
        box(54, 8, 68, 22, (130, 90, 60))
        box(56, 10, 66, 20, (245, 240, 220))
    else:
        raise ValueError(f"no place is called {name!r}")
    return picture

"""The eight figures of the pocket domain in `drawing.py`'s unit box: silhouettes, anchors for accessories, faces."""

from __future__ import annotations

from collections.abc import Sequence

from sync_r1.reward_models.pocket.world.pen import HAIR, INK, SKIN, WHITE, Colour, Pen, shaded


class Figure:
    """A figure's shapes in unit coordinates and where accessories attach: crown, eyes and pole (x, y), neck (x, y,
    width)."""

    def __init__(
        self,
        body: Sequence[tuple[str, tuple[float, ...]]],
        crown: tuple[float, float],
        eyes: tuple[float, float],
        neck: tuple[float, float, float],
        pole: tuple[float, float],
    ) -> None:
        self.body, self.crown, self.eyes, self.neck, self.pole = body, crown, eyes, neck, pole


FIGURES = {
    "boy": Figure(
        [
            ("polygon", (32, 54, 68, 54, 68, 84, 32, 84)),
            ("polygon", (34, 54, 8, 62, 10, 74, 34, 68)),
            ("polygon", (66, 54, 92, 62, 90, 74, 66, 68)),
            ("polygon", (32, 82, 48, 82, 46, 100, 28, 100)),
            ("polygon", (52, 82, 68, 82, 72, 100, 54, 100)),
        ],
        (50, 26),
        (50, 40),
        (50, 56, 42),
        (86, 66),
    ),
    "girl": Figure([("polygon", (44, 52, 56, 52, 90, 92, 10, 92))], (50, 26), (50, 40), (50, 57, 42), (82, 72)),
    "cat": Figure(
        [
            ("ellipse", (26, 56, 74, 102)),
            ("ellipse", (22, 28, 78, 70)),
            ("polygon", (23, 48, 20, 16, 46, 32)),
            ("polygon", (77, 48, 80, 16, 54, 32)),
            ("polygon", (66, 100, 98, 94, 100, 60, 89, 60, 86, 83, 66, 86)),
        ],
        (50, 31),
        (50, 45),
        (50, 68, 48),
        (16, 84),
    ),
    "dog": Figure(
        [
            ("polygon", (8, 54, 68, 54, 68, 82, 8, 82)),
            ("polygon", (8, 80, 22, 80, 22, 100, 8, 100)),
            ("polygon", (54, 80, 68, 80, 68, 100, 54, 100)),
            ("polygon", (6, 64, -4, 34, 6, 32, 18, 58)),
            ("ellipse", (50, 28, 88, 66)),
            ("polygon", (76, 44, 102, 46, 102, 62, 76, 64)),
        ],
        (70, 32),
        (78, 42),
        (62, 66, 34),
        (30, 56),
    ),
    "bird": Figure(
        [
            ("ellipse", (16, 44, 78, 90)),
            ("ellipse", (50, 24, 88, 62)),
            ("polygon", (30, 58, -4, 44, 2, 60, -4, 76, 28, 76)),
        ],
        (68, 28),
        (72, 40),
        (64, 62, 38),
        (32, 54),
    ),
    "fish": Figure(
        [
            ("ellipse", (22, 34, 100, 92)),
            ("polygon", (36, 63, -2, 34, 6, 63, -2, 92)),
        ],
        (66, 37),
        (78, 52),
        (58, 66, 26),
        (40, 42),
    ),
    "mug": Figure(
        [("ring", (56, 44, 100, 86, 10)), ("polygon", (14, 34, 76, 34, 72, 100, 18, 100))],
        (45, 32),
        (45, 56),
        (45, 76, 64),
        (22, 36),
    ),
    "car": Figure(
        [("polygon", (-2, 62, 18, 60, 30, 34, 70, 34, 84, 60, 102, 64, 102, 88, -2, 88))],
        (50, 37),
        (52, 49),
        (50, 66, 60),
        (14, 62),
    ),
}


def _face(pen: Pen, x: float, y: float, gap: float = 8.0, radius: float = 3.2) -> None:
    for side in (-1, 1):
        eye = (x + side * gap - radius, y - radius, x + side * gap + radius, y + radius)
        pen.draw.ellipse(pen.box(eye), fill=INK)


def draw_details(pen: Pen, kind: str, colour: Colour) -> None:
    """What lies over the cloth: faces, hair, ears, beaks, wheels. They tell kinds apart after outlines have blurred."""
    dark = shaded(colour, 0.55)
    if kind in ("boy", "girl"):
        if kind == "girl":
            for side in (-1, 1):
                pen.shape(
                    "polygon", (50 + side * 16, 26, 50 + side * 34, 44, 50 + side * 30, 74, 50 + side * 12, 56), HAIR
                )
                pen.shape(
                    "polygon", (50 + side * 4, 92, 50 + side * 14, 92, 50 + side * 14, 100, 50 + side * 4, 100), SKIN
                )
        pen.shape("ellipse", (31, 22, 69, 58), SKIN)
        pen.draw.pieslice(pen.box((31, 20, 69, 56)), 180, 360, fill=HAIR)
        _face(pen, 50, 43)
    elif kind == "cat":
        pen.draw.ellipse(pen.box((39, 50, 61, 66)), fill=WHITE)
        pen.draw.polygon(pen.points((45, 51, 55, 51, 50, 57)), fill=INK)
        _face(pen, 50, 44, gap=12, radius=4)
    elif kind == "dog":
        pen.shape("polygon", (52, 32, 64, 32, 64, 66, 56, 68, 48, 58), dark)
        pen.draw.ellipse(pen.box((94, 42, 104, 52)), fill=INK)
        pen.draw.ellipse(pen.box((72, 38, 80, 46)), fill=INK)
    elif kind == "bird":
        pen.shape("polygon", (84, 34, 106, 45, 84, 54), (255, 170, 0))
        pen.shape("ellipse", (22, 52, 56, 78), dark)
        pen.draw.ellipse(pen.box((70, 34, 79, 43)), fill=INK)
        for x in (42, 54):
            pen.draw.line(pen.points((x, 90, x, 100, x + 8, 100)), fill=(255, 170, 0), width=2 * pen.line_width)
    elif kind == "fish":
        pen.shape("polygon", (44, 66, 66, 72, 48, 88), dark)
        pen.shape("ellipse", (72, 46, 86, 60), WHITE)
        pen.draw.ellipse(pen.box((77, 50, 84, 57)), fill=INK)
        pen.draw.line(pen.points((84, 76, 97, 70)), fill=INK, width=pen.line_width)
    elif kind == "mug":
        pen.shape("ellipse", (14, 27, 76, 43), (90, 50, 30))
        _face(pen, 45, 56)
    else:
        pen.shape("polygon", (35, 40, 49, 40, 49, 58, 27, 58), (190, 230, 250))
        pen.shape("polygon", (53, 40, 67, 40, 76, 58, 53, 58), (190, 230, 250))
        for x in (22, 78):
            pen.shape("ellipse", (x - 14, 74, x + 14, 102), (40, 40, 45))
            pen.draw.ellipse(pen.box((x - 5, 83, x + 5, 93)), fill=(200, 200, 205))

"""`framed`: the one frame of every HTML page that this project writes.

The frame is in `frame.html`, the look in `page.css`; each kind of page has a template of its own for what is inside.
"""

from __future__ import annotations

import html
from pathlib import Path
from string import Template

_FOLDER = Path(__file__).parent


def framed(title: str, lead: str, template: str, **parts: str) -> str:
    """A self-contained page: `template` (a file beside this one) with its `parts` filled in, under title and lead.

    `title` is plain text; `lead` and `parts` are HTML, escaped by the caller.
    """
    content = _fill(template, **parts)
    return _fill("frame.html", title=html.escape(title), lead=lead, style=_text("page.css"), content=content)


def _fill(template: str, **parts: str) -> str:
    return Template(_text(template)).substitute(parts)


def _text(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")

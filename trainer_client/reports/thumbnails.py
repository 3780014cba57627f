"""Pictures inside a page, so that it opens anywhere."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from PIL import Image

_LONGEST_SIDE = 256


def thumbnail(file: Path) -> str:
    """A data URI: small pictures as they are, large ones made smaller."""
    with Image.open(file) as image:
        small, buffer = image.convert("RGB"), io.BytesIO()
        lossless = max(small.size) <= _LONGEST_SIDE
        small.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
        small.save(buffer, "PNG" if lossless else "JPEG", **({} if lossless else {"quality": 90}))
    return f"data:image/{'png' if lossless else 'jpeg'};base64,{base64.b64encode(buffer.getvalue()).decode()}"

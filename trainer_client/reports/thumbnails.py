"""Pictures inside a page, so that it opens anywhere."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from PIL import Image

from sync_r1.reward_models.images import ImageError
from sync_r1.trainer_client.sdk.pictures import EncodedPicture

_LONGEST_SIDE = 256


def thumbnail(file: Path) -> str:
    """A data URI: small pictures as they are, large ones made smaller."""
    with Image.open(file) as image:
        return _data_uri(image.convert("RGB"))


def scored_thumbnail(data: bytes) -> str:
    """A data URI of a picture's file as a service scores it, upright and on white; "" for one that it refuses."""
    try:
        return _data_uri(Image.fromarray(EncodedPicture(data).pixels))
    except ImageError:
        return ""


def _data_uri(small: Image.Image) -> str:
    buffer = io.BytesIO()
    lossless = max(small.size) <= _LONGEST_SIDE
    small.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    small.save(buffer, "PNG" if lossless else "JPEG", **({} if lossless else {"quality": 90}))
    return f"data:image/{'png' if lossless else 'jpeg'};base64,{base64.b64encode(buffer.getvalue()).decode()}"

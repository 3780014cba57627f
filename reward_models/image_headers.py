"""What the header of a PNG, JPEG or WebP file says, without a decoder: the size of its pixels, and a JPEG's scans.

Admission counts by it how much a call will take before any of it is decoded, and `images.decode` refuses a file whose
decoder reads another size than stands here.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_MAX_SEGMENTS = 4096
"""Before a JPEG's first scan; files of cameras and phones have fewer than a hundred."""
_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xDA)})
_SCAN, _END = 0xDA, 0xD9
_AFTER_ENTROPY = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")
"""Where coded pixels end: a marker that is neither an escaped 0xFF nor a restart."""
_WINDOW = 1 << 20
"""Bytes searched at once: `re` holds the interpreter's lock, and others want it in between."""


@dataclass(frozen=True)
class Header:
    """Format (Pillow's name), size in pixels, and bits per channel (8 but for PNG)."""

    format: str
    height: int
    width: int
    depth: int = 8


def read_header(data: bytes) -> Header | None:
    """The header of a PNG, JPEG or WebP file; None where `data` is no such file or ends before its size is said."""
    try:
        if data[:8] == _PNG:
            return _png(data)
        if data[:3] == _JPEG:
            return _jpeg(data)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp(data)
    except (struct.error, IndexError):
        return None
    return None


def jpeg_scans(data: bytes, most: int) -> int:
    """How many scans the first image of a JPEG file has; counting ends at `most` + 1.

    Segments are walked by their lengths, as libjpeg does: neither a thumbnail inside one (it has scans and an end mark
    of its own) nor what lies behind the image's end (a phone's film) is part of it.
    """
    scans = 0
    for marker, _ in _segments(data):
        if marker == _END:
            break
        scans += marker == _SCAN
        if scans > most:
            break
    return scans


def _png(data: bytes) -> Header | None:
    if data[12:16] != b"IHDR":
        return None
    width, height, depth = struct.unpack_from(">IIB", data, 16)
    return Header("PNG", height, width, depth)


def _jpeg(data: bytes) -> Header | None:
    found = None
    for count, (marker, position) in enumerate(_segments(data)):
        if marker == _SCAN:
            return found
        if count > _MAX_SEGMENTS:
            return None
        if marker in _FRAME_MARKERS:  # the last one before the pixels counts, as for Pillow
            height, width = struct.unpack_from(">HH", data, position + 3)
            found = Header("JPEG", height, width)
    return None


def _webp(data: bytes) -> Header | None:
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (1 + int.from_bytes(data[start : start + 3], "little") for start in (24, 27))
        return Header("WEBP", height, width) if len(data) >= 30 else None
    if kind == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", data, 26)
        return Header("WEBP", height & 0x3FFF, width & 0x3FFF)
    if kind == b"VP8L" and data[20] == 0x2F:
        (bits,) = struct.unpack_from("<I", data, 21)
        return Header("WEBP", 1 + (bits >> 14 & 0x3FFF), 1 + (bits & 0x3FFF))
    return None


def _segments(data: bytes) -> Iterator[tuple[int, int]]:
    """(marker, where its length stands) of every segment after the start mark, in order."""
    position = 2
    while True:
        position = data.find(b"\xff", position)
        if position < 0:
            return
        while data[position : position + 1] == b"\xff":  # any number of them may stand before a marker
            position += 1
        if position >= len(data):
            return
        marker = data[position]
        position += 1
        if marker == 0:
            continue
        yield marker, position
        if marker in _WITHOUT_LENGTH:
            continue
        position += max(2, int.from_bytes(data[position : position + 2], "big"))
        if marker == _SCAN:
            position = _end_of_entropy(data, position)


def _end_of_entropy(data: bytes, position: int) -> int:
    while position < len(data):
        found = _AFTER_ENTROPY.search(data, position, position + _WINDOW)
        if found is not None:
            return found.start()
        # A marker may lie across the window's edge: its 0xFF is looked at again.
        position += _WINDOW - 1
    return len(data)

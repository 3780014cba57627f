"""What a request holds, counted before it is parsed.

The parser of protobuf holds Python's lock from the first byte to the last, in whatever thread it runs: 16 MB of empty
choices stopped every call and health check for seconds. The scan is plain Python, which gives the lock away, and ends
at the first limit that is passed.
"""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from sync_r1.protos.rewards.v1 import rewards_pb2
from sync_r1.services.access.status import InvalidRequest
from sync_r1.services.config import Limits

_Fields = dict[int, Any]
"""Field number -> the fields of its message, or None where it is one of bytes (a picture); others are not in it."""
_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5


def _fields(message: Any) -> _Fields:
    found: _Fields = {}
    for field in message.fields:
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            found[field.number] = _fields(field.message_type)
        elif field.type == FieldDescriptor.TYPE_BYTES:
            found[field.number] = None
    return found


_REQUEST = _fields(rewards_pb2.ScoreRequest.DESCRIPTOR)


def check_wire(body: bytes, limits: Limits) -> None:
    """Raise InvalidRequest where a serialised request has more fields, or more bytes beside its pictures, than a
    service takes. Bytes that are no request are left to the parser."""
    try:
        _scan(body, limits)
    except IndexError:
        return  # it ends in the middle of something


def _scan(body: bytes, limits: Limits) -> None:
    count = text_bytes = position = 0
    inside: list[tuple[int, _Fields]] = [(len(body), _REQUEST)]
    while inside:
        end, fields = inside[-1]
        if position >= end:
            inside.pop()
            continue
        key, position = _varint(body, position)
        count += 1
        if count > limits.max_request_fields:
            raise InvalidRequest(
                f"the request has more than {limits.max_request_fields} fields (max_request_fields: texts, pictures, "
                "entries of metadata); send fewer items, or fewer texts in each"
            )
        kind = key & 7
        if kind == _LENGTH:
            size, position = _varint(body, position)
            if position + size > len(body):
                return  # it ends in the middle of something
            known = fields.get(key >> 3, 0)
            if isinstance(known, dict):
                inside.append((position + size, known))
                continue
            if known is not None:
                text_bytes += size
            if text_bytes > limits.max_request_text_bytes:
                raise InvalidRequest(
                    f"the request has more than {limits.max_request_text_bytes} bytes beside its pictures "
                    "(max_request_text_bytes); send fewer items, or shorter texts"
                )
            position += size
        elif kind == _VARINT:
            _, position = _varint(body, position)
        elif kind in (_EIGHT_BYTES, _FOUR_BYTES):
            position += 8 if kind == _EIGHT_BYTES else 4


def _varint(body: bytes, position: int) -> tuple[int, int]:
    """The number at `position`, and where it ends. Raises IndexError."""
    byte = body[position]
    position += 1
    if byte < 128:
        return byte, position
    number, shift = byte & 127, 7
    while byte >= 128 and shift < 70:
        byte = body[position]
        position += 1
        number |= (byte & 127) << shift
        shift += 7
    return number, position

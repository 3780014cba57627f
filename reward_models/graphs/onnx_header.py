"""What an ONNX file says of its inputs and outputs, read without its weights.

The parts that hold weights are stepped over, so a file of gigabytes takes milliseconds and no memory. Written by hand
because a front, which checks its profile too, has neither onnx nor ONNX Runtime. Field numbers are those of onnx.proto.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from sync_r1.reward_models.errors import SyncR1Error

_DTYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 8: "string", 9: "bool",
    10: "float16", 11: "float64", 12: "uint32", 13: "uint64", 16: "bfloat16",
}  # fmt: skip
_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5


class NoOnnxFile(SyncR1Error, ValueError):
    """The file is cut off, or something else."""


@dataclass(frozen=True)
class OnnxTensor:
    """Element type (numpy's name, or "no tensor") and shape with the batch axis; None stands for any length.

    The shape as a whole is None where the file does not state it.
    """

    dtype: str
    shape: tuple[int | None, ...] | None


@dataclass(frozen=True)
class OnnxHeader:
    """Inputs and outputs by name, and the files beside it that hold its weights."""

    inputs: dict[str, OnnxTensor]
    outputs: dict[str, OnnxTensor]
    data_files: frozenset[str]


def read_header(path: Path) -> OnnxHeader:
    """Raises NoOnnxFile, and OSError where the file cannot be read. An unchanged file is read once."""
    facts = path.stat()
    return _read(path, facts.st_ino, facts.st_mtime_ns, facts.st_size)


@lru_cache(maxsize=256)
def _read(path: Path, *stamp: int) -> OnnxHeader:
    with path.open("rb") as file:
        end = file.seek(0, io.SEEK_END)
        file.seek(0)
        graphs = [_graph(file, file.tell() + size) for number, size, _ in _fields(file, end) if number == 7]
    if len(graphs) != 1 or not graphs[0].outputs:
        raise NoOnnxFile("it holds no graph with an output")
    return graphs[0]


def _graph(file: BinaryIO, end: int) -> OnnxHeader:
    inputs: dict[str, OnnxTensor] = {}
    outputs: dict[str, OnnxTensor] = {}
    weights, data_files = set[str](), set[str]()
    for number, size, _ in _fields(file, end):
        if number in (11, 12):
            name, tensor = _value_info(file.read(size))
            (inputs if number == 11 else outputs)[name] = tensor
        elif number == 5:
            name, places = _weights(file, file.tell() + size)
            weights.add(name)
            data_files |= places
    # Old files list their weights among the inputs too.
    return OnnxHeader({k: v for k, v in inputs.items() if k not in weights}, outputs, frozenset(data_files))


def _weights(file: BinaryIO, end: int) -> tuple[str, set[str]]:
    """Name of a tensor, and the files that hold its numbers if it does not."""
    name, places = "", set[str]()
    for number, size, _ in _fields(file, end):
        if number == 8:
            name = _text(file.read(size))
        elif number == 13:
            entry = dict(_small(file.read(size)))
            if entry.get(1) == b"location":
                places.add(_text(entry.get(2, b"")))
    return name, places


def _value_info(data: bytes) -> tuple[str, OnnxTensor]:
    fields = dict(_small(data))
    kind = dict(_small(_message(fields, 2)))
    if 1 not in kind:  # a sequence, a map, …
        return _text(fields.get(1, b"")), OnnxTensor("no tensor", None)
    tensor = dict(_small(_message(kind, 1)))
    code = tensor.get(1, 0)
    shape = None
    if 2 in tensor:
        shape = tuple(_length(value) for number, value in _small(_message(tensor, 2)) if number == 1)
    dtype = _DTYPES.get(code if isinstance(code, int) else 0, f"type {code!r}")
    return _text(fields.get(1, b"")), OnnxTensor(dtype, shape)


def _length(dimension: int | bytes) -> int | None:
    length = dict(_small(dimension if isinstance(dimension, bytes) else b"")).get(1)
    # Some exporters write "any" as 0, others as -1, which here is a number of 64 bits.
    return length if isinstance(length, int) and 0 < length < 1 << 63 else None


def _message(fields: dict[int, int | bytes], number: int) -> bytes:
    found = fields.get(number, b"")
    return found if isinstance(found, bytes) else b""


def _text(value: int | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else ""


def _small(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """All fields of a small message by their numbers."""
    file = io.BytesIO(data)
    for number, value, kind in _fields(file, len(data)):
        if kind in (_VARINT, _BYTES):
            yield number, file.read(value) if kind == _BYTES else value


def _fields(file: BinaryIO, end: int) -> Iterator[tuple[int, int, int]]:
    """(number, size or value, kind) of each field up to `end`. The file stands where the field's bytes begin, and is
    put behind them whatever was read. Raises NoOnnxFile.
    """
    while file.tell() < end:
        key = _varint(file)
        number, kind = key >> 3, key & 7
        value = _varint(file) if kind in (_VARINT, _BYTES) else {_EIGHT_BYTES: 8, _FOUR_BYTES: 4}.get(kind, -1)
        start = file.tell()
        after = start if kind == _VARINT else start + value
        if number == 0 or value < 0 or after > end:
            raise NoOnnxFile("it is cut off, or something else")
        yield number, value, kind
        file.seek(after)


def _varint(file: BinaryIO) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            break
        value |= (byte[0] & 127) << shift
        if byte[0] < 128:
            return value
    raise NoOnnxFile("it is cut off, or something else")

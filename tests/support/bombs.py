"""Small files that claim, or really unpack to, something huge; as a program it decodes each and prints the cost.

python tests/support/bombs.py            one JSON object per line: name, bytes, said, milliseconds, peak_mb
python tests/support/bombs.py FOLDER     the same for the files of a folder
"""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

from PIL import Image

from sync_r1.reward_models.images import ImageError, decode


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width: int, height: int, *chunks: bytes) -> bytes:
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + _chunk(b"IDAT", zlib.compress(b"\0" * 100)) + _END


_END = _chunk(b"IEND", b"")


def _saved(kind: str, side: int = 64, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), "red").save(buffer, kind, **options)
    return buffer.getvalue()


def _zeros(megabytes: int) -> bytes:
    packer = zlib.compressobj(9)
    return b"".join([*(packer.compress(bytes(1_000_000)) for _ in range(megabytes)), packer.flush()])


def _jpeg_claiming(width: int, height: int) -> bytes:
    data = bytearray(_saved("JPEG"))
    start = data.index(b"\xff\xc0")
    data[start + 5 : start + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def _jpeg_of_scans(scans: int) -> bytes:
    data = _saved("JPEG", 3900, progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * scans + b"\xff\xd9"


def _webp_claiming(width: int, height: int) -> bytes:
    canvas = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    body = b"WEBP" + b"VP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + canvas + _saved("WEBP", lossless=True)[12:]
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _animation(kind: str, frames: int) -> bytes:
    others = [Image.new("RGB", (512, 512), (index % 256, index // 256, 0)) for index in range(1, frames)]
    return _saved(kind, 512, save_all=True, append_images=others)


def bombs() -> dict[str, tuple[bytes, str]]:
    """Name -> (the file, words that its refusal must hold)."""
    zeros = _zeros(100)
    return {
        "PNG, header of 100,000 x 100,000": (_png(100_000, 100_000), "the limit is"),
        "PNG, header of 2^31 - 1 squared": (_png(2**31 - 1, 2**31 - 1), "the limit is"),
        "PNG, header of 16,000,001 x 1": (_png(16_000_001, 1), "the limit is"),
        "PNG, 100 MB of zeros as its text": (_png(64, 64, _chunk(b"zTXt", b"a\0\0" + zeros)), "damaged"),
        "PNG, 100 MB of zeros as its profile": (_png(64, 64, _chunk(b"iCCP", b"a\0\0" + zeros)), "damaged"),
        "PNG, animation of 30 frames": (_animation("PNG", 30), "animation"),
        "JPEG, header of 65,500 x 65,500": (_jpeg_claiming(65_500, 65_500), "the limit is"),
        "JPEG, 2,000 scans over 15 megapixels": (_jpeg_of_scans(2000), "scans"),
        "WebP, canvas of 16,384 x 16,384": (_webp_claiming(16_384, 16_384), "the limit is"),
        "WebP, animation of 30 frames": (_animation("WEBP", 30), "animation"),
        "GIF": (_saved("GIF"), "no PNG, JPEG or WebP"),
        "TIFF": (_saved("TIFF"), "no PNG, JPEG or WebP"),
    }


def _peak_mb() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def main(folder: Path) -> None:
    """Decode the files of a folder, in a process that has never held more, its decoders warmed up."""
    for kind in ("PNG", "JPEG", "WEBP"):
        assert decode(_saved(kind)).pixels.shape == (64, 64, 3)
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is resident now
        before_mb, started_s = _peak_mb(), time.perf_counter()
        try:
            decode(data)
            said = "decoded"
        except ImageError as error:
            said = str(error)
        elapsed_ms = (time.perf_counter() - started_s) * 1000
        figures = {"name": path.name, "bytes": len(data), "said": said, "milliseconds": round(elapsed_ms, 2)}
        print(json.dumps(figures | {"peak_mb": round(_peak_mb() - before_mb, 1)}))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        if len(sys.argv) > 1:
            main(Path(sys.argv[1]))
        else:
            for name, (data, _) in bombs().items():
                (Path(folder) / name).write_bytes(data)
            subprocess.run([sys.executable, __file__, folder], check=True)

"""Bytes of a PNG file from pixels (ISO/IEC 15948), 8 bits gray or RGB: enough to lay small pictures into a page."""

from __future__ import annotations

import base64
import struct
import zlib


def png(pixels: bytes, width: int, height: int, channels: int) -> bytes:
    """The bytes of a PNG file.

    Args:
        pixels: Rows from the top, each value a byte.
        width: In pixels.
        height: In pixels.
        channels: 1 (gray) or 3 (RGB).

    Raises:
        ValueError: There are not as many bytes as that.
    """
    step = width * channels
    if channels not in (1, 3) or len(pixels) != step * height:
        raise ValueError(f"{len(pixels)} bytes are no {width}x{height} picture of {channels} channels")
    lines = b"".join(b"\0" + pixels[start : start + step] for start in range(0, len(pixels), step))  # 0: no filter
    # 8 bits a value; color type 0 is gray, 2 is RGB; then compression, filter method and interlacing, all 0.
    header = struct.pack(">IIBBBBB", width, height, 8, 0 if channels == 1 else 2, 0, 0, 0)
    parts = (("IHDR", header), ("IDAT", zlib.compress(lines, 9)), ("IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name.encode(), data) for name, data in parts)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def data_uri(pixels: bytes, width: int, height: int, channels: int) -> str:
    """The same as a URI, for a page that loads nothing."""
    return "data:image/png;base64," + base64.b64encode(png(pixels, width, height, channels)).decode()

"""Pictures that show people what a value is: PNG, or a JPEG that the value itself holds.

Nothing is imported here before a value is of a kind whose library must be there.
"""

import struct
import sys
import zlib
from io import BytesIO
from typing import Any

from weftline.codecs.figures import draw_figure, figure_of

_MOST_BYTES = 256 * 1024
_SHOWN_PIXELS = 512
_MOST_SMOOTH_PIXELS = 16_000_000  # of an image; larger ones are made small in a rougher way
_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_SIDES = range(8, 4097)


def picture_of(value: Any) -> bytes | None:
    """A picture of the value of at most 256 KiB; None if there is none. It never fails."""
    try:
        if type(value) is bytes:
            is_picture = len(value) <= _MOST_BYTES and image_title(value) is not None
            return value if is_picture else None
        array_class = getattr(sys.modules.get("numpy"), "ndarray", None)
        if array_class is not None and type(value) is array_class:
            return _of_array(value)
        if _is_image(value):
            return _of_image(value)
        figure = figure_of(value)
        return None if figure is None else draw_figure(figure, _MOST_BYTES)
    except Exception:
        return None


def image_title(value: Any) -> str | None:
    """What is to be said of an image or figure; None for anything else. It may fail."""
    if type(value) is bytes:
        size = _png_size(value) or _jpeg_size(value)
        if size is None:
            return None
        kind = "png" if value.startswith(_PNG) else "jpeg"
        count = len(value)
        told = f"{count} bytes" if count < 1000 else f"{round(count / 1000):,} KB"
        return f"image/{kind} {size[0]}x{size[1]}, {told}"
    if _is_image(value):
        return f"{type(value).__name__} {value.mode} {value.width}x{value.height}"
    artist_class = getattr(sys.modules.get("matplotlib.artist"), "Artist", None)
    is_artist = artist_class is not None and isinstance(value, artist_class)
    return repr(value) if is_artist else None


# -- images as bytes ----------------------------------------------------------------------------


def _png_size(content: bytes) -> tuple[int, int] | None:
    if not content.startswith(_PNG) or content[12:16] != b"IHDR" or len(content) < 33:
        return None
    width, height = struct.unpack_from("!II", content, 16)
    return (width, height) if width and height else None


def _jpeg_size(content: bytes) -> tuple[int, int] | None:
    if not content.startswith(_JPEG):
        return None
    at = 2
    # Segments: 0xff, a mark, and for most a length that counts itself; the size of the image is
    # in the one that begins its frame.
    while at + 9 <= len(content) and content[at] == 0xFF:
        mark = content[at + 1]
        if mark == 0xFF:
            at += 1
        elif mark in _FRAMES:
            height, width = struct.unpack_from("!HH", content, at + 5)
            return (width, height) if width and height else None
        elif 0xD0 <= mark <= 0xD9 or mark == 0x01:
            at += 2
        else:
            at += 2 + int.from_bytes(content[at + 2 : at + 4], "big")
    return None


_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}


# -- arrays -------------------------------------------------------------------------------------


def _of_array(array: Any) -> bytes | None:
    """An array that looks like an image: uint8 [h, w], [h, w, 3] or [h, w, 4]."""
    if array.dtype.str != "|u1" or array.ndim not in (2, 3):
        return None
    height, width, *channels = array.shape
    if height not in _SIDES or width not in _SIDES:
        return None
    if channels and channels[0] not in (3, 4):
        return None
    step = -(-max(height, width) // _SHOWN_PIXELS)
    while len(content := _png(array[::step, ::step])) > _MOST_BYTES:
        step *= 2
    return content


def _png(array: Any) -> bytes:
    import numpy

    height, width = array.shape[:2]
    rows = numpy.ascontiguousarray(array).reshape(height, -1)
    # Each row is written as its difference to the one above (the PNG filter "up").
    filtered = numpy.empty((height, rows.shape[1] + 1), numpy.uint8)
    filtered[:, 0] = 2
    filtered[0, 1:] = rows[0]
    numpy.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    colours = {1: 0, 3: 2, 4: 6}[rows.shape[1] // width]
    header = struct.pack("!IIBBBBB", width, height, 8, colours, 0, 0, 0)
    content = zlib.compress(filtered.tobytes(), 6)
    return _PNG + _chunk(b"IHDR", header) + _chunk(b"IDAT", content) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(content, zlib.crc32(kind))
    return struct.pack("!I4s", len(content), kind) + content + struct.pack("!I", checksum)


# -- images of Pillow ---------------------------------------------------------------------------


def _is_image(value: Any) -> bool:
    image_class = getattr(sys.modules.get("PIL.Image"), "Image", None)
    return image_class is not None and isinstance(value, image_class)


def _of_image(image: Any) -> bytes | None:
    from PIL.Image import Resampling

    is_huge = image.width * image.height > _MOST_SMOOTH_PIXELS
    way = Resampling.NEAREST if is_huge else Resampling.BICUBIC
    for most in (_SHOWN_PIXELS, 256, 128):
        scale = min(1.0, most / max(image.size))
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        # A copy also when the size stays, so that nothing of the value is changed.
        small = image.copy() if scale == 1 else image.resize(size, way, reducing_gap=2.0)
        if small.mode not in _PNG_MODES:
            small = small.convert("L" if small.mode == "F" else "RGB")
        stream = BytesIO()
        small.save(stream, "PNG", icc_profile=None)
        if stream.tell() <= _MOST_BYTES:
            return stream.getvalue()
    return None


_PNG_MODES = {"1", "L", "LA", "P", "RGB", "RGBA", "I;16"}

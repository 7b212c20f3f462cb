"""The form of stored pickles, and the library that takes code apart for them."""

import pickle
import struct
from functools import cache
from typing import Any

from weftline.code.spool import Spool
from weftline.core.values import INLINE_LIMIT
from weftline.errors import NewerHome


class Buffers(list[memoryview]):
    """The large buffers of a pickle; smaller ones stay within it."""

    limit = INLINE_LIMIT

    def __call__(self, buffer: pickle.PickleBuffer) -> bool:
        content = buffer.raw()
        if content.nbytes <= self.limit:
            return True
        self.append(content)
        return False


# A pickle with buffers: the pickle, each buffer aligned, their sizes, and this at the very end.
_TRAILER = struct.Struct("<QI4s")  # bytes of the pickle, number of buffers, mark
_MARK = b"wfp5"
_ALIGNMENT = 64


def write_buffers(buffers: Buffers, spool: Spool) -> str:
    """Write the buffers, if any, behind their pickle. Returns: the codec of the whole."""
    if not buffers:
        return "pickle"
    # The sizes come last, so that the pickle need not be kept until the buffers are known.
    pickle_size = spool.size
    for buffer in buffers:
        spool.write(bytes(-spool.size % _ALIGNMENT))
        spool.write(buffer)
    sizes = struct.pack(f"<{len(buffers)}Q", *(buffer.nbytes for buffer in buffers))
    spool.write(sizes + _TRAILER.pack(pickle_size, len(buffers), _MARK))
    return "pickle5"


def read_buffers(content: memoryview) -> tuple[memoryview, list[memoryview]]:
    """A pickle, and the buffers beside it: parts of `content`, which is of codec `pickle5`."""
    pickle_size, count, mark = _TRAILER.unpack_from(content, len(content) - _TRAILER.size)
    if mark != _MARK:
        raise NewerHome("this Weftline does not know this form of codec 'pickle5'; upgrade it")
    sizes = struct.unpack_from(f"<{count}Q", content, len(content) - _TRAILER.size - 8 * count)
    buffers = []
    end = pickle_size
    for size in sizes:
        start = end + -end % _ALIGNMENT
        end = start + size
        buffers.append(content[start:end])
    return content[:pickle_size], buffers


@cache
def cloudpickle() -> Any:
    """The library that takes code apart and makes it anew."""
    from cloudpickle import cloudpickle  # 44 ms that many processes never need

    return cloudpickle

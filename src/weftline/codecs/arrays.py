"""NumPy arrays as `.npy`; numpy is imported only for a value that says it is of numpy."""

import math
from functools import lru_cache
from io import BytesIO
from typing import Any

from weftline.code.spool import Spool

_CHUNK_ITEMS = 128 * 1024


def write_array(array: Any, kind: type, spool: Spool) -> str | None:
    """Write an array as `.npy`, in the order in which it lies in memory; None: it must not be."""
    import numpy

    if kind is not numpy.ndarray or not _is_npy_type(array.dtype):
        return None
    header = BytesIO()
    try:
        fields = numpy.lib.format.header_data_from_array_1_0(array)
        numpy.lib.format.write_array_header_1_0(header, fields)
    except ValueError:
        return None
    spool.write(header.getvalue())
    flat = array.T if fields["fortran_order"] else array
    if array.size == 0:
        pass
    elif flat.flags.c_contiguous:
        spool.write(flat.reshape(-1).view(numpy.uint8).data)
    else:
        chunks = numpy.nditer(
            flat, ["external_loop", "buffered"], buffersize=_CHUNK_ITEMS, order="C"
        )
        for chunk in chunks:
            spool.write(numpy.asarray(chunk).tobytes())
    return "npy"


def _is_npy_type(dtype: Any) -> bool:
    import numpy

    # Equality of types looks at neither metadata nor alignment.
    if dtype.metadata is not None or dtype.hasobject or dtype.itemsize == 0:
        return False
    if dtype.isbuiltin == 1:
        return True
    if dtype.fields is not None or dtype.subdtype is not None:
        return False
    return dtype.kind in "biufcmMSUV" and numpy.dtype(dtype.str) == dtype


def read_array(content: bytearray | memoryview) -> Any:
    """The array of a `.npy`, which keeps the content as its memory."""
    import numpy

    # The magic is followed by the version and, in version 1.0, two bytes of header length.
    start = 10 + int.from_bytes(content[8:10], "little")
    dtype, shape, is_fortran = _array_header(bytes(content[:start]))
    if math.prod(shape) == 0:
        return numpy.empty(shape, dtype, order="F" if is_fortran else "C")
    flat = numpy.frombuffer(content, dtype, math.prod(shape), start)
    return flat.reshape(shape[::-1]).T if is_fortran else flat.reshape(shape)


@lru_cache(256)
def _array_header(header: bytes) -> tuple[Any, tuple[int, ...], bool]:
    import numpy

    stream = BytesIO(header)
    numpy.lib.format.read_magic(stream)
    shape, is_fortran, dtype = numpy.lib.format.read_array_header_1_0(stream)
    return dtype, shape, is_fortran

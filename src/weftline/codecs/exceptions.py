"""Exceptions as what the journal keeps of them, and back."""

from binascii import a2b_base64, b2a_base64
from typing import Any

from msgspec import Raw

from weftline.code.loads import load_pickle
from weftline.code.spool import Spool
from weftline.codecs.pickles import write_pickle
from weftline.codecs.rebuild import add_notes
from weftline.core.values import Error, Inline, Object
from weftline.errors import StorageError, WorkflowExecutionError, find_error
from weftline.ports.objects import ObjectStore

_TEXT_LENGTH = 16 * 1024
_TRACEBACK_LENGTH = 64 * 1024


def encode_error(
    error: BaseException, objects: ObjectStore, *, skip_frames_of: tuple[str, ...] = ()
) -> tuple[Error, tuple[str, ...]]:
    """What the journal keeps of an error, and the objects that it refers to.

    The exception itself goes along when it can be made again from its pickle. Frames of the files
    in `skip_frames_of` are left out of the traceback.
    """
    blob, names = _error_blob(error, objects)
    kind = type(error)
    module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return (
        Error(
            type=_clean(f"{module}{kind.__qualname__}", _TEXT_LENGTH),
            text=_clean(_text(error), _TEXT_LENGTH),
            traceback=_clean(_traceback(error, skip_frames_of), _TRACEBACK_LENGTH),
            blob=blob,
        ),
        names,
    )


def decode_error(error: Error, objects: ObjectStore) -> BaseException | None:
    """The exception itself, or None when it was not kept or cannot be made here."""
    if error.blob is None:  # the engine pickles nothing: its errors are known by their names
        kind = find_error(error.type)
        return None if kind is None else kind(error.text)
    try:
        found = _load(error.blob, objects)
    except Exception:
        return None
    return found if isinstance(found, BaseException) else None


def execution_error(error: Error) -> WorkflowExecutionError:
    """The error to raise in place of an exception that was not kept."""
    return WorkflowExecutionError(
        f"{error.type}: {error.text}",
        error_type=error.type,
        error_text=error.text,
        traceback=error.traceback,
    )


def _error_blob(
    error: BaseException, objects: ObjectStore
) -> tuple[Inline | Object | None, tuple[str, ...]]:
    if not isinstance(error, Exception):
        return None, ()
    for form in (error, _Noted(error)):
        spool = Spool(objects)
        try:
            codec, definitions = write_pickle(form, spool, "error")
            size, content = spool.size, spool.finish()
            blob: Inline | Object
            if isinstance(content, bytes):
                base64 = b2a_base64(content, newline=False)
                blob, names = Inline(codec, Raw(b'"%b"' % base64)), definitions
            else:
                blob, names = Object(content, codec, size), (content, *definitions)
            if _is_same_error(_load(blob, objects), error):
                return blob, names
        except StorageError:
            raise
        except Exception:
            break  # it cannot be pickled, or not be made again
    return None, ()


def _load(blob: Inline | Object, objects: ObjectStore) -> Any:
    if isinstance(blob, Object):
        return load_pickle(blob.codec, objects.read(blob.hash), objects)
    return load_pickle(blob.codec, bytearray(a2b_base64(bytes(blob.data)[1:-1])), objects)


def _is_same_error(again: Any, error: BaseException) -> bool:
    return (
        type(again) is type(error)
        and str(again) == str(error)
        and list(map(type, again.args)) == list(map(type, error.args))
        and getattr(again, "__notes__", None) == getattr(error, "__notes__", None)
    )


class _Noted:
    """Pickles an exception whose own way of being pickled forgets its notes."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __reduce__(self) -> tuple[Any, ...]:
        return add_notes, (self._error, getattr(self._error, "__notes__", []))


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return f"<{type(error).__qualname__} whose str() fails>"


def _traceback(error: BaseException, skipped: tuple[str, ...]) -> str:
    from traceback import TracebackException

    try:
        whole = TracebackException.from_exception(error, compact=True)
        waiting = [whole]
        while waiting:
            one = waiting.pop()
            one.stack[:] = [frame for frame in one.stack if frame.filename not in skipped]
            waiting.extend(one.exceptions or ())
            waiting.extend(each for each in (one.__cause__, one.__context__) if each is not None)
        return "".join(whole.format())
    except Exception as trouble:  # `str` of the error, or of another in its chain, may fail
        return f"(the traceback cannot be shown: {type(trouble).__qualname__})"


def _clean(text: str, length: int) -> str:
    """`text` as JSON can hold it, without its middle when it is too long."""
    text = text.encode("utf-8", "backslashreplace").decode()
    if len(text) <= length:
        return text
    half = length // 2
    return f"{text[:half]}\n... {len(text) - 2 * half} characters left out ...\n{text[-half:]}"

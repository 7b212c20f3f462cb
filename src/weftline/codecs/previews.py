"""Short texts that tell people what a value is."""

from collections.abc import Iterable
from itertools import islice
from typing import Any

from weftline.codecs.pictures import image_title
from weftline.codecs.rebuild import ObjectRef, StepRef
from weftline.codecs.rows import first_rows
from weftline.core.values import INLINE_LIMIT

_PREVIEW_LENGTH = 200
_TABLES = ("DataFrame", "Table")


def preview(value: Any, size: int) -> str:
    """A short text that tells a person what `value` is; whatever the value does, it never fails.

    One line; of a table, its first rows follow on lines of their own.
    """
    try:
        title = image_title(value) if type(value) is bytes else None
        text = title or _glanced(value, calls_repr=size <= INLINE_LIMIT)
    except Exception:
        text = type(value).__qualname__
    if len(text) > _PREVIEW_LENGTH:
        text = text[: _PREVIEW_LENGTH - 1] + "…"
    if type(value).__name__ in _TABLES and (rows := _rows(value)):
        text += "\n" + rows
    return text.encode("utf-8", "replace").decode()


def _rows(table: Any) -> str:
    try:
        return first_rows(table, lambda item: _glanced(item, calls_repr=False))
    except Exception:
        return ""


def _glanced(value: Any, *, calls_repr: bool) -> str:
    glance = _Glance(calls_repr)
    glance.show(value, 4)
    return " ".join("".join(glance.parts)[: 2 * _PREVIEW_LENGTH].split())


class _Glance:
    """The beginning of a `repr` that looks at no more of a value than it shows."""

    def __init__(self, calls_repr: bool) -> None:
        self.parts: list[str] = []
        self._calls_repr = calls_repr
        self._room = _PREVIEW_LENGTH + 1

    def show(self, value: Any, depth: int) -> None:
        kind = type(value)
        if kind is str or kind is bytes or kind is bytearray:
            self._say(repr(value[: self._room]))
        elif kind in _SCALARS:
            self._say(repr(value))
        elif depth == 0 or self._room <= 0:
            self._say("...")
        elif kind in _BRACKETS:
            self._show_items(*_BRACKETS[kind], value, depth)
        elif isinstance(value, tuple) and hasattr(kind, "_fields"):
            self._show_fields(value, kind._fields, depth)
        elif hasattr(kind, "__dataclass_fields__"):
            names = [name for name, field in kind.__dataclass_fields__.items() if field.repr]
            self._show_fields(value, [name for name in names if hasattr(value, name)], depth)
        elif (summary := _summary(value, kind)) is not None:
            self._say(summary)
        elif isinstance(value, dict | list | tuple | set | frozenset):
            start, end = _BRACKETS[next(base for base in kind.__mro__ if base in _BRACKETS)]
            self._show_items(f"{kind.__qualname__}({start}", f"{end})", value, depth)
        elif self._calls_repr or isinstance(value, type | ObjectRef | StepRef):
            self._say(repr(value))
        else:  # its own `repr` might take for ever
            self._show_fields(value, list(getattr(value, "__dict__", ())), depth)

    def _say(self, text: str) -> None:
        self.parts.append(text)
        self._room -= len(text)

    def _show_items(self, start: str, end: str, items: Any, depth: int) -> None:
        if type(items) is set and not items:
            start, end = "set(", ")"
        self._say(start)
        comma = ""
        for item in items:
            if self._room <= 0:
                break
            self._say(comma)
            comma = ", "
            self.show(item, depth - 1)
            if isinstance(items, dict):
                self._say(": ")
                self.show(items[item], depth - 1)
        if type(items) is tuple and len(items) == 1:
            self._say(",")
        self._say(end)

    def _show_fields(self, value: Any, names: Iterable[str], depth: int) -> None:
        self._say(f"{type(value).__qualname__}(")
        comma = ""
        for name in names:
            if self._room <= 0:
                break
            self._say(f"{comma}{name}=")
            comma = ", "
            self.show(getattr(value, name), depth - 1)
        self._say(")")


_SCALARS = frozenset({int, float, bool, complex, type(None)})
_BRACKETS: dict[type, tuple[str, str]] = {
    dict: ("{", "}"),
    list: ("[", "]"),
    tuple: ("(", ")"),
    set: ("{", "}"),
    frozenset: ("frozenset({", "})"),
}


def _summary(value: Any, kind: type) -> str | None:
    """What an image is, type and shape of an array or a table, and None for anything else."""
    if (title := image_title(value)) is not None:
        return title
    shape = getattr(value, "shape", None)
    if not isinstance(shape, tuple):
        return None
    sizes = "[" + ", ".join(map(str, shape)) + "]"
    if kind.__name__ in _TABLES:
        schema = getattr(value, "schema", None)  # of pyarrow and polars
        if kind.__name__ == "Table" and schema is not None:
            columns = zip(schema.names, schema.types, strict=True)
        else:
            columns = zip(value.columns, value.dtypes, strict=True)
        shown = ", ".join(f"{name} {dtype}" for name, dtype in islice(columns, 20))
        return f"{kind.__name__} {sizes}: {shown}"
    dtype = getattr(value, "dtype", None)
    if dtype is None or (shape == () and kind.__name__ != "ndarray"):
        return None
    return f"{dtype} {sizes}"

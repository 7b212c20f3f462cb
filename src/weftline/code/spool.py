"""Content on its way to the store, and what this process has stored lately."""

import time
from weakref import WeakKeyDictionary

from weftline.core.values import INLINE_LIMIT
from weftline.ports.objects import ObjectStore, ObjectWriter


class Spool:
    """Content on its way to the store: in memory while it is small, then written as it comes.

    Without `durable` the object that it becomes need not survive a crash of the machine.
    """

    closed = False  # a file as Arrow and polars want it

    def __init__(
        self, objects: ObjectStore, limit: int = INLINE_LIMIT, *, durable: bool = True
    ) -> None:
        self.objects = objects
        self.durable = durable
        self.size = 0
        self._limit = limit
        self._parts: list[bytes] = []
        self._writer: ObjectWriter | None = None

    def write(self, part: bytes | bytearray | memoryview) -> int:
        count = len(part) if type(part) is bytes else memoryview(part).nbytes
        self.size += count
        if self._writer is None:
            if self.size <= self._limit:
                self._parts.append(bytes(part))
                return count
            self._writer = self.objects.writer(durable=self.durable)
            for earlier in self._parts:
                self._writer.write(earlier)
            self._parts.clear()
        self._writer.write(part)
        return count

    def flush(self) -> None:
        pass

    def finish(self) -> bytes | str:
        """The content itself when it is small, else the name of the object it has become."""
        if self._writer is not None:
            return self._writer.commit()
        return self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)

    def clear(self) -> None:
        """Forget what was written, to begin anew or to give up."""
        if self._writer is not None:
            self._writer.abort()
        self._writer, self.size = None, 0
        self._parts.clear()


_STORED_NAMES = 10_000
_REFRESH_S = 3600.0  # garbage collection spares what was stored within 24 h
_stored: WeakKeyDictionary[ObjectStore, dict[str, float]] = WeakKeyDictionary()


def is_fresh(name: str, objects: ObjectStore) -> bool:
    """Whether this process stored the object so recently that it cannot have been collected."""
    names = _stored.get(objects)
    stored_at = None if names is None else names.get(name)
    return stored_at is not None and time.monotonic() - stored_at < _REFRESH_S


def note_stored(name: str, objects: ObjectStore) -> None:
    """Remember that this process has just stored the object."""
    names = _stored.get(objects)
    if names is None:
        names = _stored.setdefault(objects, {})
    names.pop(name, None)
    names[name] = time.monotonic()
    if len(names) > _STORED_NAMES:
        names.pop(next(iter(names)), None)

"""Objects in this process's memory: for workflows that need not outlive it, and for tests."""

import time
from collections.abc import Iterator
from hashlib import sha256
from threading import Lock
from typing import NamedTuple

from weftline.errors import ObjectDamaged, ObjectNotFound
from weftline.ports.objects import Removed, StoredFile


class _Kept(NamedTuple):
    content: bytes
    modified_at: float


_Key = tuple[str, bool]  # the name, and whether it is volatile


class MemoryObjectStore:
    """Objects in dicts; gone with the process. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = Lock()  # held by whatever changes more than one entry
        self._kept: dict[_Key, _Kept] = {}
        self._trash: dict[_Key, _Kept] = {}

    def put(self, content: bytes, *, durable: bool = True) -> str:
        name = sha256(content).hexdigest()
        with self._lock:
            is_volatile = not durable and (name, False) not in self._kept
            self._kept[name, is_volatile] = _Kept(bytes(content), time.time())
        return name

    def writer(self, *, durable: bool = True) -> "_MemoryWriter":
        return _MemoryWriter(self, durable)

    def read(self, name: str) -> memoryview:
        content = self._content(name)
        if content is None:
            raise ObjectNotFound(f"object {name} is not in the memory of this process")
        _check(name, content)
        return memoryview(bytearray(content))

    def exists(self, name: str) -> bool:
        content = self._content(name)
        if content is None or (name, False) in self._kept:
            return content is not None
        return sha256(content).hexdigest() == name

    def delete(self, name: str) -> None:
        with self._lock:
            for key in ((name, False), (name, True)):
                self._kept.pop(key, None)
                self._trash.pop(key, None)

    def restore(self, name: str) -> bool:
        """Bring an object back from the trash, as good as new; whether there was one to bring."""
        is_back = False
        with self._lock:
            for key in ((name, False), (name, True)):
                if key in self._trash and key not in self._kept:
                    self._kept[key] = _Kept(self._trash.pop(key).content, time.time())
                    is_back = True
        return is_back

    def _content(self, name: str) -> bytes | None:
        kept = self._kept.get((name, False)) or self._kept.get((name, True))
        if kept is None:
            self.restore(name)
            kept = self._kept.get((name, False)) or self._kept.get((name, True))
        return None if kept is None else kept.content


class _MemoryWriter:
    def __init__(self, store: MemoryObjectStore, durable: bool) -> None:
        self._store, self._durable = store, durable
        self._content = bytearray()

    def write(self, part: bytes | bytearray | memoryview) -> int:
        before = len(self._content)
        self._content += part
        return len(self._content) - before

    def commit(self) -> str:
        return self._store.put(bytes(self._content), durable=self._durable)

    def abort(self) -> None:
        self._content.clear()


class MemoryUpkeep:
    """The upkeep of one store; nothing is ever incoming, since what is half-written is nowhere."""

    def __init__(self, store: MemoryObjectStore) -> None:
        self._store = store

    def objects(self) -> Iterator[StoredFile]:
        return _listed(self._store._kept)

    def trash(self, found: StoredFile) -> bool:
        key = (found.name, found.is_volatile)
        with self._store._lock:
            kept = self._store._kept.get(key)
            if kept is None or kept.modified_at != found.modified_at:
                return False
            self._store._trash[key] = _Kept(self._store._kept.pop(key).content, time.time())
        return True

    def trashed(self) -> Iterator[StoredFile]:
        return _listed(self._store._trash)

    def restore(self, name: str) -> bool:
        return self._store.restore(name)

    def erase(self, found: StoredFile) -> bool:
        key = (found.name, found.is_volatile)
        with self._store._lock:
            kept = self._store._trash.get(key)
            if kept is None or kept.modified_at != found.modified_at:
                return False
            del self._store._trash[key]
        return True

    def incoming(self) -> Iterator[StoredFile]:
        return iter(())

    def clear_incoming(
        self, older_than_s: float, dead_for_s: float, *, is_trial: bool = False
    ) -> Removed:
        return Removed(0, 0)

    def check(self, name: str) -> None:
        self._store.read(name)  # finds out whether it is there at all
        for key in ((name, False), (name, True)):
            if (kept := self._store._kept.get(key)) is not None:
                _check(name, kept.content)


def _listed(files: dict[_Key, _Kept]) -> Iterator[StoredFile]:
    for (name, is_volatile), kept in list(files.items()):
        yield StoredFile(name, len(kept.content), kept.modified_at, is_volatile)


def _check(name: str, content: bytes) -> None:
    actual = sha256(content).hexdigest()
    if actual != name:
        raise ObjectDamaged(
            f"object {name} is damaged: its content has the SHA-256 {actual}; "
            "run the step that made it again"
        )

"""Objects in this process's memory: for workflows that need not outlive it, and for tests."""

from hashlib import sha256

from weftline.errors import ObjectDamaged, ObjectNotFound


class MemoryObjectStore:
    """Objects in a dict; gone with the process. Safe to use from several threads."""

    def __init__(self) -> None:
        self._contents: dict[str, bytes] = {}

    def put(self, content: bytes) -> str:
        name = sha256(content).hexdigest()
        # One operation of a dict: a reader sees the whole object or none of it.
        self._contents.setdefault(name, bytes(content))
        return name

    def writer(self, *, durable: bool = True) -> "_MemoryWriter":
        return _MemoryWriter(self)

    def read(self, name: str) -> memoryview:
        content = self._contents.get(name)
        if content is None:
            raise ObjectNotFound(f"object {name} is not in the memory of this process")
        actual = sha256(content).hexdigest()
        if actual != name:
            raise ObjectDamaged(
                f"object {name} is damaged: its content has the SHA-256 {actual}; "
                "run the step that made it again"
            )
        return memoryview(bytearray(content))

    def exists(self, name: str) -> bool:
        return name in self._contents

    def delete(self, name: str) -> None:
        self._contents.pop(name, None)


class _MemoryWriter:
    def __init__(self, store: MemoryObjectStore) -> None:
        self._store = store
        self._content = bytearray()

    def write(self, part: bytes | bytearray | memoryview) -> int:
        before = len(self._content)
        self._content += part
        return len(self._content) - before

    def commit(self) -> str:
        return self._store.put(bytes(self._content))

    def abort(self) -> None:
        self._content.clear()

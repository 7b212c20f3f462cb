"""Where large values lie."""

from collections.abc import Iterator
from typing import NamedTuple, Protocol


class ObjectWriter(Protocol):
    """One object being written; nothing is visible before `commit`."""

    def write(self, part: bytes | bytearray | memoryview) -> int: ...

    def commit(self) -> str:
        """Make the object durable and return its name."""
        ...

    def abort(self) -> None: ...


class ObjectStore(Protocol):
    """Keeps large values: datasets, models, step outputs, code.

    An object is named by the SHA-256 of its content (64 lower-case hex digits), so it never
    changes once written, and storing it again is safe. When `put` or `ObjectWriter.commit`
    returns, the object survives a power cut.

    Raises: StorageFull when there is no space left; nothing is half-written then.
    """

    def put(self, content: bytes, *, durable: bool = True) -> str:
        """Store the content; `durable` as for `writer`. What is there already is as good as new."""
        ...

    def writer(self, *, durable: bool = True) -> ObjectWriter:
        """For content that does not fit into memory twice: write parts, then commit. Without
        `durable` the object need not survive a crash of the machine, and may be removed when no
        run needs it; it is read as any other."""
        ...

    def read(self, name: str) -> memoryview:
        """The whole content, mapped into memory where that is possible; private to the caller and
        writable: changing it never changes the object.

        Raises: ObjectNotFound, ObjectDamaged if its content does not match its name.
        """
        ...

    def exists(self, name: str) -> bool:
        """Whether the object is there. One that is not durable is looked at as a whole, since a
        crash of the machine may have damaged it: then it counts as gone."""
        ...

    def delete(self, name: str) -> None:
        """Remove the object; none of that name is no error."""
        ...


class StoredFile(NamedTuple):
    """Something that takes room in an object store. The time is in seconds since 1970."""

    name: str
    size_bytes: int
    modified_at: float
    is_volatile: bool = False


class Removed(NamedTuple):
    """How many things were removed for good, and how large they were together."""

    number: int
    size_bytes: int


class ObjectUpkeep(Protocol):
    """Finds what nobody needs any more in an object store, and removes it in two steps.

    Which objects are needed, the caller knows. What it throws away may be named by a run a moment
    later: until it is erased there, reading the object or asking whether it exists brings it
    back, and storing its content again is as if it had never been there.

    Raises: StorageError.
    """

    def objects(self) -> Iterator[StoredFile]:
        """Every object that is not in the trash, in no order; twice if it is there both durable
        and volatile. Others may come and go meanwhile."""
        ...

    def trash(self, found: StoredFile) -> bool:
        """Move an object into the trash, unless it was stored again since it was `found`."""
        ...

    def trashed(self) -> Iterator[StoredFile]:
        """What is in the trash, in no order; `modified_at` is when it came there."""
        ...

    def restore(self, name: str) -> bool:
        """Bring an object back from the trash, as good as new; whether there was one to bring."""
        ...

    def erase(self, found: StoredFile) -> bool:
        """Remove for good what is in the trash, unless it came there again since it was `found`."""
        ...

    def incoming(self) -> Iterator[StoredFile]:
        """What is being written, or was by somebody who has died; its name is no object's."""
        ...

    def clear_incoming(
        self, older_than_s: float, dead_for_s: float, *, is_trial: bool = False
    ) -> Removed:
        """Remove what has been incoming without a change for longer than this: longer than any
        writer may pause, and if the writer is dead `dead_for_s`. A trial only counts."""
        ...

    def check(self, name: str) -> None:
        """Compare the content of the object, and of every copy of it, with its name.

        Raises: ObjectDamaged, ObjectNotFound.
        """
        ...

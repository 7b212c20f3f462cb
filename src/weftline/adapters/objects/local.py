"""Objects as files under one directory.

An object lies at `ab/abcdef...`: a folder for the first two digits of its name, then the file.
Those that need not survive a crash of the machine lie below `volatile` in the same manner, and
what was thrown away below `trash` (local_upkeep.py). What is being written lies in `incoming` and
gets its name when it is complete (incoming.py).
"""

import mmap
import os
import re
from hashlib import sha256
from pathlib import Path
from threading import Lock

from weftline.adapters.objects.incoming import (
    Incoming,
    storage_error,
    unlink,
)
from weftline.errors import ObjectDamaged, ObjectNotFound, StorageError
from weftline.folders import flush, make_folder

_MAP_FROM_BYTES = 256 * 1024  # below, reading into memory is cheaper than a mapping
_CHUNK_BYTES = 1024 * 1024  # hashed and written while still in the processor's cache
_REMEMBERED = 16_384

NAME = re.compile(r"[0-9a-f]{64}")
ABSENT = (FileNotFoundError, NotADirectoryError)
"""What is raised where there is no file."""

DURABLE, VOLATILE, TRASH = "", "volatile/", "trash/"
"""Where files lie below the root; the last stands before one of the others."""

_Stamp = tuple[str, int, int, int]  # name, size, mtime in ns, inode


class LocalObjectStore:
    """Objects as files under `root`, which is made when the first object is written.

    Several processes may share a root. Safe to use from several threads.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root).absolute()  # a later change of the working folder moves nothing
        self._lock = Lock()
        # Files whose content was compared with their name, and whether this process has also
        # flushed the folders that lead to them. Bounded; forgetting costs a second look.
        self._seen: dict[_Stamp, bool] = {}
        self._flushed_folders: set[str] = set()

    def put(self, content: bytes, *, durable: bool = True) -> str:
        name = sha256(content).hexdigest()
        if not self._keep_present(name, len(content), durable):
            part = Incoming(self.root)
            part.append(content)
            self._publish(part, name, durable)
        return name

    def writer(self, *, durable: bool = True) -> "_LocalWriter":
        return _LocalWriter(self, durable)

    def read(self, name: str) -> memoryview:
        path, fd = self._open(name)
        try:
            found = os.fstat(fd)
            content = _content(fd, found.st_size)
        except OSError as error:
            raise StorageError(f"cannot read {path}: {error}") from error
        finally:
            os.close(fd)
        stamp = _stamp(name, found)
        if stamp not in self._seen:
            actual = sha256(content).hexdigest()
            if actual != name:
                raise damaged(name, path, actual)
            self._remember(stamp)
        return content

    def exists(self, name: str) -> bool:
        if NAME.fullmatch(name) is None:
            return False
        if self._is_present(name):
            return True
        # Nobody may have brought it back, or another process just now.
        self.restore(name)
        return self._is_present(name)

    def delete(self, name: str) -> None:
        if NAME.fullmatch(name) is not None:
            for place in (DURABLE, VOLATILE, TRASH + DURABLE, TRASH + VOLATILE):
                unlink(self.path(name, place))

    def restore(self, name: str) -> bool:
        """Bring an object back from the trash, as good as new; whether there was one to bring."""
        is_back = False
        for place in (DURABLE, VOLATILE):
            path, trashed = self.path(name, place), self.path(name, TRASH + place)
            try:
                if os.path.isfile(path) or not os.path.isfile(trashed):
                    continue
                os.utime(trashed)
                make_folder(os.path.dirname(path))
                os.replace(trashed, path)
                if place == DURABLE:
                    self._flush_folders(os.path.dirname(path))
            except ABSENT:  # another process was faster
                continue
            except OSError as error:
                raise storage_error(self.root, error) from error
            is_back = True
        return is_back

    def path(self, name: str, place: str = DURABLE) -> str:
        """Where the file of an object lies, if there is one. Raises: ObjectNotFound."""
        if NAME.fullmatch(name) is None:
            raise self._not_found(name)
        return f"{self.root}/{place}{name[:2]}/{name}"

    def forget(self, name: str) -> None:
        """Look at the content again when the object is read next."""
        with self._lock:
            for stamp in [stamp for stamp in self._seen if stamp[0] == name]:
                del self._seen[stamp]

    def _open(self, name: str) -> tuple[str, int]:
        """The path and descriptor of an object; one that is in the trash is brought back."""
        for is_last in (False, True):
            for place in (DURABLE, VOLATILE):
                path = self.path(name, place)
                try:
                    return path, os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                except ABSENT:
                    pass
                except OSError as error:
                    raise StorageError(f"cannot read {path}: {error}") from error
            if not is_last:
                self.restore(name)
        raise self._not_found(name)

    def _is_present(self, name: str) -> bool:
        if os.path.isfile(self.path(name)):
            return True
        try:
            # A crash of the machine may have left anything under the name.
            if _stamp(name, os.stat(self.path(name, VOLATILE))) not in self._seen:
                self.read(name)
        except (*ABSENT, ObjectDamaged, ObjectNotFound):
            return False
        return True

    def _not_found(self, name: str) -> ObjectNotFound:
        return ObjectNotFound(
            f"object {name} is not in {self.root}: it was deleted, or this is another home than "
            "the one it was written to"
        )

    def _remember(self, stamp: _Stamp, flushed: bool = False) -> None:
        with self._lock:
            flushed = self._seen.pop(stamp, False) or flushed
            self._seen[stamp] = flushed
            if len(self._seen) > _REMEMBERED:
                del self._seen[next(iter(self._seen))]

    def _keep_present(self, name: str, size: int, durable: bool) -> bool:
        """Whether the object is there already, whole, and durable if that is asked for; then its
        time is refreshed."""
        if self._refresh(name, size, DURABLE, durable):
            return True
        return not durable and self._refresh(name, size, VOLATILE, durable)

    def _refresh(self, name: str, size: int, place: str, durable: bool) -> bool:
        path = self.path(name, place)
        try:
            found = os.stat(path)
        except ABSENT:
            return False
        if found.st_size != size:
            return False  # damaged: writing it again mends it
        stamp = _stamp(name, found)
        try:
            if stamp not in self._seen:
                self.read(name)
            os.utime(path)
            # Thrown away just now, it is not there any more; thrown away from now on, its time
            # tells that it is needed.
            refreshed = _stamp(name, os.stat(path))
            is_flushed = self._seen.get(stamp, False)
            if durable and not is_flushed:
                # Whoever wrote it may not have come as far as flushing the folders.
                self._flush_folders(os.path.dirname(path))
        except (ObjectDamaged, ObjectNotFound, *ABSENT):
            return False  # damaged, or deleted just now
        except OSError as error:
            raise storage_error(self.root, error) from error
        self._remember(refreshed, flushed=durable or is_flushed)
        return True

    def _publish(self, part: Incoming, name: str, durable: bool) -> None:
        # What is durable is read first: damaged, it must not stay in the way.
        durable = durable or os.path.isfile(self.path(name))
        path = self.path(name, DURABLE if durable else VOLATILE)
        found = part.publish(path, self._flush_folders if durable else None)
        self._remember(_stamp(name, found), flushed=durable)

    def _flush_folders(self, folder: str) -> None:
        flush(folder)
        if folder not in self._flushed_folders:
            # Another process may have made the folder a moment ago and not flushed it yet.
            flush(str(self.root))
            self._flushed_folders.add(folder)


class _LocalWriter:
    def __init__(self, store: LocalObjectStore, durable: bool) -> None:
        self._store, self._durable = store, durable
        self._part = Incoming(store.root)
        self._hash = sha256()
        self._size = 0

    def write(self, part: bytes | bytearray | memoryview) -> int:
        content = memoryview(part)
        if content.nbytes == 0:
            return 0
        content = content.cast("B")
        for start in range(0, len(content), _CHUNK_BYTES):
            chunk = content[start : start + _CHUNK_BYTES]
            self._hash.update(chunk)
            self._part.append(chunk)
        self._size += len(content)
        return len(content)

    def commit(self) -> str:
        name = self._hash.hexdigest()
        if self._store._keep_present(name, self._size, self._durable):
            self._part.abort()
        else:
            self._store._publish(self._part, name, self._durable)
        return name

    def abort(self) -> None:
        self._part.abort()

    def __del__(self) -> None:
        self._part.abort()


def damaged(name: str, path: str, actual: str) -> ObjectDamaged:
    """The error for a file whose content has the SHA-256 `actual`."""
    return ObjectDamaged(
        f"object {name} is damaged: the SHA-256 of {path} is {actual}; restore the file from a "
        "backup, or delete it and run the step that made it again"
    )


def _stamp(name: str, found: os.stat_result) -> _Stamp:
    return name, found.st_size, found.st_mtime_ns, found.st_ino


def _content(fd: int, size: int) -> memoryview:
    if size >= _MAP_FROM_BYTES:
        return memoryview(mmap.mmap(fd, size, access=mmap.ACCESS_COPY))
    content = bytearray(size)
    view = memoryview(content)
    filled = 0
    while filled < size:
        count = os.readv(fd, [view[filled:]])
        if count == 0:  # cut short since: its SHA-256 will tell
            return view[:filled]
        filled += count
    return view

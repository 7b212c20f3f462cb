"""Objects as files under one directory.

An object lies at `ab/abcdef...`: a folder for the first two digits of its name, then the file.
What is being written lies in `incoming` and gets its name when it is complete and on the disk.
"""

import errno
import mmap
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from threading import Lock

from weftline.errors import ObjectDamaged, ObjectNotFound, StorageError, StorageFull

_MAP_FROM_BYTES = 256 * 1024  # below, reading into memory is cheaper than a mapping
_CHUNK_BYTES = 1024 * 1024  # hashed and written while still in the processor's cache
_REMEMBERED = 16_384
_NAME = re.compile(r"[0-9a-f]{64}")

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

    def put(self, content: bytes) -> str:
        name = sha256(content).hexdigest()
        if not self._keep_present(name, len(content)):
            part = _Part(self)
            part.append(content)
            part.publish(name)
        return name

    def writer(self, *, durable: bool = True) -> "_LocalWriter":
        return _LocalWriter(self)

    def read(self, name: str) -> memoryview:
        path = self._path(name)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                found = os.fstat(fd)
                content = _content(fd, found.st_size)
            finally:
                os.close(fd)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise self._not_found(name) from error
        except OSError as error:
            raise StorageError(f"cannot read {path}: {error}") from error
        stamp = (name, found.st_size, found.st_mtime_ns, found.st_ino)
        if stamp not in self._seen:
            actual = sha256(content).hexdigest()
            if actual != name:
                raise ObjectDamaged(
                    f"object {name} is damaged: the SHA-256 of {path} is {actual}; restore the "
                    "file from a backup, or delete it and run the step that made it again"
                )
            self._remember(stamp)
        return content

    def exists(self, name: str) -> bool:
        return _NAME.fullmatch(name) is not None and os.path.isfile(self._path(name))

    def delete(self, name: str) -> None:
        if _NAME.fullmatch(name) is not None:
            _unlink(self._path(name))

    def _path(self, name: str) -> str:
        if _NAME.fullmatch(name) is None:
            raise self._not_found(name)
        return f"{self.root}/{name[:2]}/{name}"

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

    def _keep_present(self, name: str, size: int) -> bool:
        """Whether the object is there already, whole and durable; then its time is refreshed."""
        path = self._path(name)
        try:
            found = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        if found.st_size != size:
            return False  # damaged: writing it again mends it
        stamp = (name, size, found.st_mtime_ns, found.st_ino)
        try:
            if stamp not in self._seen:
                self.read(name)
            os.utime(path)
            refreshed = (name, size, os.stat(path).st_mtime_ns, found.st_ino)
            if not self._seen.get(stamp):
                # Whoever wrote it may not have come as far as flushing the folders.
                self._flush_folders(os.path.dirname(path))
        except (ObjectDamaged, ObjectNotFound, FileNotFoundError):
            return False  # damaged, or deleted just now
        except OSError as error:
            raise _storage_error(self.root, error) from error
        self._remember(refreshed, flushed=True)
        return True

    def _flush_folders(self, folder: str) -> None:
        _flush_folder(folder)
        if folder not in self._flushed_folders:
            # Another process may have made the folder a moment ago and not flushed it yet.
            _flush_folder(str(self.root))
            self._flushed_folders.add(folder)


class _LocalWriter:
    def __init__(self, store: LocalObjectStore) -> None:
        self._part = _Part(store)
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
        if self._part.store._keep_present(name, self._size):
            self._part.abort()
        else:
            self._part.publish(name)
        return name

    def abort(self) -> None:
        self._part.abort()

    def __del__(self) -> None:
        self._part.abort()


class _Part:
    """A file in `incoming` that becomes an object; made when its first byte comes."""

    def __init__(self, store: LocalObjectStore) -> None:
        self.store = store
        self._path = f"{store.root}/incoming/{os.getpid()}-{secrets.token_hex(8)}"
        self._fd: int | None = None

    def append(self, content: bytes | memoryview) -> None:
        with self._undone_on_error():
            fd = self._open()
            written = os.write(fd, content)
            while written < len(content):  # a write may stop short, at 2 GiB it always does
                written += os.write(fd, content[written:])

    def publish(self, name: str) -> None:
        path = self.store._path(name)
        folder = os.path.dirname(path)
        with self._undone_on_error():
            os.fsync(self._open())
            # Rename is atomic: a reader sees the whole object or none of it. The folders are
            # flushed too, else a power cut could forget the name.
            try:
                os.replace(self._path, path)
            except FileNotFoundError:
                _make_folder(folder)
                os.replace(self._path, path)
            self.store._flush_folders(folder)
            found = os.stat(path)
        self.abort()
        self.store._remember((name, found.st_size, found.st_mtime_ns, found.st_ino), flushed=True)

    def abort(self) -> None:
        """Close and remove the file; does nothing when it is gone already."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)
            _unlink(self._path)

    def _open(self) -> int:
        if self._fd is None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            try:
                self._fd = os.open(self._path, flags, 0o666)
            except FileNotFoundError:
                _make_folder(os.path.dirname(self._path))
                self._fd = os.open(self._path, flags, 0o666)
        return self._fd

    @contextmanager
    def _undone_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self.abort()
            if isinstance(error, OSError):
                raise _storage_error(self.store.root, error) from error
            raise


def _storage_error(root: Path, error: OSError) -> StorageError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        reason = f"{os.strerror(error.errno)} at {root}; free some space and resume"
        return StorageFull(error.errno, reason)
    return StorageError(f"cannot write to {root}: {error}")


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


def _make_folder(folder: str) -> None:
    """Make `folder` and what is missing above it, each flushed into the one above."""
    above = os.path.dirname(folder)
    if not os.path.isdir(above):
        _make_folder(above)
    try:
        os.mkdir(folder)
    except FileExistsError:
        return
    _flush_folder(above)


def _flush_folder(folder: str) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass

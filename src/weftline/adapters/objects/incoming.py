"""A file on its way to becoming an object, and what makes it last on the disk."""

import errno
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from weftline.errors import StorageError, StorageFull
from weftline.folders import make_folder, make_private


class Incoming:
    """A file in the folder `incoming` of a store; made when its first byte comes."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._path = f"{root}/incoming/{os.getpid()}-{secrets.token_hex(8)}"
        self._fd: int | None = None

    def append(self, content: bytes | memoryview) -> None:
        with self._undone_on_error():
            fd = self._open()
            written = os.write(fd, content)
            while written < len(content):  # a write may stop short, at 2 GiB it always does
                written += os.write(fd, content[written:])

    def publish(self, path: str, flush_folders: Callable[[str], None] | None) -> os.stat_result:
        """Give the file its place; `flush_folders` makes that last, None: it need not."""
        folder = os.path.dirname(path)
        with self._undone_on_error():
            fd = self._open()
            if flush_folders is not None:
                os.fsync(fd)
            # Rename is atomic: a reader sees the whole object or none of it. The folders are
            # flushed too, else a power cut could forget the name.
            try:
                os.replace(self._path, path)
            except FileNotFoundError:
                if flush_folders is None:
                    os.makedirs(folder, exist_ok=True)
                else:
                    make_folder(folder)
                os.replace(self._path, path)
            if flush_folders is not None:
                flush_folders(folder)
            found = os.fstat(fd)
        self.abort()
        return found

    def abort(self) -> None:
        """Close and remove the file; does nothing when it is gone already."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)
            unlink(self._path)

    def _open(self) -> int:
        if self._fd is None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            try:
                self._fd = os.open(self._path, flags, 0o666)
            except FileNotFoundError:
                make_private(self._root.parent)  # the home, unless somebody has made it otherwise
                make_folder(os.path.dirname(self._path))
                self._fd = os.open(self._path, flags, 0o666)
        return self._fd

    @contextmanager
    def _undone_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self.abort()
            if isinstance(error, OSError):
                raise storage_error(self._root, error) from error
            raise


def is_writer_alive(name: str) -> bool:
    """Whether this machine knows the process that writes, or wrote, the file of this name. One in
    another container it may not know."""
    return os.path.exists(f"/proc/{name.partition('-')[0]}") or not os.path.exists("/proc/self")


def storage_error(root: Path, error: OSError) -> StorageError:
    """What a failed write is told as."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        reason = f"{os.strerror(error.errno)} at {root}; free some space and resume"
        return StorageFull(error.errno, reason)
    return StorageError(f"cannot write to {root}: {error}")


def unlink(path: str) -> None:
    """Remove a file; none there is no error."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass

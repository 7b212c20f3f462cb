"""Upkeep of the objects in a directory: what is there, whether it is whole, and the trash.

Throwing away is a rename from `ab/abcdef...` to `trash/ab/abcdef...`, so that a reader finds the
object in one of the two places. The time of a file in the trash is when it came there.
"""

import os
import re
import time
from collections.abc import Iterator
from hashlib import sha256

from weftline.adapters.objects.incoming import is_writer_alive, storage_error
from weftline.adapters.objects.local import (
    ABSENT,
    DURABLE,
    NAME,
    TRASH,
    VOLATILE,
    LocalObjectStore,
    damaged,
)
from weftline.errors import ObjectNotFound, StorageError
from weftline.folders import make_folder
from weftline.ports.objects import Removed, StoredFile

_FOLDER = re.compile(r"[0-9a-f]{2}")
_CHUNK_BYTES = 1024 * 1024


class LocalUpkeep:
    """The upkeep of one store, while others write to it and read from it."""

    def __init__(self, store: LocalObjectStore) -> None:
        self._store = store

    def objects(self) -> Iterator[StoredFile]:
        yield from self._listed("")

    def trash(self, found: StoredFile) -> bool:
        place = VOLATILE if found.is_volatile else DURABLE
        path = self._store.path(found.name, place)
        trashed = self._store.path(found.name, TRASH + place)
        try:
            if os.stat(path).st_mtime != found.modified_at:
                return False
            make_folder(os.path.dirname(trashed))
            os.rename(path, trashed)
            if os.stat(trashed).st_mtime != found.modified_at:
                # It was stored again between the look and the move, by one who saw it in its
                # place; whoever comes later sees that it is not, and writes it.
                self._store.restore(found.name)
                return False
            os.utime(trashed)
        except ABSENT:  # removed, or brought back just now
            return False
        except OSError as error:
            raise storage_error(self._store.root, error) from error
        return True

    def trashed(self) -> Iterator[StoredFile]:
        yield from self._listed(TRASH)

    def restore(self, name: str) -> bool:
        return self._store.restore(name)

    def erase(self, found: StoredFile) -> bool:
        place = TRASH + (VOLATILE if found.is_volatile else DURABLE)
        path = self._store.path(found.name, place)
        try:
            return os.stat(path).st_mtime == found.modified_at and self._remove(path)
        except ABSENT:
            return False
        except OSError as error:
            raise storage_error(self._store.root, error) from error

    def incoming(self) -> Iterator[StoredFile]:
        for entry in self._entries("incoming"):
            found = _found(entry, is_volatile=False)
            if found is not None:
                yield found

    def clear_incoming(
        self, older_than_s: float, dead_for_s: float, *, is_trial: bool = False
    ) -> Removed:
        number = size_bytes = 0
        now = time.time()
        for found in self.incoming():
            age_s = now - found.modified_at
            is_dead = age_s >= dead_for_s and not is_writer_alive(found.name)
            path = f"{self._store.root}/incoming/{found.name}"
            if (is_dead or age_s >= older_than_s) and (is_trial or self._remove(path)):
                number, size_bytes = number + 1, size_bytes + found.size_bytes
        return Removed(number, size_bytes)

    def check(self, name: str) -> None:
        if not self._check_copies(name):
            self._store.restore(name)
            if not self._check_copies(name):
                raise ObjectNotFound(f"object {name} is not in {self._store.root}")

    def _check_copies(self, name: str) -> bool:
        """Whether there was a copy to check. Raises: ObjectDamaged."""
        is_there = False
        for place in (DURABLE, VOLATILE):
            path = self._store.path(name, place)
            try:
                actual = _hash_of(path)
            except ABSENT:
                continue
            except OSError as error:
                raise StorageError(f"cannot read {path}: {error}") from error
            is_there = True
            if actual != name:
                self._store.forget(name)
                raise damaged(name, path, actual)
        return is_there

    def _listed(self, below: str) -> Iterator[StoredFile]:
        for place in (DURABLE, VOLATILE):
            for folder in self._entries(below + place):
                if not _FOLDER.fullmatch(folder.name):
                    continue
                for entry in self._entries(f"{below}{place}{folder.name}"):
                    if NAME.fullmatch(entry.name) and entry.name[:2] == folder.name:
                        found = _found(entry, is_volatile=place == VOLATILE)
                        if found is not None:
                            yield found

    def _entries(self, folder: str) -> list["os.DirEntry[str]"]:
        try:
            with os.scandir(f"{self._store.root}/{folder}") as entries:
                return list(entries)
        except ABSENT:
            return []
        except OSError as error:
            raise StorageError(f"cannot read {self._store.root}/{folder}: {error}") from error

    def _remove(self, path: str) -> bool:
        try:
            os.unlink(path)
        except ABSENT:
            return False
        except OSError as error:
            raise storage_error(self._store.root, error) from error
        return True


def _found(entry: "os.DirEntry[str]", *, is_volatile: bool) -> StoredFile | None:
    """A file as it is told of; None when it is gone, or no file."""
    try:
        if not entry.is_file(follow_symlinks=False):
            return None
        found = entry.stat(follow_symlinks=False)
    except ABSENT:
        return None
    return StoredFile(entry.name, found.st_size, found.st_mtime, is_volatile)


def _hash_of(path: str) -> str:
    digest = sha256()
    with open(path, "rb", buffering=0) as file:
        while part := file.read(_CHUNK_BYTES):
            digest.update(part)
    return digest.hexdigest()

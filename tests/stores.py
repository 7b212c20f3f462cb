"""Object stores for tests, and how time passes for what lies in them."""

import os
from contextlib import suppress
from pathlib import Path

from weftline.adapters.objects.local import LocalObjectStore
from weftline.adapters.objects.local_upkeep import LocalUpkeep
from weftline.adapters.objects.memory import MemoryObjectStore, MemoryUpkeep
from weftline.ports.objects import ObjectStore, ObjectUpkeep

DAY = 86_400.0


def upkeep_of(objects: ObjectStore) -> ObjectUpkeep:
    if isinstance(objects, MemoryObjectStore):
        return MemoryUpkeep(objects)
    assert isinstance(objects, LocalObjectStore)
    return LocalUpkeep(objects)


def paths_of(store: LocalObjectStore, name: str) -> list[Path]:
    return list(store.root.rglob(name))


def age(objects: ObjectStore, name: str, seconds: float) -> None:
    """Make the object, and what of it is in the trash, older by that."""
    if isinstance(objects, MemoryObjectStore):
        with objects._lock:
            for files in (objects._kept, objects._trash):
                for key, kept in files.items():
                    if key[0] == name:
                        files[key] = kept._replace(modified_at=kept.modified_at - seconds)
    elif isinstance(objects, LocalObjectStore):
        for path in paths_of(objects, name):
            with suppress(FileNotFoundError):  # it is being moved
                at = path.stat().st_mtime - seconds
                os.utime(path, (at, at))

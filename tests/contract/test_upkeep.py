"""What the upkeep of every object store promises."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from tests.stores import DAY, age, paths_of, upkeep_of
from weftline.adapters.objects.local import LocalObjectStore
from weftline.adapters.objects.local_upkeep import LocalUpkeep
from weftline.adapters.objects.memory import MemoryObjectStore
from weftline.errors import ObjectDamaged, ObjectNotFound, StorageError, StorageFull
from weftline.ports.objects import ObjectStore, ObjectUpkeep, Removed, StoredFile

KINDS = pytest.mark.parametrize("durable", [True, False], ids=["durable", "volatile"])


@pytest.fixture(params=["memory", "local"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "memory":
        return MemoryObjectStore()
    return LocalObjectStore(tmp_path / "home" / "objects")


@pytest.fixture
def upkeep(objects: ObjectStore) -> ObjectUpkeep:
    return upkeep_of(objects)


@pytest.fixture
def local(tmp_path: Path) -> LocalObjectStore:
    return LocalObjectStore(tmp_path / "objects")


def damage(objects: ObjectStore, name: str) -> None:
    if isinstance(objects, MemoryObjectStore):
        for key, kept in objects._kept.items():
            if key[0] == name:
                objects._kept[key] = kept._replace(content=b"else")
    elif isinstance(objects, LocalObjectStore):
        for path in paths_of(objects, name):
            found = path.stat()
            path.write_bytes(b"else" + path.read_bytes()[4:])
            os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))  # as a failing disk does


def old(objects: ObjectStore, content: bytes, *, durable: bool = True) -> StoredFile:
    """An object that was stored two days ago, as it is listed."""
    name = objects.put(content, durable=durable)
    age(objects, name, 2 * DAY)
    (found,) = [found for found in upkeep_of(objects).objects() if found.name == name]
    return found


def empty_trash(upkeep: ObjectUpkeep, older_than_s: float) -> Removed:
    before = time.time() - older_than_s
    old = [found for found in upkeep.trashed() if found.modified_at <= before]
    gone = [found.size_bytes for found in old if upkeep.erase(found)]
    return Removed(len(gone), sum(gone))


def names(files: list[StoredFile]) -> set[str]:
    return {found.name for found in files}


# -- what is there ------------------------------------------------------------------------------


def test_an_empty_store_has_nothing_to_keep_up(upkeep: ObjectUpkeep) -> None:
    assert list(upkeep.objects()) == list(upkeep.trashed()) == list(upkeep.incoming()) == []
    assert empty_trash(upkeep, 0) == upkeep.clear_incoming(0, 0) == Removed(0, 0)
    assert not upkeep.restore("0" * 64)


def test_objects_are_listed_with_size_and_time(objects: ObjectStore, upkeep: ObjectUpkeep) -> None:
    first, second = objects.put(b"weights"), objects.put(b"", durable=False)
    third = old(objects, b"old")
    listed = {found.name: found for found in upkeep.objects()}
    assert set(listed) == {first, second, third.name}
    assert [listed[name].size_bytes for name in (first, second)] == [7, 0]
    assert [listed[name].is_volatile for name in (first, second)] == [False, True]
    assert listed[first].modified_at - third.modified_at == pytest.approx(2 * DAY, abs=60)


def test_what_is_there_twice_is_listed_twice(objects: ObjectStore, upkeep: ObjectUpkeep) -> None:
    name = objects.put(b"weights", durable=False)
    objects.put(b"weights")
    listed = sorted(upkeep.objects(), key=lambda found: found.is_volatile)
    assert [(found.name, found.is_volatile) for found in listed] == [(name, False), (name, True)]
    assert upkeep.trash(listed[1])
    assert [found.is_volatile for found in upkeep.objects()] == [False]
    assert bytes(objects.read(name)) == b"weights"


# -- the trash ----------------------------------------------------------------------------------


@KINDS
def test_what_is_thrown_away_is_in_the_trash_until_that_is_emptied(
    objects: ObjectStore, upkeep: ObjectUpkeep, durable: bool
) -> None:
    found, kept = old(objects, b"weights", durable=durable), objects.put(b"kept")
    assert upkeep.trash(found)
    assert names(list(upkeep.objects())) == {kept}
    (thrown,) = upkeep.trashed()
    assert (thrown.name, thrown.size_bytes) == (found.name, 7)
    assert thrown.is_volatile is not durable
    # It has been there since now, however old it is.
    assert thrown.modified_at > found.modified_at + DAY
    assert empty_trash(upkeep, DAY) == Removed(0, 0)
    age(objects, found.name, DAY + 1)
    assert empty_trash(upkeep, DAY) == Removed(1, 7)
    assert list(upkeep.trashed()) == []
    assert not objects.exists(found.name)
    with pytest.raises(ObjectNotFound):
        objects.read(found.name)
    assert bytes(objects.read(kept)) == b"kept"
    assert empty_trash(upkeep, 0) == Removed(0, 0)


@KINDS
@pytest.mark.parametrize("way", ["read", "exists", "restore", "check"])
def test_what_is_needed_after_all_comes_back_as_good_as_new(
    objects: ObjectStore, upkeep: ObjectUpkeep, durable: bool, way: str
) -> None:
    found = old(objects, b"weights", durable=durable)
    assert upkeep.trash(found)
    match way:
        case "read":
            assert bytes(objects.read(found.name)) == b"weights"
        case "exists":
            assert objects.exists(found.name)
        case "restore":
            assert upkeep.restore(found.name)
            assert not upkeep.restore(found.name)
        case _:
            upkeep.check(found.name)
    (again,) = upkeep.objects()
    assert (again.name, again.is_volatile) == (found.name, not durable)
    assert again.modified_at > found.modified_at + DAY
    assert list(upkeep.trashed()) == []
    assert empty_trash(upkeep, 0) == Removed(0, 0)
    assert bytes(objects.read(found.name)) == b"weights"


def test_what_is_deleted_does_not_come_back_from_the_trash(
    objects: ObjectStore, upkeep: ObjectUpkeep
) -> None:
    found = old(objects, b"weights")
    assert upkeep.trash(found)
    objects.delete(found.name)
    assert list(upkeep.trashed()) == []
    assert not objects.exists(found.name)


@KINDS
@pytest.mark.parametrize("way", ["put", "writer"])
def test_what_was_stored_again_since_it_was_found_is_not_thrown_away(
    objects: ObjectStore, upkeep: ObjectUpkeep, durable: bool, way: str
) -> None:
    found = old(objects, b"weights", durable=durable)
    if way == "put":
        objects.put(b"weights", durable=durable)
    else:
        writer = objects.writer(durable=durable)
        writer.write(b"weights")
        writer.commit()
    assert not upkeep.trash(found)
    assert names(list(upkeep.objects())) == {found.name}
    assert list(upkeep.trashed()) == []


@KINDS
def test_what_was_deleted_since_it_was_found_is_not_thrown_away(
    objects: ObjectStore, upkeep: ObjectUpkeep, durable: bool
) -> None:
    found = old(objects, b"weights", durable=durable)
    objects.delete(found.name)
    assert not upkeep.trash(found)
    assert list(upkeep.trashed()) == []


@KINDS
def test_only_what_is_still_in_the_trash_as_it_was_found_is_erased(
    objects: ObjectStore, upkeep: ObjectUpkeep, durable: bool
) -> None:
    found = old(objects, b"weights", durable=durable)
    assert upkeep.trash(found)
    (thrown,) = upkeep.trashed()
    assert upkeep.restore(found.name)
    assert not upkeep.erase(thrown)
    assert bytes(objects.read(found.name)) == b"weights"
    age(objects, found.name, 2 * DAY)
    (again,) = upkeep.objects()
    assert upkeep.trash(again)
    age(objects, found.name, 1.0)  # it came there at another time
    assert not upkeep.erase(thrown)
    (thrown,) = upkeep.trashed()
    assert upkeep.erase(thrown)
    assert not upkeep.erase(thrown)


@KINDS
def test_what_is_stored_again_when_it_is_in_the_trash_stays(
    objects: ObjectStore, upkeep: ObjectUpkeep, durable: bool
) -> None:
    found = old(objects, b"weights", durable=durable)
    assert upkeep.trash(found)
    assert objects.put(b"weights", durable=durable) == found.name
    assert names(list(upkeep.objects())) == {found.name}
    empty_trash(upkeep, 0)
    assert list(upkeep.trashed()) == []
    assert bytes(objects.read(found.name)) == b"weights"


def test_what_is_damaged_does_not_come_back_over_what_is_whole(
    objects: ObjectStore, upkeep: ObjectUpkeep
) -> None:
    found = old(objects, b"weights")
    damage(objects, found.name)
    assert upkeep.trash(found)
    objects.put(b"weights")
    assert not upkeep.restore(found.name)
    assert bytes(objects.read(found.name)) == b"weights"


def test_throwing_away_and_storing_at_once_never_loses_what_was_stored(
    objects: ObjectStore, upkeep: ObjectUpkeep
) -> None:
    contents = [b"object %d" % number for number in range(20)]
    for content in contents:
        old(objects, content)
    begun, stop = threading.Event(), threading.Event()
    thrown = 0

    def throw_away() -> None:
        nonlocal thrown
        while not stop.is_set():
            for found in upkeep.objects():
                if found.modified_at < time.time() - DAY:
                    thrown += upkeep.trash(found)
            begun.set()

    thread = threading.Thread(target=throw_away)
    thread.start()
    try:
        assert begun.wait(60)
        for _ in range(10):
            for content in contents:
                name = objects.put(content)
                assert objects.exists(name)
                assert bytes(objects.read(name)) == content
                age(objects, name, 2 * DAY)
    finally:
        stop.set()
        thread.join()
    assert thrown >= len(contents)
    for content in contents:
        assert bytes(objects.read(sha256(content).hexdigest())) == content


# -- whether it is whole ------------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize("size", [0, 7, 3_000_000])
def test_what_is_whole_passes_and_what_is_damaged_is_told(
    objects: ObjectStore, upkeep: ObjectUpkeep, durable: bool, size: int
) -> None:
    name = objects.put(b"w" * size, durable=durable)
    objects.read(name)
    upkeep.check(name)
    damage(objects, name)
    with pytest.raises(ObjectDamaged, match=name):
        upkeep.check(name)
    with pytest.raises(ObjectDamaged, match=name):  # from now on for readers, too
        objects.read(name)
    objects.put(b"w" * size, durable=durable)
    upkeep.check(name)


def test_what_is_not_there_is_told(upkeep: ObjectUpkeep) -> None:
    with pytest.raises(ObjectNotFound, match="0" * 64):
        upkeep.check("0" * 64)


def test_every_copy_is_checked(objects: ObjectStore, upkeep: ObjectUpkeep) -> None:
    name = objects.put(b"weights", durable=False)
    damage(objects, name)
    objects.put(b"weights")
    assert bytes(objects.read(name)) == b"weights"
    with pytest.raises(ObjectDamaged):
        upkeep.check(name)


# -- files alone --------------------------------------------------------------------------------


def test_what_killed_writers_left_is_found_and_removed(local: LocalObjectStore) -> None:
    upkeep = LocalUpkeep(local)
    kept = local.put(b"kept")
    dead, alive = local.writer(), local.writer()
    dead.write(b"half")
    (found,) = upkeep.incoming()
    alive.write(b"half of it")
    path = local.root / "incoming" / found.name
    os.utime(path, (1, 1))
    assert {(one.name == found.name, one.size_bytes) for one in upkeep.incoming()} == {
        (True, 4),
        (False, 10),
    }
    assert upkeep.clear_incoming(DAY, DAY) == Removed(1, 4)
    assert not path.exists()
    name = alive.commit()
    assert list(upkeep.incoming()) == []
    assert names(list(upkeep.objects())) == {kept, name}
    # The writer was not dead, only very slow: it is told, and nothing is half there.
    with pytest.raises(StorageError, match="cannot write to"):
        dead.commit()
    assert names(list(upkeep.objects())) == {kept, name}


def test_what_a_dead_process_left_goes_sooner(local: LocalObjectStore) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    dead = process.pid
    upkeep = LocalUpkeep(local)
    local.put(b"kept")
    folder = local.root / "incoming"
    mine, left = folder / f"{os.getpid()}-1", folder / f"{dead}-1"
    for path in (mine, left):
        path.write_bytes(b"half")
        at = time.time() - 7200
        os.utime(path, (at, at))
    assert upkeep.clear_incoming(DAY, 3 * 3600) == Removed(0, 0)
    assert upkeep.clear_incoming(DAY, 3600, is_trial=True) == Removed(1, 4)
    assert left.exists()
    assert upkeep.clear_incoming(DAY, 3600) == Removed(1, 4)
    assert mine.exists()
    assert not left.exists()
    assert upkeep.clear_incoming(3600, 3600) == Removed(1, 4)


def test_files_that_are_no_objects_are_left_alone(local: LocalObjectStore) -> None:
    name = local.put(b"weights")
    strangers = [
        local.root / "README",
        local.root / name[:2] / "notes.txt",
        local.root / "00" / ("1" * 64),
        local.root / "zz" / name,
        local.root / "trash" / "notes.txt",
    ]
    for path in strangers:
        path.parent.mkdir(exist_ok=True)
        path.write_text("not ours")
    (local.root / name[:2] / (name[:2] * 32)).mkdir()
    upkeep = LocalUpkeep(local)
    assert names(list(upkeep.objects())) == {name}
    assert list(upkeep.trashed()) == []
    empty_trash(upkeep, 0)
    assert all(path.exists() for path in strangers)


def test_what_is_seen_in_its_place_at_the_last_moment_is_brought_back(
    local: LocalObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = old(local, b"weights")
    real = os.rename

    def rename(source: str, target: str) -> None:
        local.put(b"weights")  # it is there, and gets a new time
        real(source, target)

    monkeypatch.setattr(os, "rename", rename)
    upkeep = LocalUpkeep(local)
    assert not upkeep.trash(found)
    assert list(upkeep.trashed()) == []
    assert paths_of(local, found.name) == [local.root / found.name[:2] / found.name]


def test_who_finds_it_gone_after_refreshing_its_time_writes_it_again(
    local: LocalObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = old(local, b"weights")
    real = os.utime

    def utime(path: str) -> None:
        monkeypatch.setattr(os, "utime", real)
        real(path, (found.modified_at, found.modified_at))
        assert LocalUpkeep(local).trash(found)

    monkeypatch.setattr(os, "utime", utime)
    assert local.put(b"weights") == found.name
    assert names(list(LocalUpkeep(local).objects())) == {found.name}
    empty_trash(LocalUpkeep(local), 0)
    assert bytes(local.read(found.name)) == b"weights"


def test_another_store_on_the_same_files_brings_it_back(local: LocalObjectStore) -> None:
    found = old(local, b"w" * 400_000)
    content = local.read(found.name)
    other = LocalObjectStore(local.root)
    assert LocalUpkeep(local).trash(found)
    assert bytes(other.read(found.name)) == b"w" * 400_000
    assert bytes(content) == b"w" * 400_000  # whoever has it keeps it


def test_trouble_with_the_disk_is_told_and_loses_nothing(
    local: LocalObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = old(local, b"weights")
    upkeep = LocalUpkeep(local)

    def failing(number: int) -> Callable[..., None]:
        def fail(*_: object, **__: object) -> None:
            raise OSError(number, os.strerror(number))

        return fail

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", failing(28))
        with pytest.raises(StorageFull):
            upkeep.trash(found)
    assert upkeep.trash(found)
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", failing(5))
        with pytest.raises(StorageError):
            empty_trash(upkeep, 0)
        patch.setattr(os, "replace", failing(28))
        with pytest.raises(StorageFull):
            local.read(found.name)
        patch.setattr(os, "scandir", failing(5))
        with pytest.raises(StorageError):
            list(upkeep.objects())
    assert bytes(local.read(found.name)) == b"weights"

"""What every object store promises."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import pytest

from weftline.adapters.objects.local import LocalObjectStore
from weftline.adapters.objects.memory import MemoryObjectStore
from weftline.errors import ObjectDamaged, ObjectNotFound, StorageError, StorageFull
from weftline.ports.objects import ObjectStore

MISSING = "0" * 64
# Empty, tiny, read into memory, mapped, and written in several chunks.
CONTENTS = [b"", b"weights", bytes(range(256)) * 500, b"m" * 300_000, os.urandom(3_000_000)]


@pytest.fixture(params=["memory", "local"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "memory":
        return MemoryObjectStore()
    return LocalObjectStore(tmp_path / "home" / "objects")


@pytest.fixture
def local(tmp_path: Path) -> LocalObjectStore:
    return LocalObjectStore(tmp_path / "objects")


def path_of(store: LocalObjectStore, name: str) -> Path:
    return store.root / name[:2] / name


def volatile_path_of(store: LocalObjectStore, name: str) -> Path:
    return store.root / "volatile" / name[:2] / name


def files_in(store: LocalObjectStore) -> list[Path]:
    return [path for path in store.root.rglob("*") if path.is_file()]


def damage(objects: ObjectStore, name: str) -> None:
    if isinstance(objects, MemoryObjectStore):
        for key, kept in objects._kept.items():
            if key[0] == name:
                objects._kept[key] = kept._replace(content=b"else" + kept.content[4:])
    elif isinstance(objects, LocalObjectStore):
        for path in (path_of(objects, name), volatile_path_of(objects, name)):
            if path.exists():
                path.write_bytes(b"else" + path.read_bytes()[4:])
                os.utime(path, ns=(1, 1))  # another time than that of its writing, however coarse


def write(objects: ObjectStore, content: bytes, part_size: int, *, durable: bool = True) -> str:
    writer = objects.writer(durable=durable)
    for start in range(0, len(content), part_size):
        part = memoryview(content)[start : start + part_size]
        assert writer.write(part) == len(part)
    return writer.commit()


@pytest.mark.parametrize("content", CONTENTS, ids=len)
def test_an_object_is_named_by_its_content_and_read_back(
    objects: ObjectStore, content: bytes
) -> None:
    name = objects.put(content)
    assert name == sha256(content).hexdigest()
    assert bytes(objects.read(name)) == content
    assert objects.exists(name)


@pytest.mark.parametrize("content", CONTENTS, ids=len)
@pytest.mark.parametrize("part_size", [1000, 1 << 22])
def test_an_object_written_in_parts_is_the_same_object(
    objects: ObjectStore, content: bytes, part_size: int
) -> None:
    name = write(objects, content, part_size)
    assert name == objects.put(content)
    assert bytes(objects.read(name)) == content


def test_a_writer_takes_buffers_of_any_shape_and_type(objects: ObjectStore) -> None:
    numbers = memoryview(bytes(96)).cast("d", (3, 4))
    writer = objects.writer()
    assert writer.write(bytearray(b"ab")) == 2
    assert writer.write(memoryview(b"")) == 0
    assert writer.write(numbers) == 96  # type: ignore[arg-type]
    assert bytes(objects.read(writer.commit())) == b"ab" + bytes(96)


@pytest.mark.parametrize("size", [10, 400_000])
def test_changing_what_was_read_changes_nothing_for_others(objects: ObjectStore, size: int) -> None:
    name = objects.put(b"a" * size)
    first = objects.read(name)
    assert not first.readonly
    first[:3] = b"xyz"
    assert bytes(objects.read(name)) == b"a" * size
    assert bytes(first[:4]) == b"xyza"


def test_a_missing_object_is_an_error(objects: ObjectStore) -> None:
    objects.put(b"another")
    assert not objects.exists(MISSING)
    with pytest.raises(ObjectNotFound, match=MISSING):
        objects.read(MISSING)


@pytest.mark.parametrize("content", [b"weights", b"w" * 400_000], ids=len)
def test_a_damaged_object_is_an_error_until_it_is_stored_again(
    objects: ObjectStore, content: bytes
) -> None:
    name = objects.put(content)
    objects.read(name)
    damage(objects, name)
    with pytest.raises(ObjectDamaged, match=name) as caught:
        objects.read(name)
    actual = sha256(b"else" + content[4:]).hexdigest()
    assert actual in str(caught.value)
    assert "run the step that made it again" in str(caught.value)


def test_a_deleted_object_is_gone_and_deleting_it_again_is_no_error(objects: ObjectStore) -> None:
    name = objects.put(b"weights")
    objects.delete(name)
    assert not objects.exists(name)
    with pytest.raises(ObjectNotFound):
        objects.read(name)
    objects.delete(name)
    assert objects.put(b"weights") == name
    assert bytes(objects.read(name)) == b"weights"


# -- what need not survive a crash of the machine -----------------------------------------------


@pytest.mark.parametrize("content", CONTENTS, ids=len)
@pytest.mark.parametrize("way", ["put", "writer"])
def test_a_volatile_object_is_read_as_any_other(
    objects: ObjectStore, content: bytes, way: str
) -> None:
    if way == "put":
        name = objects.put(content, durable=False)
    else:
        name = write(objects, content, 1000, durable=False)
    assert name == sha256(content).hexdigest()
    assert objects.exists(name)
    assert bytes(objects.read(name)) == content
    objects.delete(name)
    assert not objects.exists(name)
    with pytest.raises(ObjectNotFound):
        objects.read(name)


def test_what_is_stored_durably_as_well_is_read_until_both_are_deleted(
    objects: ObjectStore,
) -> None:
    name = objects.put(b"weights", durable=False)
    assert objects.put(b"weights") == name
    assert objects.put(b"weights", durable=False) == name
    assert bytes(objects.read(name)) == b"weights"
    objects.delete(name)
    assert not objects.exists(name)


def test_a_damaged_volatile_object_counts_as_gone_until_it_is_stored_again(
    objects: ObjectStore,
) -> None:
    name = objects.put(b"weights", durable=False)
    damage(objects, name)
    assert not objects.exists(name)
    with pytest.raises(ObjectDamaged):
        objects.read(name)
    assert objects.put(b"weights", durable=False) == name
    assert objects.exists(name)
    assert bytes(objects.read(name)) == b"weights"


@pytest.mark.parametrize("way", ["put", "writer"])
def test_storing_for_a_while_mends_a_damaged_durable_object(objects: ObjectStore, way: str) -> None:
    name = objects.put(b"weights")
    damage(objects, name)
    if way == "put":
        objects.put(b"weights", durable=False)
    else:
        write(objects, b"weights", 2, durable=False)
    assert bytes(objects.read(name)) == b"weights"


def test_nothing_is_visible_of_an_aborted_object(objects: ObjectStore) -> None:
    writer = objects.writer()
    writer.write(b"half")
    writer.abort()
    writer.abort()
    assert not objects.exists(sha256(b"half").hexdigest())


def test_many_threads_may_store_the_same_content(objects: ObjectStore) -> None:
    contents = [b"%d" % (number % 7) * 50_000 for number in range(60)]
    with ThreadPoolExecutor(8) as pool:
        puts = list(pool.map(objects.put, contents))
        writes = list(pool.map(lambda content: write(objects, content, 30_000), contents))
    assert puts == writes == [sha256(content).hexdigest() for content in contents]
    assert all(
        bytes(objects.read(name)) == content for name, content in zip(puts, contents, strict=True)
    )


# -- local files --------------------------------------------------------------------------------


def test_no_folder_is_made_before_something_is_written(local: LocalObjectStore) -> None:
    with pytest.raises(ObjectNotFound):
        local.read(MISSING)
    assert not local.exists(MISSING)
    local.delete(MISSING)
    local.writer().abort()
    assert not local.root.exists()


def test_a_root_stays_where_it_is_when_the_working_folder_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    local = LocalObjectStore(Path("objects"))
    name = local.put(b"weights")
    monkeypatch.chdir("/")
    assert bytes(local.read(name)) == b"weights"
    assert local.root == tmp_path / "objects"


@pytest.mark.parametrize("name", ["", "abc", "../../../etc/passwd", "A" * 64, "0" * 63 + "/"])
def test_a_name_that_is_none_finds_nothing(local: LocalObjectStore, name: str) -> None:
    local.put(b"weights")
    assert not local.exists(name)
    local.delete(name)
    with pytest.raises(ObjectNotFound):
        local.read(name)


def test_nothing_is_left_in_incoming(local: LocalObjectStore) -> None:
    name = local.put(b"weights")
    write(local, b"weights", 3)
    aborted = local.writer()
    aborted.write(b"half")
    aborted.abort()
    forgotten = local.writer()
    forgotten.write(b"half")
    del forgotten
    assert files_in(local) == [path_of(local, name)]


def test_storing_again_refreshes_the_time_and_rewrites_nothing(local: LocalObjectStore) -> None:
    name = local.put(b"weights")
    path = path_of(local, name)
    inode = path.stat().st_ino
    for way in ("put", "writer"):
        os.utime(path, (1, 1))
        assert (local.put(b"weights") if way == "put" else write(local, b"weights", 2)) == name
        assert path.stat().st_mtime > 1_000_000
        assert path.stat().st_ino == inode


@pytest.mark.parametrize("damaged", [b"wei", b"WEIGHTS", b"weights and more"])
def test_storing_again_mends_a_damaged_file(local: LocalObjectStore, damaged: bytes) -> None:
    name = local.put(b"weights")
    path_of(local, name).write_bytes(damaged)
    other = LocalObjectStore(local.root)
    with pytest.raises(ObjectDamaged):
        other.read(name)
    other.put(b"weights")
    assert bytes(other.read(name)) == b"weights"


def test_a_file_is_compared_with_its_name_once(
    local: LocalObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = local.put(b"w" * 1000)
    reader = LocalObjectStore(local.root)
    reader.read(name)

    def fail(content: bytes) -> None:
        raise AssertionError("hashed again")

    monkeypatch.setattr("weftline.adapters.objects.local.sha256", fail)
    assert bytes(reader.read(name)) == b"w" * 1000


def test_another_process_reads_and_stores_the_same_objects(local: LocalObjectStore) -> None:
    name = local.put(b"weights")
    script = (
        "import sys; from pathlib import Path\n"
        "from weftline.adapters.objects.local import LocalObjectStore\n"
        "store = LocalObjectStore(Path(sys.argv[1]))\n"
        "assert store.put(b'weights') == sys.argv[2]\n"
        "assert bytes(store.read(sys.argv[2])) == b'weights'\n"
        "print(store.put(b'made there'))\n"
    )
    command = [sys.executable, "-c", script, str(local.root), name]
    made = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    assert bytes(local.read(made)) == b"made there"


@pytest.fixture
def flushed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths that were flushed to the disk, in order."""
    paths: list[str] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        paths.append(os.readlink(f"/proc/self/fd/{fd}"))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    return paths


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="asks Linux for names of files")
def test_the_file_and_every_folder_with_a_new_entry_are_flushed(
    local: LocalObjectStore, flushed: list[str]
) -> None:
    name = local.put(b"weights")
    root, folder = str(local.root), str(local.root / name[:2])
    incoming = [path for path in flushed if "/incoming/" in path]
    assert len(incoming) == 1
    # The entry of the root in its parent, of both folders in the root, of the file in its folder.
    assert set(flushed) == {incoming[0], str(local.root.parent), root, folder}
    assert flushed.index(incoming[0]) < flushed.index(folder)

    flushed.clear()
    local.put(b"weights")
    assert flushed == []

    # Another process may have renamed it a moment ago and not come to flush the folders.
    LocalObjectStore(local.root).put(b"weights")
    assert set(flushed) == {root, folder}


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="asks Linux for names of files")
def test_a_volatile_object_lies_beside_the_durable_ones_and_nothing_is_flushed(
    local: LocalObjectStore, flushed: list[str]
) -> None:
    there = local.put(b"there")
    flushed.clear()
    for way in ("put", "writer"):
        content = b"weights of " + way.encode()
        if way == "put":
            name = local.put(content, durable=False)
        else:
            name = write(local, content, 3, durable=False)
        assert volatile_path_of(local, name).read_bytes() == content
        assert not path_of(local, name).exists()
        assert local.put(content, durable=False) == name
    # Nor what is durable already: it is used as it is.
    assert LocalObjectStore(local.root).put(b"there", durable=False) == there
    assert not volatile_path_of(local, there).exists()
    assert flushed == []
    assert len(files_in(local)) == 3
    # Whoever needs it to be durable makes it so.
    local.put(content)
    assert path_of(local, name).exists()
    assert str(local.root) in flushed


def test_storing_a_volatile_object_again_refreshes_the_time_of_what_is_there(
    local: LocalObjectStore,
) -> None:
    volatile, durable = local.put(b"volatile", durable=False), local.put(b"durable")
    for path in (volatile_path_of(local, volatile), path_of(local, durable)):
        os.utime(path, (1, 1))
        local.put(path.read_bytes(), durable=False)
        assert path.stat().st_mtime > 1_000_000


def test_what_a_crash_of_the_machine_left_of_a_volatile_object_counts_as_gone(
    local: LocalObjectStore,
) -> None:
    name = local.put(b"weights", durable=False)
    volatile_path_of(local, name).write_bytes(b"")
    os.utime(volatile_path_of(local, name), (1, 1))
    after_the_crash = LocalObjectStore(local.root)
    assert not after_the_crash.exists(name)
    assert after_the_crash.put(b"weights", durable=False) == name
    assert after_the_crash.exists(name)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
@pytest.mark.parametrize("call", ["write", "fsync", "replace", "open", "mkdir"])
@pytest.mark.parametrize("way", ["put", "writer"])
def test_a_full_disk_is_told_and_leaves_nothing(
    local: LocalObjectStore,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    call: str,
    way: str,
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    store: Callable[[], str] = lambda: (  # noqa: E731
        local.put(b"weights") if way == "put" else write(local, b"weights", 3)
    )
    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        if call == "mkdir":
            patch.setattr(os.path, "isdir", lambda _: True)
        if call == "open":
            local.root.mkdir(parents=True)
        with pytest.raises(StorageFull) as caught:
            store()
    assert caught.value.errno == number
    assert isinstance(caught.value.__cause__, OSError)
    assert str(local.root) in str(caught.value)
    assert not local.root.exists() or files_in(local) == []
    assert not local.exists(sha256(b"weights").hexdigest())
    assert bytes(local.read(store())) == b"weights"


def test_what_else_keeps_a_file_from_being_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "objects").write_text("a file where the folder should be")
    with pytest.raises(StorageError, match="cannot write to") as caught:
        LocalObjectStore(tmp_path / "objects").put(b"weights")
    assert not isinstance(caught.value, StorageFull)

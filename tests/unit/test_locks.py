import errno
import fcntl
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import weftline
from weftline.adapters.journal.locks import EngineLocks, WriterLock, holder, writer_lock
from weftline.errors import StorageError

SOURCE = str(Path(weftline.__file__).parents[1])

# Runs one text with `path` at hand, says that it did, and ends when its input does.
PREAMBLE = """
import sys
from pathlib import Path
from weftline.adapters.journal.locks import EngineLocks, holder, writer_lock
path = Path(sys.argv[1])
exec(sys.argv[2])
print('done', flush=True)
sys.stdin.read()
"""

Start = Callable[[Path, str], subprocess.Popen[str]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a process, and returns when it has run its text."""
    started = []

    def run(path: Path, code: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", PREAMBLE, str(path), code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": SOURCE},
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "done\n"
        return process

    yield run
    for process in started:
        process.communicate()


def in_child(work: Callable[[], Any]) -> Any:
    """What this gives in a forked child."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, repr(work()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader, encoding="utf-8") as answer:
        return answer.read()


# -- who holds a file ---------------------------------------------------------------------------


def test_a_file_that_nobody_holds_has_no_holder(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    assert holder(path) is None
    path.touch()
    assert holder(path) is None


def test_the_holder_is_the_process_that_locked_the_file(tmp_path: Path, start: Start) -> None:
    process = start(tmp_path, "locks = EngineLocks(path); locks.register('a')")
    assert holder(tmp_path / "a.lock") == process.pid
    assert holder(tmp_path / "a.lock") == process.pid
    process.kill()
    process.wait()
    assert holder(tmp_path / "a.lock") is None


def test_a_lock_of_another_program_is_seen(tmp_path: Path, start: Start) -> None:
    process = start(
        tmp_path,
        "import fcntl; file = open(path / 'a.lock', 'w'); fcntl.lockf(file, fcntl.LOCK_EX)",
    )
    assert holder(tmp_path / "a.lock") == process.pid


def test_asking_for_the_holder_of_an_own_file_does_not_let_go_of_it(
    tmp_path: Path, start: Start
) -> None:
    locks = EngineLocks(tmp_path)
    locks.register("a")
    (tmp_path / "link").symlink_to(tmp_path)
    assert holder(tmp_path / "link" / "a.lock") == os.getpid()
    start(tmp_path, "import os; assert holder(path / 'a.lock') == os.getppid()")
    locks.release("a")


# -- engines ------------------------------------------------------------------------------------


def test_a_registered_engine_is_alive_until_it_is_released(tmp_path: Path) -> None:
    locks = EngineLocks(tmp_path / "engines")
    assert not locks.is_alive("a")
    locks.register("a")
    locks.register("a")
    assert locks.is_alive("a")
    assert [path.name for path in (tmp_path / "engines").iterdir()] == ["a.lock"]
    locks.release("a")
    locks.release("a")
    assert not locks.is_alive("a")
    assert list((tmp_path / "engines").iterdir()) == []


def test_all_locks_of_a_process_know_its_engines(tmp_path: Path, start: Start) -> None:
    first, second = EngineLocks(tmp_path), EngineLocks(tmp_path)
    first.register("a")
    assert second.is_alive("a")
    start(tmp_path, "assert EngineLocks(path).is_alive('a')")
    second.release("a")
    assert not first.is_alive("a")


def test_an_engine_of_another_process_cannot_be_registered(tmp_path: Path, start: Start) -> None:
    process = start(tmp_path, "EngineLocks(path).register('a')")
    with pytest.raises(StorageError, match=f"by process {process.pid} already"):
        EngineLocks(tmp_path).register("a")
    assert EngineLocks(tmp_path).is_alive("a")
    process.kill()
    process.wait()
    locks = EngineLocks(tmp_path)
    locks.register("a")  # over the file that the dead one left behind
    start(tmp_path, "assert EngineLocks(path).is_alive('a')")
    locks.release("a")


def test_what_dead_engines_leave_behind_is_removed(tmp_path: Path, start: Start) -> None:
    process = start(tmp_path, "[EngineLocks(path).register(name) for name in 'ab']")
    process.kill()
    process.wait()
    assert (tmp_path / "a.lock").exists()
    assert not EngineLocks(tmp_path).is_alive("a")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.lock"]


def test_a_forked_child_holds_nothing(tmp_path: Path, start: Start) -> None:
    locks = EngineLocks(tmp_path)
    locks.register("a")

    def ask_and_end() -> tuple[int | None, bool]:
        found = holder(tmp_path / "a.lock"), locks.is_alive("a")
        locks.release("a")  # not the child's to release
        return found

    assert in_child(ask_and_end) == repr((os.getpid(), True))
    start(tmp_path, "assert EngineLocks(path).is_alive('a')")
    locks.release("a")


# -- the writer ---------------------------------------------------------------------------------


def test_a_path_has_one_lock_in_a_process(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    first = writer_lock(tmp_path / "writer.lock")
    second = writer_lock(tmp_path / "link" / "writer.lock")
    assert first is second
    first.close()
    with second:
        pass
    second.close()
    third = writer_lock(tmp_path / "writer.lock")
    assert third is not second
    third.close()


def test_threads_write_one_after_the_other(tmp_path: Path) -> None:
    path = tmp_path / "count"
    path.write_text("0")

    def count() -> None:
        lock = writer_lock(tmp_path / "writer.lock")
        for _ in range(200):
            with lock:
                path.write_text(str(int(path.read_text()) + 1))
        lock.close()

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_text() == "800"


def test_processes_write_one_after_the_other(tmp_path: Path, start: Start) -> None:
    (tmp_path / "count").write_text("0")
    code = """
def count(path):
    with writer_lock(path / 'writer.lock'):
        for _ in range(300):
            (path / 'count').write_text(str(int((path / 'count').read_text()) + 1))
"""
    background = """
import threading
threading.Thread(target=count, args=(path,)).start()
"""
    processes = [start(tmp_path, code + background) for _ in range(3)]
    for process in processes:
        process.communicate()
    assert (tmp_path / "count").read_text() == "900"


def test_a_killed_writer_lets_the_next_one_write(tmp_path: Path, start: Start) -> None:
    process = start(tmp_path, "writer_lock(path / 'writer.lock').__enter__()")
    path = tmp_path / "writer.lock"
    assert holder(path) == process.pid
    process.kill()
    process.wait()
    lock = writer_lock(path)
    with lock:
        pass
    lock.close()


def test_a_forked_child_waits_for_its_parent(tmp_path: Path) -> None:
    path = tmp_path / "writer.lock"
    lock = writer_lock(path)

    def try_to_write() -> str:
        file = os.open(path, os.O_RDWR)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return "must wait"
        return "may write"

    with lock:
        assert in_child(try_to_write) == repr("must wait")
    assert in_child(try_to_write) == repr("may write")
    assert in_child(lambda: writer_lock(path) is lock) == "False"
    lock.close()


def test_what_looks_like_a_deadlock_to_the_kernel_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = writer_lock(tmp_path / "writer.lock")
    answers = [OSError(errno.EDEADLK, "deadlock"), OSError(errno.EDEADLK, "deadlock"), None]

    def lockf(file: int, command: int) -> None:
        answer = answers.pop(0) if command == fcntl.LOCK_EX else None
        if answer is not None:
            raise answer

    monkeypatch.setattr(fcntl, "lockf", lockf)
    with lock:
        assert answers == []
    monkeypatch.undo()
    lock.close()


def test_a_file_system_without_locks_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = writer_lock(tmp_path / "writer.lock")

    def lockf(file: int, command: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", lockf)
    with pytest.raises(StorageError, match=r"writer\.lock: No locks available"), lock:
        pass
    monkeypatch.undo()
    with lock:
        pass
    lock.close()


def test_a_lock_that_was_closed_says_so(tmp_path: Path) -> None:
    lock: WriterLock = writer_lock(tmp_path / "writer.lock")
    lock.close()
    for _ in range(2):
        with pytest.raises(StorageError, match="was closed"), lock:
            pass

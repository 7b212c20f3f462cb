"""What of a home is left over, who shares objects, and what a trial tells; with a clock in hand."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stores import DAY, age
from weftline.adapters.journal.locks import EngineLocks
from weftline.adapters.journal.memory import MemoryJournal, MemoryJournalUpkeep
from weftline.adapters.objects.local import LocalObjectStore
from weftline.adapters.objects.local_upkeep import LocalUpkeep
from weftline.adapters.objects.memory import MemoryObjectStore, MemoryUpkeep
from weftline.adapters.objects.sharing import note_home, other_homes
from weftline.core.environment import Environment
from weftline.core.events import LogRange, RunStatus, RunSubmitted, StepStarted, encode_event
from weftline.errors import StorageError
from weftline.ports.journal import Batch, Creation, Entry, RunChange, Summary
from weftline.ports.objects import Removed
from weftline.upkeep.leftovers import Leftover, Leftovers
from weftline.upkeep.tidying import AGES, ENDED, Tidying
from weftline.workers.logs import LogFolder

NOTHING = Removed(0, 0)

HOLDER = """
import fcntl, os, sys
file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.lockf(file, fcntl.LOCK_EX)
print("locked", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    path = tmp_path / "home"
    for name in ("engines", "logs"):
        (path / name).mkdir(parents=True)
    return path


@pytest.fixture
def held(home: Path) -> Iterator[Path]:
    """The lock of a child that another process holds."""
    path = home / "engines" / "dead.child-2"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"locked\n"
        yield path
        process.communicate()


def make(path: Path, content: str = "", age_s: float = 0.0) -> Path:
    path.write_text(content)
    at = time.time() - age_s
    os.utime(path, (at, at))
    return path


def paths(found: Iterator[Leftover] | list[Leftover]) -> set[Path]:
    return {each.path for each in found}


# -- files --------------------------------------------------------------------------------------


def test_locks_and_bells_of_the_dead_are_left_over_and_no_others(home: Path, held: Path) -> None:
    locks, engines = EngineLocks(home / "engines"), home / "engines"
    locks.register("alive")
    try:
        kept = [
            held,
            engines / "alive.lock",
            make(engines / "alive.bell"),
            make(engines / "alive.child-1"),
            make(engines / ".new.1234"),
            make(engines / "notes.txt"),
            make(home / "controller.lock", age_s=DAY),
            make(home / ".room-1"),
            make(home / "logs" / ".trial.1"),
        ]
        left = [
            make(engines / "dead.lock"),
            make(engines / "dead.bell"),
            make(engines / "dead.child-1", "12345"),
            make(engines / ".old.1234", age_s=DAY),
            make(home / ".room-2", age_s=DAY),
            make(home / "logs" / ".trial.2", age_s=DAY),
        ]
        leftovers = Leftovers(home)
        found = list(leftovers.locks())
        assert paths(found) == set(left)
        assert sum(each.size_bytes for each in found) == 5
        assert all(map(leftovers.remove, found))
        assert not any(map(leftovers.remove, found))
        assert list(leftovers.locks()) == []
        assert all(path.exists() for path in kept)
        assert EngineLocks(engines).is_alive("alive")
    finally:
        locks.release("alive")


def test_logs_are_left_over_when_they_are_old_and_nobody_can_write_them(home: Path) -> None:
    logs, locks = home / "logs", EngineLocks(home / "engines")
    locks.register("alive")
    is_open = make(logs / "threads-1.2.err", "x", 2 * DAY)
    writer = is_open.open("a")
    try:
        make(logs / "dead.1.out", "new")
        make(logs / "alive.1.out", "of a child of a living engine", 2 * DAY)
        make(logs / "controller.log", "not of a step", 2 * DAY)
        old = [
            make(logs / "dead.2.out", "abc", 2 * DAY),
            make(logs / "dead.2.err", "d", 2 * DAY),
            make(logs / "inline-12.out", "e", 2 * DAY),
        ]
        assert paths(Leftovers(home).old_logs(DAY)) == set(old)
        writer.close()
        assert paths(Leftovers(home).old_logs(DAY)) == {*old, is_open}
        assert Leftovers(home).old_logs(3 * DAY) == []
    finally:
        writer.close()
        locks.release("alive")


def test_files_of_a_child_are_open_as_long_as_its_engine_has_them(home: Path) -> None:
    logs = LogFolder(home / "logs").open("threads-1.2")
    path = home / "logs" / "threads-1.2.out"
    try:
        os.write(logs.fds[0], b"abc")
        logs.publish()
        os.utime(path, (1, 1))
        assert Leftovers(home).old_logs(DAY) == []
    finally:
        logs.close()
    assert Leftovers(home).old_logs(DAY) == [Leftover(path, 3)]


def test_a_home_without_folders_has_nothing_left_over(tmp_path: Path) -> None:
    leftovers = Leftovers(tmp_path / "none")
    assert list(leftovers.locks()) == leftovers.old_logs(0) == []


# -- several homes ------------------------------------------------------------------------------


def test_homes_that_share_objects_know_of_each_other(tmp_path: Path) -> None:
    a, b, c = (tmp_path / name for name in "abc")
    objects = a / "objects"
    for each in (a, b, c):
        each.mkdir()
        note_home(objects, each)
        note_home(objects, each)
        assert other_homes(objects, each) == []
    assert not (objects / "homes" / "a").exists()
    for each in (a, b):
        (each / "weftline.db").touch()
    assert other_homes(objects, a) == [b]
    assert other_homes(objects, b) == [a]
    assert other_homes(objects, c) == [a, b]
    assert other_homes(tmp_path / "else" / "objects", a) == []
    (tmp_path / "copy").mkdir()
    os.rename(objects, tmp_path / "copy" / "objects")  # its notes are about another folder
    assert other_homes(tmp_path / "copy" / "objects", a) == []


def test_a_note_that_cannot_be_read_counts_for_nothing(tmp_path: Path) -> None:
    objects = tmp_path / "a" / "objects"
    note_home(objects, tmp_path / "b")
    (note,) = (objects / "homes").iterdir()
    note.write_text("what is this")
    assert other_homes(objects, tmp_path / "a") == []


def test_objects_that_others_use_are_left_alone(tmp_path: Path) -> None:
    objects, journal = MemoryObjectStore(), MemoryJournal()
    age(objects, objects.put(b"old"), 9 * DAY)
    others = [tmp_path]
    upkeep = MemoryJournalUpkeep(journal), MemoryUpkeep(objects)
    tidied = Tidying(*upkeep, sharing=others).tidy()
    assert (tidied.trashed, tidied.kept_for) == (NOTHING, others)
    assert Tidying(*upkeep).tidy().trashed == Removed(1, 3)


# -- all of it ----------------------------------------------------------------------------------


def submit(journal: MemoryJournal, run_id: str, *objects: str, ended_at: float) -> None:
    log = StepStarted(step=0, attempt=1, log=LogRange(f"{run_id}.1", 0, 1, 0, 0))
    events = [RunSubmitted(graph=run_id, output=0), log]
    change = RunChange(
        run_id=run_id,
        epoch=0,
        entries=[
            Entry(seq, 1.0, type(event).__name__, encode_event(event))
            for seq, event in enumerate(events, 1)
        ],
        summary=Summary(status=RunStatus.SUCCESSFUL, steps=1, succeeded=1, ended_at=ended_at),
        creation=Creation(
            workflow="w",
            created_at=1.0,
            environment=Environment(python="p", sys_path=(), cwd="/"),
            metadata={},
        ),
    )
    held = [(run_id, name) for name in objects]
    batch = Batch(changes=[change], graphs=[(run_id, [b"12345"])], objects=held)
    assert journal.commit(batch) == set()


def test_a_trial_tells_what_would_be_done_and_does_nothing(home: Path) -> None:
    journal, objects = MemoryJournal(), MemoryObjectStore()
    for content in (b"a", b"bb", b"ccc"):
        age(objects, objects.put(content), 2 * DAY)
    a, b, c = (objects.put(content) for content in (b"a", b"bb", b"ccc"))
    for name in (a, b, c):
        age(objects, name, 2 * DAY)
    submit(journal, "old", a, b, ended_at=100.0)
    submit(journal, "new", b, ended_at=time.time())
    logs = [make(home / "logs" / f"{name}.1.out", name, 2 * DAY) for name in ("old", "new")]
    make(home / "engines" / "dead.lock", "12")
    tidying = Tidying(MemoryJournalUpkeep(journal), MemoryUpkeep(objects), Leftovers(home))
    runs = tidying.ended_runs(DAY, ENDED)
    assert [run.run_id for run in runs] == ["old"]
    told = tidying.tidy(without={"old"}, is_trial=True)
    assert all(path.exists() for path in logs)
    assert (home / "engines" / "dead.lock").exists()
    assert tidying.tidy(without={"old"}, is_trial=True) == told
    assert tidying.delete_runs(runs) == Removed(1, runs[0].size_bytes)
    # Of a memory journal the graph goes with its run.
    assert told.graphs == Removed(1, 5)
    told.graphs = NOTHING
    assert tidying.tidy() == told
    assert told.trashed == told.waiting == Removed(2, 4)
    assert told.locks == Removed(1, 2)
    assert told.logs == Removed(1, 3)
    assert [path.exists() for path in logs] == [False, True]
    for name in (a, c):
        age(objects, name, 2 * DAY)
    told = tidying.tidy(is_trial=True)
    assert told.erased == Removed(2, 4)
    assert tidying.tidy() == told
    assert told.waiting == NOTHING
    assert list(MemoryUpkeep(objects).trashed()) == []


def test_what_is_needed_again_comes_back_and_what_was_stored_again_goes_from_the_trash() -> None:
    journal, objects = MemoryJournal(), MemoryObjectStore()
    upkeep = MemoryUpkeep(objects)
    tidying = Tidying(MemoryJournalUpkeep(journal), upkeep)
    names = [objects.put(content) for content in (b"a", b"bb")]
    for name in names:
        age(objects, name, 2 * DAY)
    assert tidying.tidy().trashed == Removed(2, 3)
    objects.put(b"bb")
    submit(journal, "r", *names, ended_at=time.time())
    told = tidying.tidy(is_trial=True)
    assert (told.restored, told.erased, told.waiting) == (Removed(1, 1), NOTHING, Removed(1, 2))
    assert tidying.tidy() == told
    for name in names:
        age(objects, name, 2 * DAY)
    told = tidying.tidy(is_trial=True)
    assert (told.restored, told.erased, told.waiting) == (NOTHING, Removed(1, 2), NOTHING)
    assert tidying.tidy() == told
    assert {found.name for found in upkeep.objects()} == set(names)
    assert list(upkeep.trashed()) == []


def test_many_objects_are_thrown_away_in_parts_and_progress_is_told(tmp_path: Path) -> None:
    journal, objects = MemoryJournal(), LocalObjectStore(tmp_path / "objects")
    names = [objects.put(b"%d" % number, durable=False) for number in range(450)]
    for name in names:
        os.utime(objects.path(name, "volatile/"), (1, 1))
    told = []
    tidying = Tidying(
        MemoryJournalUpkeep(journal),
        LocalUpkeep(objects),
        progress=lambda what, done, total: told.append((what, done, total)),
    )
    assert tidying.tidy().trashed.number == 450
    assert told == [("objects", done, 450) for done in (0, 200, 400)]
    for number in range(45):
        submit(journal, f"r{number}", ended_at=1.0)
    told.clear()
    assert tidying.delete_runs(tidying.ended_runs(DAY, ENDED)).number == 45
    assert told == [("runs", done, 45) for done in (0, 20, 40)]


def test_ages_can_be_chosen_and_a_file_that_cannot_be_removed_is_told(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, objects = MemoryJournal(), MemoryObjectStore()
    objects.put(b"a")
    ages = AGES._replace(object_s=0.0, trash_s=0.0)
    tidying = Tidying(
        MemoryJournalUpkeep(journal), MemoryUpkeep(objects), Leftovers(home), ages=ages
    )
    assert tidying.tidy().trashed == Removed(1, 1)
    assert tidying.tidy().erased == Removed(1, 1)
    path = make(home / "engines" / "dead.lock")

    def unlink(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", unlink)
    with pytest.raises(StorageError, match=f"cannot remove {path}: Permission denied"):
        tidying.tidy()

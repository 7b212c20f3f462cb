"""The checks of `weft doctor` that need no database: what they make of folders, rows and locks."""

import os
import sys
from pathlib import Path

import pytest
from msgspec import Raw
from msgspec.structs import replace

from tests.graphs import Book, graph, step
from weftline.cli.checks import (
    LITTLE_SPACE,
    NO_SPACE,
    Level,
    check_engines,
    check_folder,
    check_interpreters,
    check_leftovers,
    check_orphans,
    contradictions,
    judge_space,
    volatile_objects,
)
from weftline.cli.processes import controller_of, engines_in, living, resident_bytes
from weftline.core.environment import Environment
from weftline.core.events import PauseChanged, RunStatus, StepSucceeded
from weftline.ports.journal import Creation, RunRecord, Summary


def record_of(book: Book, python: str = sys.executable, cwd: str = "/") -> RunRecord:
    """The row that the run's owner would have written."""
    run = book.run
    return RunRecord(
        run_id="r",
        creation=Creation(
            workflow="w",
            created_at=1.0,
            environment=Environment(python=python, sys_path=(), cwd=cwd),
            metadata={},
        ),
        summary=Summary(
            status=run.status,
            steps=len(run.steps),
            succeeded=run.succeeded,
            started_at=run.started_at,
            ended_at=run.ended_at,
            error=run.error,
            value=run.value,
        ),
        epoch=1,
        engine=None,
        last_seq=len(book.events),
    )


@pytest.fixture
def book() -> Book:
    made = Book(graph(step("b", 1), step("a")))
    made.succeed("a")
    return made


def test_a_row_that_tells_what_the_journal_tells_is_well(book: Book) -> None:
    assert contradictions(record_of(book), book.run) == []
    book.succeed("b")
    assert contradictions(record_of(book), book.run) == []


def test_a_run_that_was_let_go_is_resumable_in_its_row_alone(book: Book) -> None:
    def left() -> list[str]:
        record = record_of(book)
        summary = replace(record.summary, status=RunStatus.RESUMABLE)
        return contradictions(replace(record, summary=summary), book.run)

    assert left() == []
    book.record(PauseChanged(paused=True))
    assert left() == []
    book.succeed("b")
    assert left() == ["its row says RESUMABLE, its journal SUCCESSFUL"]


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"status": RunStatus.FAILED}, "its row says FAILED, its journal RUNNING"),
        ({"steps": 3}, "its row says 3 steps, its journal 2"),
        ({"succeeded": 2}, "its row says 2 successful steps, its journal 1"),
        ({"ended_at": 5.0}, "its row says 5.0 as its end, its journal None"),
        ({"value": b"null"}, "its row has another value than its journal"),
    ],
)
def test_a_row_that_was_changed_is_told(book: Book, changed: dict[str, object], told: str) -> None:
    record = record_of(book)
    summary = replace(record.summary, **changed)
    assert contradictions(replace(record, summary=summary), book.run) == [told]


def test_space_is_judged_by_what_is_free() -> None:
    assert judge_space(LITTLE_SPACE, "/x").level is Level.OK
    little = judge_space(LITTLE_SPACE - 1, "/x")
    assert (little.level, little.text) == (Level.WARN, "1.07 GB are free at /x")
    assert judge_space(NO_SPACE - 1, "/x").level is Level.BAD


def test_a_home_that_others_may_read_is_warned_of(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    assert check_folder(tmp_path).level is Level.OK
    tmp_path.chmod(0o750)
    check = check_folder(tmp_path)
    assert check.level is Level.WARN
    assert "mode 750" in check.text
    assert check.advice == f"chmod 700 {tmp_path} closes it"


def test_what_dead_processes_left_half_written_is_counted(tmp_path: Path) -> None:
    assert check_leftovers(tmp_path).level is Level.OK
    (tmp_path / "incoming").mkdir()
    (tmp_path / "incoming" / f"{os.getpid()}-aa").write_bytes(b"being written")
    assert check_leftovers(tmp_path).level is Level.OK
    dead = os.spawnlp(os.P_NOWAIT, "true", "true")
    os.waitpid(dead, 0)
    (tmp_path / "incoming" / f"{dead}-bb").write_bytes(b"12345")
    check = check_leftovers(tmp_path)
    assert check.level is Level.WARN
    assert check.text == "1 file of dead processes in incoming, 5 B"


def test_an_interpreter_or_folder_that_is_gone_is_warned_of(tmp_path: Path, book: Book) -> None:
    assert check_interpreters([]).text == "no run is to be resumed"
    assert check_interpreters([record_of(book)]).level is Level.OK
    gone = record_of(book, python=str(tmp_path / "python"))
    elsewhere = record_of(book, cwd=str(tmp_path / "gone"))
    check = check_interpreters([gone, gone, elsewhere])
    assert check.level is Level.WARN
    assert check.details == [
        f"interpreter {tmp_path / 'python'} of run 'r' and 1 more",
        f"folder {tmp_path / 'gone'} of run 'r'",
    ]


def test_locks_that_nobody_holds_were_left_by_dead_engines(tmp_path: Path) -> None:
    assert engines_in(tmp_path) == []
    folder = tmp_path / "engines"
    folder.mkdir()
    assert (
        check_engines(engines_in(tmp_path)).text
        == "no engine is alive; dead ones have left nothing"
    )
    for name in ("ab.lock", "ab.child-10", "ab.child-2", "cd.child-1", ".ef.77", "notes"):
        (folder / name).touch()
    found = {each.engine: each for each in engines_in(tmp_path)}
    assert set(found) == {"ab", "cd"}
    assert [child.worker for child in found["ab"].children] == ["ab.2", "ab.10"]
    assert living(found.values()) == []
    check = check_engines(found.values())
    assert check.level is Level.WARN
    assert sorted(check.details) == ["ab.child-10", "ab.child-2", "ab.lock", "cd.child-1"]
    assert check_orphans(tmp_path).level is Level.OK


def test_a_controller_lives_as_long_as_it_holds_its_lock(tmp_path: Path) -> None:
    (tmp_path / "controller.lock").touch()
    (tmp_path / "controller.json").write_text('{"pid": 7, "version": "1", "engine": "e"}')
    assert controller_of(tmp_path) is None


def test_memory_is_told_of_processes_that_can_be_seen() -> None:
    assert (resident_bytes(os.getpid()) or 0) > 1_000_000
    assert resident_bytes(None) is None
    assert resident_bytes(0) is None


def test_values_that_need_not_last_are_known(book: Book) -> None:
    value = Raw(b'["list",[["object","aa","json",9],["inline","json",1]]]')
    lasting = StepSucceeded(0, 1, value)
    assert list(volatile_objects(lasting)) == []
    assert list(volatile_objects(replace(lasting, is_volatile=True))) == ["aa"]

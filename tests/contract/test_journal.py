"""What every journal promises, asked of each; and of SQLite: processes, forks, full disks."""

import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Protocol, cast

import msgspec
import pytest

import weftline
from weftline.adapters.journal import database
from weftline.adapters.journal.memory import MemoryJournal
from weftline.adapters.journal.sqlite import SqliteJournal
from weftline.core.environment import Environment
from weftline.core.events import GraphExtended, RunStatus, RunSubmitted, encode_event
from weftline.core.values import Error, Inline, pack_inline
from weftline.errors import CommitUnknown, NewerHome, StorageError, StorageFull
from weftline.ports.journal import (
    FROM_BASE,
    Batch,
    Creation,
    Entry,
    InboxEntry,
    InboxKind,
    Journal,
    Posted,
    RunCatalogue,
    RunChange,
    RunRecord,
    Summary,
)

SOURCE = str(Path(weftline.__file__).parents[1])
ENVIRONMENT = Environment(python="/usr/bin/python3", sys_path=("", "/srv/lib"), cwd="/srv")


class AnyJournal(Journal, RunCatalogue, Protocol):
    """Both ports, as every adapter fulfils them."""


@pytest.fixture(params=["memory", "sqlite"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[AnyJournal]:
    made: AnyJournal = (
        MemoryJournal() if request.param == "memory" else SqliteJournal(tmp_path / "home")
    )
    yield made
    made.close()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def sqlite(home: Path) -> Iterator[SqliteJournal]:
    made = SqliteJournal(home)
    yield made
    made.close()


def creation(
    workflow: str = "w", created_at: float = 100.0, metadata: dict[str, Any] | None = None
) -> Creation:
    return Creation(
        workflow=workflow, created_at=created_at, environment=ENVIRONMENT, metadata=metadata or {}
    )


def summary(status: RunStatus = RunStatus.RUNNING, succeeded: int = 0) -> Summary:
    return Summary(status=status, steps=9, succeeded=succeeded)


def entries(first: int, count: int = 1, body: bytes = b'{"kind":"StepSucceeded"}') -> list[Entry]:
    return [Entry(seq, 100.0 + seq, "StepSucceeded", body) for seq in range(first, first + count)]


def names(graph: str, seq: int = 1) -> Entry:
    """An event that names a graph: the run's own, or one that a step returned."""
    if seq == 1:
        return Entry(1, 101.0, "RunSubmitted", encode_event(RunSubmitted(graph=graph, output=0)))
    event = GraphExtended(step=0, attempt=1, graph=graph, output=0)
    return Entry(seq, 100.0 + seq, "GraphExtended", encode_event(event))


def new(
    run_id: str, count: int = 1, status: RunStatus = RunStatus.RUNNING, **told: Any
) -> RunChange:
    return RunChange(
        run_id=run_id,
        epoch=0,
        entries=entries(1, count),
        summary=summary(status),
        creation=creation(**told),
        engine="e1",
    )


def more(run_id: str, first: int, epoch: int = 1, count: int = 1) -> RunChange:
    return RunChange(
        run_id=run_id,
        epoch=epoch,
        entries=entries(first, count),
        summary=summary(succeeded=first + count - 1),
    )


def take(run_id: str, epoch: int, engine: str | None, added: Sequence[Entry] = ()) -> RunChange:
    return RunChange(
        run_id=run_id,
        epoch=epoch,
        entries=added,
        summary=summary(),
        takes=True,
        engine=engine,
    )


def commit(journal: Journal, *changes: RunChange) -> set[str]:
    return journal.commit(Batch(changes=list(changes)))


def found(journal: RunCatalogue, run_id: str) -> RunRecord:
    record = journal.find_run(run_id)
    assert record is not None
    return record


def seqs(journal: Journal, run_id: str, after_seq: int = 0) -> list[int]:
    read = journal.read(run_id, after_seq)
    assert read is not None
    return [entry.seq for entry in read[1]]


# -- committing ---------------------------------------------------------------------------------


def test_a_run_is_read_as_it_was_committed(journal: AnyJournal) -> None:
    told = Creation(
        workflow="trains",
        created_at=1234.0625,
        environment=ENVIRONMENT,
        metadata={"owner": "Zoë", "tags": ["a", 1, 2.5, None, True], "deep": {"x": {}}},
        detached=True,
        parent="other",
    )
    error = Error(
        type="ValueError",
        text="no, 'this' ✗",
        traceback="Traceback\n  ...",
        blob=Inline("pickle", msgspec.Raw(b'"gASV"')),
    )
    shown = Summary(
        status=RunStatus.FAILED,
        steps=3,
        succeeded=2,
        started_at=1235.5,
        ended_at=1300.25,
        wake_at=1400.125,
        error=error,
        value=pack_inline("json", b"[1, 2]"),
    )
    facts = [names("g"), *entries(2, 2)]
    change = RunChange(
        run_id="r", epoch=0, entries=facts, summary=shown, creation=told, engine="e1"
    )
    assert commit(journal, change) == set()

    expected = RunRecord(run_id="r", creation=told, summary=shown, epoch=1, engine="e1", last_seq=3)
    assert journal.find_run("r") == expected
    assert journal.list_runs() == [expected]
    assert journal.read("r") == (expected, facts)
    assert found(journal, "r").summary.status is RunStatus.FAILED


def test_a_run_that_is_not_there_is_not_found(journal: AnyJournal) -> None:
    assert journal.find_run("r") is None
    assert journal.read("r") is None
    assert journal.list_runs() == []


def test_events_are_read_from_where_a_reader_left_off(journal: AnyJournal) -> None:
    commit(journal, new("r", 5), new("s", 2))
    commit(journal, more("r", 6, count=3))
    assert seqs(journal, "r") == list(range(1, 9))
    assert seqs(journal, "r", 6) == [7, 8]
    assert seqs(journal, "r", 8) == []
    assert seqs(journal, "s") == [1, 2]


def test_a_taken_id_is_refused_and_the_rest_commits(journal: AnyJournal) -> None:
    commit(journal, new("r", 2, workflow="first"))
    assert commit(journal, new("r", 4, workflow="second"), new("s")) == {"r"}
    assert found(journal, "r").creation.workflow == "first"
    assert seqs(journal, "r") == [1, 2]
    assert seqs(journal, "s") == [1]


def test_a_run_begins_with_its_first_event(journal: AnyJournal) -> None:
    change = new("r")
    change.entries = entries(2)
    assert commit(journal, change) == {"r"}
    assert journal.find_run("r") is None


def test_a_stale_epoch_is_refused(journal: AnyJournal) -> None:
    commit(journal, new("r"), new("s"))
    commit(journal, take("r", 1, "e2"))
    assert commit(journal, more("r", 2, epoch=1), more("s", 2)) == {"r"}
    assert seqs(journal, "r") == [1]
    assert found(journal, "r").summary.succeeded == 0
    assert seqs(journal, "s") == [1, 2]
    assert commit(journal, more("r", 2, epoch=2)) == set()


@pytest.mark.parametrize("first", [1, 2, 4, 9])
def test_events_that_do_not_follow_are_refused(journal: AnyJournal, first: int) -> None:
    commit(journal, new("r", 2))
    assert commit(journal, more("r", first)) == {"r"}
    assert seqs(journal, "r") == [1, 2]
    assert found(journal, "r").last_seq == 2


def test_a_change_of_no_run_is_refused(journal: AnyJournal) -> None:
    assert commit(journal, more("r", 1, epoch=0), take("s", 1, "e1")) == {"r", "s"}


def test_taking_a_run_raises_its_epoch_and_changes_its_owner(journal: AnyJournal) -> None:
    commit(journal, new("r"))
    assert commit(journal, take("r", 1, "e2", entries(2))) == set()
    record = found(journal, "r")
    assert (record.epoch, record.engine, record.last_seq) == (2, "e2", 2)
    assert commit(journal, take("r", 1, "e3", entries(3))) == {"r"}
    assert commit(journal, take("r", 2, None)) == set()
    record = found(journal, "r")
    assert (record.epoch, record.engine, record.last_seq) == (3, None, 2)


def test_an_owner_that_only_adds_events_stays_the_owner(journal: AnyJournal) -> None:
    commit(journal, new("r"))
    commit(journal, more("r", 2))
    record = found(journal, "r")
    assert (record.epoch, record.engine) == (1, "e1")


def test_a_change_without_events_renews_the_summary(journal: AnyJournal) -> None:
    commit(journal, new("r", 2))
    idle = RunChange(run_id="r", epoch=1, entries=[], summary=summary(RunStatus.PAUSED))
    assert commit(journal, idle) == set()
    assert found(journal, "r").summary.status is RunStatus.PAUSED
    assert found(journal, "r").last_seq == 2
    stale = RunChange(run_id="r", epoch=2, entries=[], summary=summary(RunStatus.FAILED))
    assert commit(journal, stale) == {"r"}
    assert found(journal, "r").summary.status is RunStatus.PAUSED


def test_two_changes_of_a_run_in_a_batch_follow_each_other(journal: AnyJournal) -> None:
    assert commit(journal, new("r"), more("r", 2), take("r", 1, "e2", entries(3))) == set()
    assert seqs(journal, "r") == [1, 2, 3]
    assert found(journal, "r").epoch == 2


def test_large_values_and_events_come_back_whole(journal: AnyJournal) -> None:
    value = pack_inline("json", b'"%b"' % (b"v" * 32 * 1024))
    body = b'{"value":"%b"}' % (b"\xc3\xa4" * 500_000)
    change = new("r")
    change.summary.value = value
    change.entries = entries(1, body=body)
    commit(journal, change)
    read = journal.read("r")
    assert read is not None
    assert read[0].summary.value == value
    assert read[1][0].body == body


def test_metadata_that_is_no_json_leaves_nothing_behind(journal: AnyJournal) -> None:
    with pytest.raises(TypeError):
        commit(journal, new("r"), new("s", metadata={"x": object()}))
    assert journal.list_runs() == []
    assert commit(journal, new("r")) == set()


def test_what_a_reader_is_given_is_its_own(journal: AnyJournal) -> None:
    change = new("r", metadata={"x": [1]})
    commit(journal, change)
    change.summary.steps = 77
    assert change.creation is not None
    change.creation.metadata["x"].append(2)
    record = found(journal, "r")
    record.summary.steps = 88
    record.creation.metadata["x"].append(3)
    read = journal.read("r")
    assert read is not None
    read[1].clear()
    assert found(journal, "r").summary.steps == 9
    assert found(journal, "r").creation.metadata == {"x": [1]}
    assert seqs(journal, "r") == [1]


def test_writers_on_two_threads_lose_nothing(journal: AnyJournal) -> None:
    def write(run_id: str) -> None:
        commit(journal, new(run_id))
        for seq in range(2, 101):
            assert commit(journal, more(run_id, seq)) == set()

    together(*(lambda run_id=run_id: write(run_id) for run_id in ("r", "s")))
    assert seqs(journal, "r") == seqs(journal, "s") == list(range(1, 101))


def test_what_is_read_is_of_one_moment(journal: AnyJournal) -> None:
    commit(journal, new("r"))

    def write() -> None:
        for seq in range(2, 200):
            commit(journal, more("r", seq))

    def look() -> None:
        count = 0
        while count < 199:
            read = journal.read("r")
            assert read is not None
            count = len(read[1])
            assert read[0].last_seq == count
            assert read[0].summary.succeeded == (count if count > 1 else 0)

    together(write, look)


def together(*works: Callable[[], None]) -> None:
    """Do all this at the same time, and raise what any of it raises."""
    raised: list[BaseException] = []
    gate = threading.Barrier(len(works))

    def run(work: Callable[[], None]) -> None:
        try:
            gate.wait()
            work()
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for error in raised:
        raise error


# -- graphs -------------------------------------------------------------------------------------


def with_graphs(*changes: RunChange, **graphs: list[bytes]) -> Batch:
    return Batch(changes=list(changes), graphs=list(graphs.items()))


def starts(run_id: str, *graphs: str) -> RunChange:
    change = new(run_id)
    change.entries = [names(graph, seq) for seq, graph in enumerate(graphs, 1)]
    return change


def test_a_graph_of_many_pages_is_read_in_order(journal: AnyJournal) -> None:
    pages = [b"page %d" % number for number in range(300)]
    journal.commit(with_graphs(starts("r", "g"), g=pages, h=[b"only"]))
    assert journal.read_graph("g") == pages
    assert journal.read_graph("h") == [b"only"]


def test_a_graph_that_is_there_is_left_alone(journal: AnyJournal) -> None:
    journal.commit(with_graphs(starts("r", "g"), g=[b"a", b"b"]))
    journal.commit(with_graphs(starts("s", "g"), g=[b"a", b"b"]))
    batch = Batch(changes=[starts("t", "g")], graphs=[("g", [b"a", b"b"]), ("g", [b"a", b"b"])])
    journal.commit(batch)
    assert journal.read_graph("g") == [b"a", b"b"]


def test_a_graph_that_is_not_there_is_an_error(journal: AnyJournal) -> None:
    with pytest.raises(StorageError, match="has no graph abc"):
        journal.read_graph("abc")


# -- the catalogue ------------------------------------------------------------------------------


def ids(runs: list[RunRecord]) -> list[str]:
    return [run.run_id for run in runs]


def test_runs_are_listed_newest_first(journal: AnyJournal) -> None:
    commit(
        journal,
        new("b", created_at=2.0),
        new("c", created_at=3.0),
        new("a", created_at=1.0),
        new("d", created_at=3.0),  # the same time: submitted later
    )
    assert ids(journal.list_runs()) == ["d", "c", "b", "a"]
    assert ids(journal.list_runs(limit=2)) == ["d", "c"]
    assert ids(journal.list_runs(limit=0)) == []
    assert ids(journal.list_runs(before=3.0)) == ["b", "a"]
    assert ids(journal.list_runs(before=3.0, limit=1)) == ["b"]


def test_runs_are_listed_by_status_and_workflow(journal: AnyJournal) -> None:
    statuses = [RunStatus.RUNNING, RunStatus.FAILED, RunStatus.SUCCESSFUL]
    commit(
        journal,
        *(
            new(f"r{n}", status=statuses[n % 3], workflow="xy"[n % 2], created_at=float(n // 2))
            for n in range(12)
        ),
    )
    commit(journal, take("r0", 1, "e2"))
    both = {RunStatus.FAILED, RunStatus.SUCCESSFUL}
    assert ids(journal.list_runs(statuses=[RunStatus.RUNNING])) == ["r9", "r6", "r3", "r0"]
    assert ids(journal.list_runs(statuses=both, limit=5)) == ["r11", "r10", "r8", "r7", "r5"]
    assert ids(journal.list_runs(statuses=both, before=2.0)) == ["r2", "r1"]
    assert ids(journal.list_runs(statuses=both, workflow="x")) == ["r10", "r8", "r4", "r2"]
    assert ids(journal.list_runs(workflow="y", limit=2)) == ["r11", "r9"]
    assert ids(journal.list_runs(workflow="z")) == []
    assert ids(journal.list_runs(statuses=[])) == []


def test_a_changed_status_is_listed_anew(journal: AnyJournal) -> None:
    commit(journal, new("r"))
    change = more("r", 2)
    change.summary.status = RunStatus.SUCCESSFUL
    commit(journal, change)
    assert ids(journal.list_runs(statuses=[RunStatus.RUNNING])) == []
    assert ids(journal.list_runs(statuses=[RunStatus.SUCCESSFUL])) == ["r"]


def test_a_deleted_run_is_forgotten(journal: AnyJournal) -> None:
    journal.commit(Batch(changes=[new("r", 3), new("s")], objects=[("r", "o"), ("s", "o")]))
    assert journal.delete_run("r", 1)
    assert journal.find_run("r") is None
    assert journal.read("r") is None
    assert ids(journal.list_runs()) == ["s"]
    assert not journal.delete_run("r", 1)
    assert commit(journal, more("r", 4)) == {"r"}
    assert commit(journal, new("r")) == set()
    assert seqs(journal, "r") == [1]


def test_a_run_in_another_epoch_is_not_deleted(journal: AnyJournal) -> None:
    commit(journal, new("r", 2))
    commit(journal, take("r", 1, "e2"))
    assert not journal.delete_run("r", 1)
    assert seqs(journal, "r") == [1, 2]
    assert not journal.delete_run("nobody", 1)


def test_a_graph_goes_with_the_last_run_that_names_it(journal: AnyJournal) -> None:
    pages = [b"page"]
    journal.commit(
        with_graphs(
            starts("r", "g", "inner", "inner", "mine"),
            starts("s", "g", "inner"),
            g=pages,
            inner=pages,
            mine=pages,
        )
    )
    journal.delete_run("r", 1)
    assert journal.read_graph("g") == journal.read_graph("inner") == pages
    with pytest.raises(StorageError):
        journal.read_graph("mine")
    journal.delete_run("s", 1)
    for graph in ("g", "inner"):
        with pytest.raises(StorageError):
            journal.read_graph(graph)


def test_changes_are_counted(journal: AnyJournal) -> None:
    seen = {journal.change_count()}
    assert journal.change_count() in seen
    for change in (new("r"), more("r", 2)):
        commit(journal, change)
        assert journal.change_count() not in seen
        seen.add(journal.change_count())
    journal.delete_run("r", 1)
    assert journal.change_count() not in seen


# -- engines ------------------------------------------------------------------------------------


def test_an_engine_lives_from_its_registration_to_its_release(journal: AnyJournal) -> None:
    assert not journal.is_alive("e1")
    journal.register("e1")
    journal.register("e2")
    assert journal.is_alive("e1")
    assert journal.is_alive("e2")
    journal.release("e1")
    assert not journal.is_alive("e1")
    assert journal.is_alive("e2")
    journal.release("e1")
    journal.register("e1")
    assert journal.is_alive("e1")


# -- the inbox ----------------------------------------------------------------------------------


def take_in(run_id: str, *numbers: int, epoch: int = 1) -> RunChange:
    """A change that takes in these entries of the inbox, and adds no event."""
    return RunChange(run_id=run_id, epoch=epoch, entries=[], summary=summary(), taken=list(numbers))


def bodies(entries: Sequence[InboxEntry]) -> list[tuple[str, bytes]]:
    return [(each.run_id, each.body) for each in entries]


def counts(
    journal: AnyJournal, run_id: str, kind: InboxKind, body: bytes, key: str | None = None
) -> bool | None:
    posted = journal.post(run_id, kind, body, key)
    return None if posted is None else posted.counts


def test_news_lie_in_the_inbox_until_a_change_takes_them_in(journal: AnyJournal) -> None:
    commit(journal, new("r"), new("s"))
    assert counts(journal, "r", InboxKind.SIGNAL, b"1") is True
    assert counts(journal, "s", InboxKind.CANCEL, b"null") is True
    assert counts(journal, "r", InboxKind.SIGNAL, b"2") is True
    first, second = journal.list_inbox("r")
    assert (first.run_id, first.kind, first.body) == ("r", "signal", b"1")
    assert bodies(journal.read_inbox("e1")) == [("r", b"1"), ("s", b"null"), ("r", b"2")]
    assert commit(journal, take_in("r", first.number)) == set()
    assert journal.list_inbox("r") == [second]
    change = more("r", 2)
    change.taken = [second.number]
    assert commit(journal, change) == set()
    assert bodies(journal.read_inbox("e1")) == [("s", b"null")]
    assert journal.list_inbox("r") == []


def test_news_for_a_run_that_is_not_there_are_refused(journal: AnyJournal) -> None:
    assert counts(journal, "r", InboxKind.CANCEL, b"null") is None
    assert counts(journal, "r", InboxKind.CANCEL, b"null", "key") is None
    commit(journal, new("r"))
    assert journal.list_inbox("r") == []
    assert counts(journal, "r", InboxKind.CANCEL, b"null", "key") is True


def test_news_may_be_refused_for_how_the_run_stands(journal: AnyJournal) -> None:
    commit(journal, new("r"))
    unless = (RunStatus.RUNNING, RunStatus.PAUSED)
    refused = journal.post("r", InboxKind.SIGNAL, b"1", "k", unless=unless)
    assert refused == Posted(False, RunStatus.RUNNING, "e1")
    assert journal.list_inbox("r") == []
    assert not journal.knows_key("r", "k")
    posted = journal.post("r", InboxKind.SIGNAL, b"1", "k", unless=(RunStatus.CANCELED,))
    assert posted == Posted(True, RunStatus.RUNNING, "e1")
    assert journal.post("nobody's", InboxKind.SIGNAL, b"1", unless=unless) is None


def test_of_several_news_with_one_key_the_first_counts_also_when_it_was_taken_in(
    journal: AnyJournal,
) -> None:
    commit(journal, new("r"), new("s"))
    assert counts(journal, "r", InboxKind.SIGNAL, b"1", "k") is True
    assert counts(journal, "r", InboxKind.SIGNAL, b"2", "k") is False
    assert counts(journal, "r", InboxKind.CANCEL, b"null", "k") is False
    assert counts(journal, "r", InboxKind.SIGNAL, b"3", "other") is True
    assert counts(journal, "s", InboxKind.SIGNAL, b"4", "k") is True
    assert bodies(journal.list_inbox("r")) == [("r", b"1"), ("r", b"3")]
    commit(journal, take_in("r", *(each.number for each in journal.list_inbox("r"))))
    assert journal.list_inbox("r") == []
    assert counts(journal, "r", InboxKind.SIGNAL, b"5", "k") is False
    assert journal.list_inbox("r") == []
    assert bodies(journal.read_inbox("e1")) == [("s", b"4")]


def test_a_refused_change_takes_nothing_in(journal: AnyJournal) -> None:
    commit(journal, new("r"))
    journal.post("r", InboxKind.SIGNAL, b"1")
    journal.post("r", InboxKind.SIGNAL, b"2", "k")
    numbers = [each.number for each in journal.list_inbox("r")]
    assert commit(journal, take_in("r", *numbers, epoch=7)) == {"r"}
    stale = more("r", 9)
    stale.taken = numbers
    assert commit(journal, stale, new("s")) == {"r"}
    assert [each.number for each in journal.list_inbox("r")] == numbers


def test_what_was_taken_in_may_be_taken_in_again(journal: AnyJournal) -> None:
    """A commit of unknown outcome is made again."""
    commit(journal, new("r"))
    journal.post("r", InboxKind.SIGNAL, b"1")
    (entry,) = journal.list_inbox("r")
    for _ in range(2):
        assert commit(journal, take_in("r", entry.number)) == set()


def test_numbers_of_news_grow_for_ever(journal: AnyJournal) -> None:
    commit(journal, new("r"))
    seen: list[int] = []
    for n in range(5):
        journal.post("r", InboxKind.SIGNAL, b"1", f"k{n}" if n % 2 else None)
        (entry,) = journal.list_inbox("r")
        seen.append(entry.number)
        commit(journal, take_in("r", entry.number))
    assert seen == sorted(set(seen))


def test_news_go_to_whoever_owns_the_run_now(journal: AnyJournal) -> None:
    commit(journal, new("r"))
    journal.post("r", InboxKind.SIGNAL, b"1")
    assert journal.read_inbox("e2") == []
    commit(journal, take("r", 1, "e2"))
    assert journal.read_inbox("e1") == []
    assert bodies(journal.read_inbox("e2")) == [("r", b"1")]
    commit(journal, take("r", 2, None))
    assert journal.read_inbox("e2") == []
    assert bodies(journal.list_inbox("r")) == [("r", b"1")]


def test_a_deleted_run_takes_its_news_and_keys_along(journal: AnyJournal) -> None:
    commit(journal, new("r"))
    journal.post("r", InboxKind.SIGNAL, b"1", "k")
    journal.post("r", InboxKind.SIGNAL, b"2")
    assert journal.delete_run("r", 1)
    assert journal.list_inbox("r") == []
    assert journal.read_inbox("e1") == []
    commit(journal, new("r"))
    assert journal.list_inbox("r") == []
    assert counts(journal, "r", InboxKind.SIGNAL, b"3", "k") is True


def test_a_large_body_comes_back_whole(journal: AnyJournal) -> None:
    commit(journal, new("r"))
    body = msgspec.json.encode("é" * 1_000_000)
    journal.post("r", InboxKind.SIGNAL, body)
    assert journal.list_inbox("r")[0].body == body


def test_posting_is_a_change(journal: AnyJournal) -> None:
    commit(journal, new("r"))
    before = journal.change_count()
    journal.post("r", InboxKind.CANCEL, b"null")
    assert journal.change_count() != before


def test_posts_of_several_threads_lose_nothing(journal: AnyJournal) -> None:
    commit(journal, new("r"))
    counted = threading.Semaphore(0)

    def post(name: str) -> None:
        for n in range(30):
            journal.post("r", InboxKind.SIGNAL, f"{name}{n}".encode())
            if counts(journal, "r", InboxKind.SIGNAL, b"same", f"k{n}"):
                counted.release()

    together(partial(post, "a"), partial(post, "b"), partial(post, "c"))
    posted = [each.body.decode() for each in journal.list_inbox("r")]
    assert posted.count("same") == 30
    assert sum(counted.acquire(blocking=False) for _ in range(91)) == 30
    for name in "abc":
        assert [each for each in posted if each.startswith(name)] == [
            f"{name}{n}" for n in range(30)
        ]


def test_an_engine_is_told_soon_of_news_for_its_runs_and_for_no_others(
    journal: AnyJournal,
) -> None:
    rung = threading.Semaphore(0)
    found: list[int] = []

    def hear() -> None:
        found.append(len(journal.read_inbox("e1")))
        rung.release()

    journal.register("e1", hear)
    journal.register("e2", lambda: found.append(-1))
    commit(journal, new("r"))
    journal.post("r", InboxKind.SIGNAL, b"1")
    assert rung.acquire(timeout=10.0)
    assert found == [1]  # what it is told of is there
    journal.post("r", InboxKind.SIGNAL, b"2", "k")
    assert rung.acquire(timeout=10.0)
    journal.post("r", InboxKind.SIGNAL, b"2", "k")
    journal.post("nobody's", InboxKind.SIGNAL, b"2")
    commit(journal, take("r", 1, None))
    journal.post("r", InboxKind.SIGNAL, b"3")
    journal.release("e1")
    commit(journal, take("r", 2, "e1"))
    assert counts(journal, "r", InboxKind.SIGNAL, b"4") is True
    journal.release("e2")
    assert found == [1, 2]


def test_an_engine_that_wants_to_be_told_nothing_may_have_news(journal: AnyJournal) -> None:
    journal.register("e1")
    commit(journal, new("r"))
    assert counts(journal, "r", InboxKind.SIGNAL, b"1") is True
    journal.release("e1")


# -- where to begin to read, and who drives -----------------------------------------------------


def test_a_reader_that_goes_on_with_a_run_begins_at_its_base(journal: AnyJournal) -> None:
    commit(journal, new("r", 5))
    record, all_of_it = journal.read("r", FROM_BASE) or (None, [])
    assert record is not None
    assert (record.summary.base_seq, [each.seq for each in all_of_it]) == (0, [1, 2, 3, 4, 5])
    change = more("r", 6, count=3)
    change.summary.base_seq = 7
    commit(journal, change)
    assert seqs(journal, "r", FROM_BASE) == [7, 8]
    assert seqs(journal, "r") == [1, 2, 3, 4, 5, 6, 7, 8]
    assert found(journal, "r").summary.base_seq == 7
    assert seqs(journal, "r", 7) == [8]


def test_the_first_event_may_be_the_base(journal: AnyJournal) -> None:
    change = new("r", 2)
    change.summary.base_seq = 1
    commit(journal, change)
    assert seqs(journal, "r", FROM_BASE) == [1, 2]


def test_runs_are_listed_by_who_drives_them(journal: AnyJournal) -> None:
    detached = new("d")
    detached.creation = msgspec.structs.replace(creation(), detached=True)
    commit(journal, new("r"), detached)
    assert ids(journal.list_runs(detached=True)) == ["d"]
    assert ids(journal.list_runs(detached=False)) == ["r"]
    assert ids(journal.list_runs(detached=True, statuses=[RunStatus.RUNNING])) == ["d"]
    assert ids(journal.list_runs(detached=True, statuses=[RunStatus.FAILED])) == []


def test_whoever_takes_a_run_may_make_it_one_that_controllers_drive(journal: AnyJournal) -> None:
    commit(journal, new("r"))
    not_taking = more("r", 2)
    not_taking.detached = True
    commit(journal, not_taking)
    assert not found(journal, "r").creation.detached
    taking = take("r", 1, "e2")
    taking.detached = True
    commit(journal, taking)
    assert found(journal, "r").creation.detached
    commit(journal, take("r", 2, "e3"))
    assert found(journal, "r").creation.detached
    assert ids(journal.list_runs(detached=True)) == ["r"]


# -- SQLite: several processes ------------------------------------------------------------------


class Program:
    """A process of its own with this home open as `journal`, which runs lines it is told."""

    PREAMBLE = """
import os, sys
from pathlib import Path
from weftline.adapters.journal.sqlite import SqliteJournal
from weftline.core.environment import Environment
from weftline.core.events import RunStatus
from weftline.ports.journal import Batch, Creation, Entry, RunChange, Summary

journal = SqliteJournal(Path(sys.argv[1]))
shown = Summary(status=RunStatus.RUNNING, steps=9, succeeded=0)
told = Creation(
    workflow="w",
    created_at=1.0,
    environment=Environment(python="p", sys_path=(), cwd="/"),
    metadata={},
)

def commit(run_id, first, count=1, body=b"{}"):
    change = RunChange(
        run_id=run_id,
        epoch=min(first - 1, 1),
        entries=[Entry(seq, 1.0, "StepSucceeded", body) for seq in range(first, first + count)],
        summary=shown,
        creation=told if first == 1 else None,
        engine="e1",
    )
    return journal.commit(Batch(changes=[change]))

for line in sys.stdin:
    exec(line.replace(";;", chr(10)))
    print("done", flush=True)
journal.close()
"""

    def __init__(self, home: Path) -> None:
        path = os.pathsep.join(filter(None, [SOURCE, os.environ.get("PYTHONPATH")]))
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", self.PREAMBLE, str(home)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": path},
        )

    def tell(self, code: str) -> None:
        """Let it run this, without waiting for it."""
        assert self.process.stdin is not None
        self.process.stdin.write(code.strip().replace("\n", ";;") + "\n")
        self.process.stdin.flush()

    def wait(self) -> str:
        """What it printed until it was done with one text."""
        assert self.process.stdout is not None
        printed: list[str] = []
        for line in self.process.stdout:
            if line == "done\n":
                return "".join(printed).strip()
            printed.append(line)
        pytest.fail(f"the program ended: {self.end()}")

    def ask(self, code: str) -> str:
        self.tell(code)
        return self.wait()

    def kill(self) -> None:
        self.process.kill()
        self.end()

    def end(self) -> str:
        """Let it end by itself; what it had to complain about."""
        return self.process.communicate()[1]


@pytest.fixture
def program(home: Path) -> Iterator[Callable[[], Program]]:
    started: list[Program] = []

    def start() -> Program:
        started.append(Program(home))
        return started[-1]

    yield start
    for each in started:
        if each.process.returncode is None:
            complaint = each.end()
            assert complaint == ""


WRITES = """
assert commit({run!r}, 1) == set()
for seq in range(2, 201):
    assert commit({run!r}, seq) == set()
"""


def test_two_processes_that_write_lose_nothing(
    sqlite: SqliteJournal, home: Path, program: Callable[[], Program]
) -> None:
    writers = {run: program() for run in ("r", "s")}
    for writer in writers.values():
        writer.ask("journal.find_run('')")
    before = sqlite.change_count()
    for run, writer in writers.items():
        writer.tell(WRITES.format(run=run))
    for writer in writers.values():
        writer.wait()
    assert seqs(sqlite, "r") == seqs(sqlite, "s") == list(range(1, 201))
    assert sqlite.change_count() != before
    assert check(home) == "ok"


def test_processes_that_create_a_home_at_once_all_succeed(
    sqlite: SqliteJournal, program: Callable[[], Program], home: Path
) -> None:
    makers = [program() for _ in range(6)]
    for maker in makers:
        maker.ask("pass")
    assert not home.exists()
    for number, maker in enumerate(makers):
        maker.tell(f"print(commit('r{number}', 1), commit('one', 1))")
    told = [maker.wait() for maker in makers]
    assert sorted(told) == ["set() set()"] + ["set() {'one'}"] * 5
    assert len(sqlite.list_runs()) == 7


def test_an_engine_is_told_of_news_that_another_process_posts(
    program: Callable[[], Program], sqlite: SqliteJournal
) -> None:
    commit(sqlite, new("r"))
    owner, poster = program(), program()
    owner.ask(
        """
import threading
rung = threading.Semaphore(0)
journal.register("e1", rung.release)
"""
    )
    poster.ask("from weftline.ports.journal import InboxKind")
    poster.ask("journal.post('r', InboxKind.SIGNAL, b'1')")
    assert owner.ask("print(rung.acquire(timeout=10.0))") == "True"
    assert owner.ask("print(journal.read_inbox('e1')[0].body.decode())") == "1"
    owner.kill()
    # A dead engine's bell is rung in vain, and nobody is harmed.
    assert counts(sqlite, "r", InboxKind.SIGNAL, b"2") is True
    assert len(sqlite.list_inbox("r")) == 2


def test_a_home_whose_path_is_long_has_bells_too(tmp_path: Path) -> None:
    home = tmp_path / ("a long name " * 8) / ("and a longer one " * 8)
    journal = SqliteJournal(home)
    rung = threading.Event()
    journal.register("e1", rung.set)
    commit(journal, new("r"))
    journal.post("r", InboxKind.SIGNAL, b"1")
    assert rung.wait(10.0)
    assert (home / "engines" / "e1.bell").exists()
    journal.close()
    assert not (home / "engines" / "e1.bell").exists()


def test_a_killed_engine_is_dead_at_once(
    sqlite: SqliteJournal, program: Callable[[], Program], home: Path
) -> None:
    other = program()
    other.ask("journal.register('theirs')")
    assert sqlite.is_alive("theirs")
    assert sqlite.is_alive("theirs"), "asking does not change the answer"
    with pytest.raises(StorageError, match=r"theirs.*already"):
        sqlite.register("theirs")
    other.kill()
    assert not sqlite.is_alive("theirs")
    assert list((home / "engines").iterdir()) == [], "what the dead leave behind is removed"


def test_an_engine_that_is_released_is_dead_for_others(
    sqlite: SqliteJournal, program: Callable[[], Program]
) -> None:
    other = program()
    sqlite.register("ours")
    assert other.ask("print(journal.is_alive('ours'))") == "True"
    other.ask("journal.register('theirs')")
    other.ask("journal.release('theirs')")
    assert not sqlite.is_alive("theirs")
    sqlite.release("ours")
    assert other.ask("print(journal.is_alive('ours'))") == "False"


def test_a_journal_that_is_closed_releases_its_engines(
    sqlite: SqliteJournal, program: Callable[[], Program]
) -> None:
    other = program()
    sqlite.register("ours")
    sqlite.close()
    assert other.ask("print(journal.is_alive('ours'))") == "False"


def test_asking_about_an_own_engine_does_not_end_it(
    sqlite: SqliteJournal, home: Path, program: Callable[[], Program]
) -> None:
    other = program()
    sqlite.register("ours")
    second = SqliteJournal(home)
    assert second.is_alive("ours")
    second.close()
    assert other.ask("print(journal.is_alive('ours'))") == "True"


def test_a_writer_that_is_killed_leaves_whole_commits(
    sqlite: SqliteJournal, home: Path, program: Callable[[], Program]
) -> None:
    writer = program()
    writer.ask("commit('r', 1)")
    writer.tell("""
seq = 2
while True:
    commit('r', seq, count=50)
    seq += 50
    print('done', flush=True)
""")
    for _ in range(20):
        writer.wait()
    writer.kill()
    count = len(seqs(sqlite, "r"))
    assert count > 900
    assert count % 50 == 1
    assert found(sqlite, "r").last_seq == count
    assert commit(sqlite, more("r", count + 1)) == set()
    assert check(home) == "ok"


def check(home: Path) -> str:
    """What SQLite finds when it looks the whole database through."""
    connection = sqlite3.connect(home / "weftline.db")
    try:
        return str(connection.execute("PRAGMA integrity_check").fetchone()[0])
    finally:
        connection.close()


# -- SQLite: forks ------------------------------------------------------------------------------


def forked(work: Callable[[], None]) -> int:
    """The exit status of a forked child that does this: 0 when it raised nothing."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.alarm(60)
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_forked_child_opens_the_home_anew(
    sqlite: SqliteJournal, home: Path, program: Callable[[], Program]
) -> None:
    commit(sqlite, new("r"))
    sqlite.register("ours")

    def work() -> None:
        assert sqlite.is_alive("ours"), "the parent's"
        assert seqs(sqlite, "r") == [1]
        assert commit(sqlite, more("r", 2), new("s")) == set()
        sqlite.register("child's")
        sqlite.close()

    assert forked(work) == 0
    assert not sqlite.is_alive("child's")
    assert commit(sqlite, more("r", 3)) == set()
    other = program()
    assert other.ask("print(journal.is_alive('ours'))") == "True"
    assert other.ask("print(journal.find_run('r').last_seq)") == "3"
    assert ids(sqlite.list_runs()) == ["s", "r"]
    assert check(home) == "ok"


def test_a_forked_child_holds_the_home_open_by_itself(home: Path) -> None:
    # The locks that SQLite counts in memory are not inherited. A child that went by that memory
    # would lose what it writes when its parent closes the home and folds in the log.
    parents, children = os.pipe(), os.pipe()
    sqlite = SqliteJournal(home)
    commit(sqlite, new("r"))

    def work() -> None:
        signal.alarm(60)
        commit(sqlite, more("r", 2))
        os.write(children[1], b"x")
        os.read(parents[0], 1)
        commit(sqlite, more("r", 3))

    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    os.read(children[0], 1)
    sqlite.close()
    assert (home / "weftline.db-wal").exists(), "the child has it open"
    os.write(parents[1], b"x")
    os.waitpid(child, 0)
    for end in (*parents, *children):
        os.close(end)
    again = SqliteJournal(home)
    assert seqs(again, "r") == [1, 2, 3]
    again.close()


@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_a_child_forked_amid_commits_of_another_thread_can_commit(
    sqlite: SqliteJournal, home: Path
) -> None:
    commit(sqlite, new("r"))
    enough = threading.Event()
    written = [1]

    def write() -> None:
        while not enough.is_set():
            written.append(written[-1] + 1)
            assert commit(sqlite, more("r", written[-1])) == set()

    def create(run_id: str) -> None:
        assert commit(sqlite, new(run_id)) == set()

    def fork() -> None:
        try:
            for number in range(20):
                work = partial(create, f"child {number}")
                assert forked(work) == 0
        finally:
            enough.set()

    together(write, fork)
    assert seqs(sqlite, "r") == written
    assert len(sqlite.list_runs()) == 21
    assert check(home) == "ok"


def test_a_child_forked_inside_a_commit_does_not_touch_the_home(
    sqlite: SqliteJournal, home: Path
) -> None:
    commit(sqlite, new("r"))

    def work() -> None:
        with pytest.raises(StorageError, match="was forked while"):
            sqlite.find_run("r")

    class Forks(list[RunChange]):
        def __iter__(self) -> Iterator[RunChange]:
            assert forked(work) == 0
            return super().__iter__()

    assert sqlite.commit(Batch(changes=Forks([more("r", 2)]))) == set()
    assert seqs(sqlite, "r") == [1, 2]
    assert check(home) == "ok"


# -- SQLite: when something is wrong ------------------------------------------------------------


def test_a_full_database_takes_nothing_and_goes_on_later(home: Path) -> None:
    small = SqliteJournal(home, max_pages=60)
    commit(small, new("r"), new("s"))
    large = more("r", 2)
    large.entries = entries(2, body=b"x" * 500_000)
    for _ in range(2):
        with pytest.raises(StorageFull, match="no space is left"):
            commit(small, more("s", 2), large)
    assert seqs(small, "r") == seqs(small, "s") == [1]
    assert commit(small, more("s", 2)) == set(), "what still fits is taken"
    small.close()
    roomy = SqliteJournal(home)
    assert commit(roomy, large) == set()
    assert seqs(roomy, "r") == [1, 2]
    roomy.close()
    assert check(home) == "ok"


def test_a_limit_on_files_is_told_as_full_and_can_be_lifted(
    program: Callable[[], Program], home: Path
) -> None:
    writer = program()
    writer.ask("commit('r', 1)")
    limited = writer.ask("""
import resource
from weftline.errors import StorageFull
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))
seq = 2
try:
    while True:
        commit('r', seq, body=b'x' * 20_000)
        seq += 1
except StorageFull as error:
    print(seq, journal.find_run('r').last_seq, len(journal.read('r')[1]))
try:
    commit('r', seq, body=b'x' * 20_000)
except StorageFull as error:
    print('again')
""")
    refused, last, count = map(int, limited.split()[:3])
    assert limited.split()[3] == "again"
    assert refused > 10
    assert last == count == refused - 1
    lifted = f"""
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(commit('r', {refused}, count=100, body=b'x' * 20_000), journal.find_run('r').last_seq)
"""
    assert writer.ask(lifted) == f"set() {refused + 99}"
    assert writer.end() == ""
    assert check(home) == "ok"
    assert not list(home.glob(".room-*"))


def test_a_home_cannot_be_made_where_there_is_no_room(program: Callable[[], Program]) -> None:
    maker = program()
    refused = maker.ask("""
import resource
from weftline.errors import StorageFull
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
try:
    commit('r', 1)
except StorageFull:
    print('full')
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(commit('r', 1))
""")
    assert refused.split() == ["full", "set()"]


class LosesTheAnswer(sqlite3.Connection):
    """Commits, unless `is_lost`, and then says that it could not; afterwards it may be of no use at
    all."""

    is_losing = is_lost = False
    is_gone = False

    def cursor(self, *arguments: Any) -> Any:
        return super().cursor(LosingCursor)

    def execute(self, statement: str, *values: Any) -> Any:
        if self.is_gone and statement != "ROLLBACK":
            raise sqlite3.OperationalError("disk I/O error")
        return super().execute(statement, *values)


class LosingCursor(sqlite3.Cursor):
    def execute(self, statement: str, *values: Any) -> Any:
        database = cast("LosesTheAnswer", self.connection)
        is_lost = statement == "COMMIT" and database.is_lost
        super().execute("ROLLBACK" if is_lost else statement, *values)
        if statement == "COMMIT" and database.is_losing:
            raise sqlite3.OperationalError("disk I/O error")
        return self


@pytest.fixture
def losing(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SqliteJournal]:
    connect = sqlite3.connect

    def connect_losing(*arguments: Any, **options: Any) -> sqlite3.Connection:
        return connect(*arguments, **options, factory=LosesTheAnswer)

    monkeypatch.setattr(sqlite3, "connect", connect_losing)
    journal = SqliteJournal(home)
    commit(journal, new("r"))
    monkeypatch.setattr(LosesTheAnswer, "is_losing", True)
    yield journal
    journal.close()


def test_a_commit_that_took_place_after_all_is_no_error(losing: SqliteJournal) -> None:
    assert commit(losing, more("r", 2), more("r", 2), new("s")) == {"r"}
    assert commit(losing, take("r", 1, "e2")) == set()
    assert seqs(losing, "r") == [1, 2]
    assert commit(losing, more("r", 3, epoch=2)) == set()


def test_a_commit_that_cannot_be_read_back_is_unknown(
    losing: SqliteJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LosesTheAnswer, "is_gone", True)
    with pytest.raises(CommitUnknown, match="is not known"):
        commit(losing, more("r", 2))
    monkeypatch.undo()
    assert seqs(losing, "r") == [1, 2]


def test_a_summary_that_was_written_after_all_is_no_error(losing: SqliteJournal) -> None:
    change = RunChange(run_id="r", epoch=1, entries=[], summary=summary(RunStatus.PAUSED))
    assert commit(losing, change) == set()
    assert found(losing, "r").summary.status is RunStatus.PAUSED


@pytest.mark.parametrize("is_lost", [True, False])
def test_whether_news_were_taken_in_is_found_out(
    losing: SqliteJournal, monkeypatch: pytest.MonkeyPatch, is_lost: bool
) -> None:
    """Nothing else of the run tells: the change adds no event, and its summary is as before."""
    monkeypatch.undo()
    commit(losing, take_in("r"))
    losing.post("r", InboxKind.SIGNAL, b"1")
    losing.post("r", InboxKind.SIGNAL, b"2", "k")
    numbers = [each.number for each in losing.list_inbox("r")]
    monkeypatch.setattr(LosesTheAnswer, "is_losing", True)
    monkeypatch.setattr(LosesTheAnswer, "is_lost", is_lost)
    if is_lost:
        with pytest.raises(StorageError):
            commit(losing, take_in("r", *numbers))
    else:
        assert commit(losing, take_in("r", *numbers)) == set()
    monkeypatch.undo()
    assert [each.number for each in losing.list_inbox("r")] == (numbers if is_lost else [])


def test_a_home_from_before_the_inbox_keeps_all_it_has(home: Path) -> None:
    home.mkdir()
    script = (Path(database.__file__).parent / "migrations" / "0001_journal.sql").read_text()
    with closing(sqlite3.connect(home / "weftline.db")) as old:
        old.executescript(f"BEGIN;{script};PRAGMA user_version = 1;COMMIT;")
        environment = msgspec.json.encode(ENVIRONMENT)
        old.execute("INSERT INTO environments VALUES ('env', ?)", (environment,))
        row = (
            "INSERT INTO runs (run_id, workflow, created_at, environment, metadata, detached,"
            " epoch, engine, last_seq, status, steps, succeeded, value)"
            " VALUES ('r', 'w', 100.0, 'env', '{}', 0, 3, 'e1', 2, 'RUNNING', 4, 1, ?)"
        )
        old.execute(row, (pack_inline("json", b"7"),))
        for entry in [names("ab"), *entries(2)]:
            old.execute("INSERT INTO events VALUES ('r', ?, ?, ?, ?)", entry)
        old.execute("INSERT INTO graphs VALUES ('ab', 0, ?)", (b"page",))
        old.execute("INSERT INTO run_graphs VALUES ('ab', 'r')")
        old.commit()
    journal = SqliteJournal(home)
    record = found(journal, "r")
    assert (record.epoch, record.engine, record.last_seq) == (3, "e1", 2)
    assert record.creation.environment == ENVIRONMENT
    assert (record.summary.value, record.summary.base_seq) == (pack_inline("json", b"7"), 0)
    assert seqs(journal, "r", FROM_BASE) == [1, 2]
    assert journal.read_graph("ab") == [b"page"]
    assert counts(journal, "r", InboxKind.SIGNAL, b"1", "k") is True
    assert bodies(journal.read_inbox("e1")) == [("r", b"1")]
    assert commit(journal, more("r", 3, epoch=3)) == set()
    assert journal.delete_run("r", 3)
    journal.close()
    with closing(sqlite3.connect(home / "weftline.db")) as now:
        assert now.execute("PRAGMA user_version").fetchone() == (database.newest_schema(),)
        assert now.execute("SELECT COUNT(*) FROM inbox").fetchone() == (0,)


def test_a_home_of_an_older_release_is_brought_up_to_date(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = SqliteJournal(home)
    commit(first, new("r"))
    first.close()
    scripts = tmp_path / "migrations"
    known = database.newest_schema()
    number = f"{known + 1:04}"
    shutil.copytree(database._MIGRATIONS, scripts)
    monkeypatch.setattr(database, "_MIGRATIONS", scripts)
    try:
        wrong = "CREATE TABLE added (a);\nCREATE TABLE runs (b);"
        (scripts / f"{number}_wrong.sql").write_text(wrong)
        database._migrations.cache_clear()
        journal = SqliteJournal(home)
        with pytest.raises(StorageError, match="runs already exists"):
            journal.list_runs()
        right = (scripts / f"{number}_wrong.sql").rename(scripts / f"{number}_right.sql")
        right.write_text("CREATE TABLE added (a);")
        database._migrations.cache_clear()
        assert ids(journal.list_runs()) == ["r"]
        journal.close()
    finally:
        database._migrations.cache_clear()
    monkeypatch.undo()
    old = SqliteJournal(home)
    with pytest.raises(NewerHome, match=rf"schema {known + 1}; .* up to {known}\)"):
        old.list_runs()
    old.close()


def test_an_empty_file_is_an_empty_home(home: Path) -> None:
    home.mkdir()
    (home / "weftline.db").touch()
    journal = SqliteJournal(home)
    commit(journal, new("r"))
    assert (home / "weftline.db-wal").exists()
    assert ids(journal.list_runs()) == ["r"]
    journal.close()


def test_a_home_of_a_newer_release_is_refused(home: Path) -> None:
    first = SqliteJournal(home)
    commit(first, new("r"))
    first.close()
    connection = sqlite3.connect(home / "weftline.db")
    connection.execute("PRAGMA user_version = 40")
    connection.close()
    older = SqliteJournal(home)
    with pytest.raises(NewerHome, match=r"schema 40; .* up to \d+\): upgrade weftline"):
        older.list_runs()
    with pytest.raises(NewerHome):
        commit(older, new("s"))
    older.close()


def test_a_damaged_database_is_named_with_what_to_do(home: Path) -> None:
    home.mkdir()
    (home / "weftline.db").write_bytes(b"these are not the bytes of a database" * 1000)
    journal = SqliteJournal(home)
    with pytest.raises(StorageError, match=r"weftline\.db.*restore it from a backup"):
        journal.list_runs()
    journal.close()


def test_damage_that_shows_late_is_told_as_damage(home: Path) -> None:
    journal = SqliteJournal(home)
    commit(journal, new("r", 2000))
    journal.close()
    with (home / "weftline.db").open("r+b") as file:
        file.seek(4096 * 14)
        file.write(b"\xff" * 4096 * 20)
    journal = SqliteJournal(home)
    with pytest.raises(StorageError, match="it is damaged"):
        journal.read("r")
    journal.close()


def test_a_home_that_is_a_file_is_told(home: Path) -> None:
    home.write_text("")
    journal = SqliteJournal(home)
    with pytest.raises(StorageError, match=re.escape(str(home))):
        commit(journal, new("r"))
    with pytest.raises(StorageError, match=re.escape(str(home))):
        journal.register("e1")
    journal.close()


def test_a_home_that_was_removed_in_use_is_told(sqlite: SqliteJournal, home: Path) -> None:
    commit(sqlite, new("r"))
    for path in home.iterdir():
        path.unlink()
    home.rmdir()
    with pytest.raises(StorageError, match="removed or replaced while it was in use"):
        commit(sqlite, new("s"))
    other = SqliteJournal(home)
    commit(other, new("t"))
    other.close()
    with pytest.raises(StorageError, match="removed or replaced while it was in use"):
        commit(sqlite, new("s"))


def test_a_closed_journal_says_so(sqlite: SqliteJournal) -> None:
    commit(sqlite, new("r"))
    sqlite.close()
    sqlite.close()
    for use in (lambda: sqlite.find_run("r"), lambda: commit(sqlite, new("s"))):
        with pytest.raises(StorageError, match="was closed"):
            use()


# -- SQLite: the home ---------------------------------------------------------------------------


def test_a_home_is_made_when_it_is_first_needed(tmp_path: Path) -> None:
    home = tmp_path / "new" / "ho%20me?é"
    journal = SqliteJournal(home)
    journal.close()
    assert not home.exists()
    journal = SqliteJournal(home)
    assert not journal.is_alive("e1")
    assert not home.exists()
    commit(journal, new("r"))
    assert home.stat().st_mode & 0o777 == 0o700
    assert (home / "weftline.db").stat().st_mode & 0o777 == 0o600
    journal.close()
    assert sorted(path.name for path in home.iterdir()) == ["weftline.db", "writer.lock"]


def test_what_was_committed_is_there_when_the_home_is_opened_again(home: Path) -> None:
    for number in range(3):
        journal = SqliteJournal(home)
        assert len(journal.list_runs()) == number
        commit(journal, new(f"r{number}"))
        journal.close()


def test_a_home_may_be_named_by_a_link(sqlite: SqliteJournal, home: Path, tmp_path: Path) -> None:
    commit(sqlite, new("r"))
    sqlite.register("e1")
    (tmp_path / "link").symlink_to(home)
    other = SqliteJournal(tmp_path / "link")
    assert commit(other, more("r", 2)) == set()
    assert other.is_alive("e1")
    other.close()
    assert commit(sqlite, more("r", 3)) == set()


def test_a_maker_that_was_killed_hinders_nobody(home: Path) -> None:
    home.mkdir()
    (home / "weftline.db.new").write_bytes(b"half of it")
    (home / "weftline.db.new-wal").write_bytes(b"half of it")
    journal = SqliteJournal(home)
    assert commit(journal, new("r")) == set()
    journal.close()
    assert not list(home.glob("*.new*"))


def test_the_log_beside_the_database_stays_small(sqlite: SqliteJournal, home: Path) -> None:
    commit(sqlite, new("r"))
    for seq in range(2, 402):
        change = more("r", seq)
        change.entries = entries(seq, body=b"x" * 100_000)
        commit(sqlite, change)
    assert (home / "weftline.db").stat().st_size > 30_000_000
    assert (home / "weftline.db-wal").stat().st_size < 16_000_000


def test_connections_of_ended_threads_are_closed(sqlite: SqliteJournal) -> None:
    commit(sqlite, new("r"))

    def look() -> None:
        assert ids(sqlite.list_runs()) == ["r"]

    for _ in range(20):
        together(look)
    assert len(sqlite._database._connections) <= 2


# -- what nobody has taken in -------------------------------------------------------------------


def test_detached_runs_with_news_are_found(journal: AnyJournal) -> None:
    for run_id, detached in (("a", True), ("b", True), ("c", False)):
        made = msgspec.structs.replace(creation(), detached=detached)
        summary = Summary(status=RunStatus.SUCCESSFUL, steps=0, succeeded=0)
        change = RunChange(run_id=run_id, epoch=1, entries=[], summary=summary, creation=made)
        journal.commit(Batch(changes=[change]))
    assert journal.list_unread() == []
    for run_id in ("a", "a", "c"):
        journal.post(run_id, InboxKind.CANCEL, b"null")
    journal.post("b", InboxKind.SIGNAL, b"{}", "key")
    assert sorted(journal.list_unread()) == ["a", "b"]
    assert journal.knows_key("b", "key")
    assert not journal.knows_key("a", "key")
    taken = [each.number for each in journal.list_inbox("b")]
    change = RunChange(run_id="b", epoch=1, entries=[], summary=summary, taken=taken)
    assert journal.commit(Batch(changes=[change])) == set()
    assert journal.list_unread() == ["a"]
    assert journal.knows_key("b", "key")

"""What the upkeep of every journal promises; and of SQLite: room on the disk."""

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec
import pytest

from weftline.adapters.journal.memory import MemoryJournal, MemoryJournalUpkeep
from weftline.adapters.journal.sqlite import SqliteJournal
from weftline.adapters.journal.upkeep import SqliteUpkeep
from weftline.core.environment import Environment
from weftline.core.events import (
    Event,
    LogRange,
    RunStatus,
    RunSubmitted,
    StepStarted,
    StepSucceeded,
    encode_event,
)
from weftline.ports.journal import (
    ActorCall,
    Batch,
    Creation,
    Entry,
    InboxKind,
    Journal,
    RunCatalogue,
    RunChange,
    Signal,
    Summary,
)
from weftline.ports.objects import Removed, StoredFile
from weftline.ports.upkeep import JournalUpkeep

NOTHING = Removed(0, 0)
ENDED = (RunStatus.SUCCESSFUL, RunStatus.FAILED, RunStatus.CANCELED)
NULL = msgspec.Raw(b"null")


class AnyJournal(Journal, RunCatalogue, Protocol):
    """Both ports, as every adapter fulfils them."""


class Kept(NamedTuple):
    """A journal and its upkeep."""

    journal: AnyJournal
    upkeep: JournalUpkeep


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def sqlite(home: Path) -> Iterator[tuple[SqliteJournal, SqliteUpkeep]]:
    made = SqliteJournal(home), SqliteUpkeep(home)
    yield made
    for each in made:
        each.close()


@pytest.fixture(params=["memory", "sqlite"])
def kept(request: pytest.FixtureRequest) -> Kept:
    if request.param == "sqlite":
        return Kept(*request.getfixturevalue("sqlite"))
    journal = MemoryJournal()
    return Kept(journal, MemoryJournalUpkeep(journal))


def environment(name: str = "python") -> Environment:
    return Environment(python=f"/usr/bin/{name}", sys_path=("/srv/lib",), cwd="/srv")


def submit(
    journal: Journal,
    run_id: str,
    *,
    status: RunStatus = RunStatus.RUNNING,
    objects: Sequence[str] = (),
    events: Sequence[Event] = (),
    graph: str | None = None,
    is_actor: bool = False,
    where: Environment | None = None,
    **told: Any,
) -> None:
    """A new run, which names the graph `graph` (its own by default)."""
    graph = graph or f"graph of {run_id}"
    first = RunSubmitted(graph=graph, output=0, is_actor=is_actor)
    entries = [
        Entry(seq, 100.0, type(event).__name__, encode_event(event))
        for seq, event in enumerate([first, *events], 1)
    ]
    creation = Creation(
        workflow="w", created_at=100.0, environment=where or environment(), metadata={}
    )
    change = RunChange(
        run_id=run_id,
        epoch=0,
        entries=entries,
        summary=Summary(status=status, steps=1, succeeded=0, **told),
        creation=creation,
        engine="e1",
    )
    held = [(run_id, name) for name in objects]
    batch = Batch(changes=[change], graphs=[(graph, [b"12345"])], objects=held)
    assert journal.commit(batch) == set()


def change(journal: Journal, run_id: str, epoch: int = 1, **told: Any) -> None:
    """What the run's owner writes next, which is no event."""
    told.setdefault("summary", Summary(status=RunStatus.RUNNING, steps=1, succeeded=0))
    objects = [(run_id, name) for name in told.pop("objects", ())]
    made = RunChange(run_id=run_id, epoch=epoch, entries=[], **told)
    assert journal.commit(Batch(changes=[made], objects=objects)) == set()


def durable(*names: str) -> list[StoredFile]:
    return [StoredFile(name, 1, 0.0) for name in names]


def volatile(*names: str) -> list[StoredFile]:
    return [StoredFile(name, 1, 0.0, is_volatile=True) for name in names]


def unheld(upkeep: JournalUpkeep, files: Sequence[StoredFile]) -> list[str]:
    with upkeep.unheld(files) as found:
        return [each.name for each in found]


# -- runs ---------------------------------------------------------------------------------------


def test_runs_that_have_ended_are_listed_by_their_end(kept: Kept) -> None:
    journal, upkeep = kept
    submit(journal, "late", status=RunStatus.FAILED, ended_at=300.0)
    submit(journal, "early", status=RunStatus.SUCCESSFUL, ended_at=200.0)
    submit(journal, "newer", status=RunStatus.SUCCESSFUL, ended_at=400.0)
    submit(journal, "open")
    submit(journal, "left", status=RunStatus.RESUMABLE)
    found = upkeep.ended_runs(ENDED, 400.0)
    assert [(run.run_id, run.epoch, run.status, run.ended_at) for run in found] == [
        ("early", 1, RunStatus.SUCCESSFUL, 200.0),
        ("late", 1, RunStatus.FAILED, 300.0),
    ]
    read = journal.read("late")
    assert read is not None
    assert found[1].size_bytes == sum(len(entry.body) for entry in read[1])
    assert [run.run_id for run in upkeep.ended_runs([RunStatus.FAILED] * 2, 1e9)] == ["late"]
    assert upkeep.ended_runs([RunStatus.CANCELED], 1e9) == upkeep.ended_runs([], 1e9) == []


def test_a_virtual_actor_never_counts_as_ended(kept: Kept) -> None:
    for status in ENDED:
        submit(kept.journal, status.value, status=status, ended_at=200.0, is_actor=True)
    assert kept.upkeep.ended_runs(ENDED, 1e9) == []


def test_runs_are_deleted_with_all_that_is_theirs(kept: Kept) -> None:
    journal, upkeep = kept
    told: dict[str, Any] = {"status": RunStatus.FAILED, "ended_at": 200.0}
    submit(journal, "a", objects=["x"], graph="shared", **told)
    submit(journal, "b", objects=["y"], graph="shared")
    journal.post("a", InboxKind.SIGNAL, msgspec.json.encode(Signal("s", NULL, ("z",))))
    (run,) = upkeep.ended_runs(ENDED, 1e9)
    assert upkeep.delete_runs([run]) == Removed(1, run.size_bytes)
    assert journal.find_run("a") is None
    assert journal.list_inbox("a") == []
    assert journal.read_graph("shared") == [b"12345"]
    assert upkeep.held_objects() == ({"y"}, {"y"})
    assert upkeep.delete_runs([run]) == upkeep.delete_runs([]) == NOTHING


def test_a_run_that_somebody_has_resumed_since_is_not_deleted(kept: Kept) -> None:
    journal, upkeep = kept
    for run_id in ("a", "b"):
        submit(journal, run_id, status=RunStatus.FAILED, ended_at=200.0)
    found = upkeep.ended_runs(ENDED, 1e9)
    change(journal, "a", takes=True, engine="e2")
    assert upkeep.delete_runs(found) == Removed(1, found[1].size_bytes)
    assert journal.find_run("a") is not None
    assert journal.find_run("b") is None


# -- objects ------------------------------------------------------------------------------------


def test_what_runs_hold_is_needed_and_volatile_only_until_they_end(kept: Kept) -> None:
    journal, upkeep = kept
    submit(journal, "running", objects=["a", "shared"])
    submit(journal, "left", status=RunStatus.RESUMABLE, objects=["b"])
    submit(journal, "paused", status=RunStatus.PAUSED, objects=["c"])
    for status in ENDED:
        submit(journal, status, status=status, objects=[f"{status}'s", "shared"], ended_at=1.0)
    submit(journal, "actor", status=RunStatus.SUCCESSFUL, objects=["state"], base_seq=1)
    unfinished = {"a", "b", "c", "shared", "state"}
    ended = {"SUCCESSFUL's", "FAILED's", "CANCELED's"}
    assert upkeep.held_objects() == (unfinished | ended, unfinished)
    asked = [*sorted(unfinished | ended), "nobody's"]
    assert unheld(upkeep, durable(*asked)) == ["nobody's"]
    assert unheld(upkeep, volatile(*asked)) == [*sorted(ended), "nobody's"]
    for found in (*durable(*asked), *volatile(*asked)):
        is_held = upkeep.held_objects().holds(found)
        assert is_held is (unheld(upkeep, [found]) == [])
    assert upkeep.held_objects({"running", "SUCCESSFUL", "FAILED"}) == (
        {"b", "c", "shared", "state", "CANCELED's"},
        {"b", "c", "state"},
    )


def test_what_news_name_is_needed_until_a_run_has_taken_them_in_and_holds_it(kept: Kept) -> None:
    journal, upkeep = kept
    submit(journal, "r", status=RunStatus.SUCCESSFUL)
    signal, call = Signal("s", NULL, ("a", "b")), ActorCall(b"steps", "call", ("c",))
    journal.post("r", InboxKind.SIGNAL, msgspec.json.encode(signal), "key")
    journal.post("r", InboxKind.CALL, msgspec.json.encode(call))
    journal.post("r", InboxKind.CANCEL, b"null")
    journal.post("r", InboxKind.SIGNAL, b"what is this")
    asked = durable("a", "d") + volatile("b", "c", "d")
    assert upkeep.held_objects() == ({"a", "b", "c"}, {"a", "b", "c"})
    assert upkeep.held_objects({"r"}) == (set(), set())
    assert unheld(upkeep, asked) == ["d", "d"]
    taken = [entry.number for entry in journal.list_inbox("r")]
    change(journal, "r", taken=taken, objects=["a", "c"])
    assert upkeep.held_objects() == ({"a", "c"}, {"a", "c"})
    assert unheld(upkeep, asked) == ["d", "b", "d"]


def test_what_is_named_between_two_looks_is_needed(kept: Kept) -> None:
    journal, upkeep = kept
    asked = durable("a", "b", "c")
    assert unheld(upkeep, asked) == ["a", "b", "c"]
    submit(journal, "r", objects=["a"])
    assert unheld(upkeep, asked) == ["b", "c"]
    body = msgspec.json.encode(Signal("s", NULL, ("c",)))
    journal.post("r", InboxKind.SIGNAL, body)
    assert unheld(upkeep, asked) == ["b"]


@pytest.mark.parametrize("way", ["commit", "post"])
def test_nobody_comes_to_need_anything_within_the_block(kept: Kept, way: str) -> None:
    journal, upkeep = kept
    submit(journal, "r")
    begun, order = threading.Event(), []

    def name() -> None:
        begun.set()
        if way == "commit":
            change(journal, "r", objects=["a"])
        else:
            journal.post("r", InboxKind.SIGNAL, msgspec.json.encode(Signal("s", NULL, ("a",))))
        order.append("named")

    thread = threading.Thread(target=name)
    with upkeep.unheld(durable("a")) as found:
        assert [each.name for each in found] == ["a"]
        thread.start()
        assert begun.wait(60)
        thread.join(0.1)  # time enough, were it let in
        order.append("left")
    thread.join(60)
    assert order == ["left", "named"]
    assert unheld(upkeep, durable("a")) == []


def test_a_block_that_raises_lets_the_others_in(kept: Kept) -> None:
    with pytest.raises(ZeroDivisionError), kept.upkeep.unheld(durable("a")):
        raise ZeroDivisionError
    submit(kept.journal, "r", objects=["a"])
    assert unheld(kept.upkeep, durable("a", "b")) == ["b"]


# -- what runs name -----------------------------------------------------------------------------


def test_graphs_that_no_run_names_are_forgotten(kept: Kept) -> None:
    journal, upkeep = kept
    submit(journal, "r", graph="kept")
    # A change that is refused leaves its graph behind.
    late = RunChange(
        run_id="r",
        epoch=7,
        entries=[],
        summary=Summary(status=RunStatus.RUNNING, steps=1, succeeded=0),
    )
    batch = Batch(changes=[late], graphs=[("left", [b"123", b"4567"]), ("more", [b"8"])])
    assert journal.commit(batch) == {"r"}
    assert upkeep.unnamed().graphs == Removed(2, 8)
    assert upkeep.unnamed({"r"}).graphs == Removed(3, 13)
    assert journal.read_graph("left") == [b"123", b"4567"]
    assert upkeep.drop_unnamed().graphs == Removed(2, 8)
    assert upkeep.drop_unnamed().graphs == upkeep.unnamed().graphs == NOTHING
    assert journal.read_graph("kept") == [b"12345"]
    assert journal.commit(batch) == {"r"}
    assert journal.read_graph("more") == [b"8"]


def test_logs_are_named_by_events_of_every_kind(kept: Kept) -> None:
    journal, upkeep = kept
    begun = StepStarted(step=0, attempt=1, worker="w", log=LogRange("e1.1", 0, 0, 0, 0))
    ended = StepSucceeded(step=0, attempt=1, value=NULL, log=LogRange("e1.2", 0, 5, 0, 0))
    silent = StepSucceeded(step=0, attempt=1, value=NULL, worker="e1.3")
    submit(journal, "a", events=[begun, silent])
    submit(journal, "b", events=[ended, begun])
    assert upkeep.named_logs() == {"e1.1", "e1.2"}
    assert upkeep.named_logs({"a"}) == {"e1.1", "e1.2"}
    assert upkeep.named_logs({"b"}) == {"e1.1"}
    assert upkeep.named_logs({"a", "b"}) == set()


# -- SQLite alone -------------------------------------------------------------------------------


def test_environments_that_no_run_names_are_forgotten_and_come_back_with_a_run(
    sqlite: tuple[SqliteJournal, SqliteUpkeep], home: Path
) -> None:
    journal, upkeep = sqlite
    submit(journal, "a", where=environment("a"))
    submit(journal, "b", where=environment("b"))
    size = len(msgspec.json.encode(environment("a")))
    assert upkeep.unnamed().environments == NOTHING
    assert upkeep.unnamed({"a"}).environments == Removed(1, size)
    assert journal.delete_run("a", 1)
    assert upkeep.drop_unnamed() == (NOTHING, Removed(1, size))
    assert upkeep.drop_unnamed() == (NOTHING, NOTHING)
    # This one has stored it before.
    submit(journal, "c", where=environment("a"))
    other = SqliteJournal(home)
    found = other.find_run("c")
    other.close()
    assert found is not None
    assert found.creation.environment == environment("a")


def test_what_another_run_names_meanwhile_is_not_forgotten(
    sqlite: tuple[SqliteJournal, SqliteUpkeep], monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, upkeep = sqlite
    submit(journal, "a", graph="g", where=environment("a"))
    found = upkeep._unnamed({"a"})
    assert [len(each) for each in found] == [1, 1]
    monkeypatch.setattr(upkeep, "_unnamed", lambda without: found)
    assert upkeep.drop_unnamed() == (NOTHING, NOTHING)
    assert journal.read_graph("g") == [b"12345"]


def test_a_database_gives_back_what_is_free_beside_readers_and_writers(
    sqlite: tuple[SqliteJournal, SqliteUpkeep], home: Path
) -> None:
    journal, upkeep = sqlite
    value = msgspec.Raw(b'"%b"' % (b"x" * 30_000))
    big = [StepSucceeded(step=0, attempt=1, value=value)] * 100
    submit(journal, "kept", events=big[:3])
    submit(journal, "gone", events=big)
    assert upkeep.space().free_bytes < 100_000
    assert upkeep.space().log_bytes > 1_000_000
    upkeep.fold_log()
    assert upkeep.space().log_bytes == 0
    assert journal.delete_run("gone", 1)
    before = upkeep.space()
    assert before.free_bytes > 2_500_000
    with journal._database.reading() as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT COUNT(*) FROM runs").fetchone() == (1,)
        upkeep.fold_log()  # as far as that goes
        upkeep.compact()
        assert reader.execute("SELECT COUNT(*) FROM events").fetchone() == (4,)
        reader.execute("COMMIT")
    upkeep.compact()
    after = upkeep.space()
    assert after.free_bytes == after.log_bytes == 0
    assert after.size_bytes < before.size_bytes - 2_500_000
    assert (home / "weftline.db").stat().st_size == after.size_bytes
    read = journal.read("kept")
    assert read is not None
    assert len(read[1]) == 4
    submit(journal, "next", graph="graph of kept")

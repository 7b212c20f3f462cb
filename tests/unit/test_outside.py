"""News for a run that nobody drives: what counts at once, and what waits."""

from queue import SimpleQueue

import msgspec
import pytest
from msgspec import Raw

from tests.graphs import step
from weftline.adapters.journal.memory import MemoryJournal
from weftline.core.environment import Environment
from weftline.core.events import (
    RunStatus,
    RunSubmitted,
    StepFailed,
    encode_event,
)
from weftline.core.graph import encode_pages
from weftline.core.values import Error, pack_inline
from weftline.engine.active import Ended, Gone
from weftline.engine.lookout import Lookout
from weftline.engine.outside import take_in
from weftline.engine.recovery import read_run
from weftline.errors import StepNotFoundError, WorkflowNotFoundError, WorkflowNotResumableError
from weftline.ports.journal import (
    Batch,
    Creation,
    Entry,
    InboxKind,
    RunChange,
    RunRecord,
    Signal,
    Summary,
)

ENVIRONMENT = Environment(python="/usr/bin/python3", sys_path=(), cwd="/")
SIGNAL = msgspec.json.encode(Signal("news", Raw(pack_inline("json", b"1"))))


class Clock:
    """One that stands."""

    def time(self) -> float:
        return 100.0

    def monotonic(self) -> float:
        return 100.0


class Journal(MemoryJournal):
    """A journal with one run `r` of the engine `e`, which is dead."""

    def __init__(self) -> None:
        super().__init__()
        self.hash, pages = encode_pages([step("a"), step("b", 0)])
        submitted = RunSubmitted(graph=self.hash, output=1)
        self.commit(
            Batch(
                changes=[
                    RunChange(
                        run_id="r",
                        epoch=1,
                        entries=[Entry(1, 1.0, "RunSubmitted", encode_event(submitted))],
                        summary=Summary(status=RunStatus.RUNNING, steps=2, succeeded=0),
                        creation=Creation(
                            workflow="w", created_at=1.0, environment=ENVIRONMENT, metadata={}
                        ),
                        engine="e",
                    )
                ],
                graphs=[(self.hash, pages)],
            )
        )

    @property
    def record(self) -> RunRecord:
        record = self.find_run("r")
        assert record is not None
        return record


@pytest.fixture
def journal() -> Journal:
    return Journal()


def test_a_cancel_is_recorded_and_the_run_has_no_owner_then(journal: Journal) -> None:
    journal.post("r", InboxKind.SIGNAL, SIGNAL)
    journal.post("r", InboxKind.CANCEL, b"null")
    take_in(journal, "r", Clock())
    assert journal.record.summary.status is RunStatus.CANCELED
    assert (journal.record.engine, journal.record.epoch) == (None, 2)
    assert [each.kind for each in journal.list_inbox("r")] == ["signal"]  # for who resumes it
    run = read_run(journal, "r").run
    assert run.finished is RunStatus.CANCELED
    assert run.ended_at == 100.0


def test_a_pause_is_recorded_and_can_be_taken_back(journal: Journal) -> None:
    journal.post("r", InboxKind.PAUSE, b"null")
    take_in(journal, "r", Clock())
    assert read_run(journal, "r").run.is_paused
    assert journal.record.summary.status is RunStatus.RESUMABLE
    journal.post("r", InboxKind.CONTINUE, b"null")
    take_in(journal, "r", Clock())
    assert not read_run(journal, "r").run.is_paused


def test_a_run_that_an_engine_owns_is_left_to_it(journal: Journal) -> None:
    journal.register("e")
    journal.post("r", InboxKind.CANCEL, b"null")
    take_in(journal, "r", Clock())
    assert journal.record.summary.status is RunStatus.RUNNING
    assert len(journal.list_inbox("r")) == 1


def test_a_change_in_between_is_read_again(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal.post("r", InboxKind.CANCEL, b"null")
    commit, tries = journal.commit, []

    def commit_later(batch: Batch) -> set[str]:
        tries.append(batch)
        if len(tries) == 1:
            failed = StepFailed(step=0, attempt=1, error=Error("E", "x"), retry_at=5.0)
            entry = Entry(2, 2.0, "StepFailed", encode_event(failed))
            summary = Summary(status=RunStatus.RUNNING, steps=2, succeeded=0)
            change = RunChange(run_id="r", epoch=1, entries=[entry], summary=summary)
            assert commit(Batch(changes=[change])) == set()
        return commit(batch)

    monkeypatch.setattr(journal, "commit", commit_later)
    take_in(journal, "r", Clock())
    assert len(tries) == 2
    assert journal.record.summary.status is RunStatus.CANCELED
    assert read_run(journal, "r").run.steps[0].attempt == 1


def test_nothing_to_do_changes_nothing(journal: Journal) -> None:
    take_in(journal, "r", Clock())
    assert (journal.record.engine, journal.record.epoch) == ("e", 1)
    with pytest.raises(WorkflowNotFoundError):
        take_in(journal, "nobody", Clock())


# -- watching runs that others drive ------------------------------------------------------------


def told(journal: Journal, status: RunStatus, run_id: str = "r", name: str | None = None) -> object:
    """What a lookout tells first."""
    lookout = Lookout(journal, lambda record: status)
    mailbox: SimpleQueue[Ended | Gone] = SimpleQueue()
    lookout.watch(run_id, name, mailbox.put)
    try:
        return mailbox.get(timeout=30)
    finally:
        lookout.close()


def test_the_end_of_a_run_is_told_as_the_journal_has_it(journal: Journal) -> None:
    journal.post("r", InboxKind.CANCEL, b"null")
    take_in(journal, "r", Clock())
    ended = told(journal, RunStatus.CANCELED)
    assert isinstance(ended, Ended)
    assert ended.status is RunStatus.CANCELED


def test_that_nobody_drives_a_run_or_it_has_no_such_step_is_told(journal: Journal) -> None:
    gone = told(journal, RunStatus.RESUMABLE)
    assert isinstance(gone, Gone)
    assert isinstance(gone.error, WorkflowNotResumableError)
    gone = told(journal, RunStatus.RUNNING, "nobody")
    assert isinstance(gone, Gone)
    assert isinstance(gone.error, WorkflowNotFoundError)
    journal.post("r", InboxKind.CANCEL, b"null")
    take_in(journal, "r", Clock())
    gone = told(journal, RunStatus.CANCELED, name="c")
    assert isinstance(gone, Gone)
    assert isinstance(gone.error, StepNotFoundError)

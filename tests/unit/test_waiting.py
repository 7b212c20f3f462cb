"""What a run waits for, told from nothing but its events."""

from msgspec import Raw

from tests.graphs import CALL, Book, graph, packed, step, timer
from weftline.core.actions import PythonCall, Wait, WaitKind
from weftline.core.events import (
    CancelRequested,
    PauseChanged,
    Quarantined,
    RunStatus,
    SignalReceived,
)
from weftline.core.policy import Placement
from weftline.core.waiting import Waiting, WaitingFor, waits_of

LISTENING = PythonCall(function=CALL.function, arguments=b"", listens=True)


def waits(book: Book, status: RunStatus | None = None) -> list[Waiting]:
    return waits_of(book.run, book.now, status)


def test_ready_steps_wait_for_what_they_ask_for_and_those_behind_them_for_nothing() -> None:
    gpu = Placement(num_gpus=1.0)
    book = Book(graph(step("best", [1, 2, 3]), *[step("a")] * 2, step("b", placement=gpu)))
    assert waits(book) == [
        Waiting(kind=WaitingFor.RESOURCES, steps=("a", "a_1"), asks=Placement()),
        Waiting(kind=WaitingFor.RESOURCES, steps=("b",), asks=gpu),
    ]
    book.start("a")
    book.start("b")
    assert [each.steps for each in waits(book)] == [("a_1",)]
    book.start("a_1")
    assert waits(book) == []


def test_timers_signals_and_waits_for_steps_are_told_with_their_ends() -> None:
    signal = Wait(WaitKind.SIGNAL, name="approve")
    some = Wait(WaitKind.STEPS, count=2)
    book = Book(
        graph(
            step("all", [1, 2, 3, 4]),
            timer("sleep", 60.0),
            timer("sleep", 60.0),
            step("ask", action=signal),
            step("some", 1, 2, action=some),
        )
    )
    book.begin_wait("sleep")
    began = book.now
    book.begin_wait("sleep_1")
    book.begin_wait("ask")
    book.begin_wait("some")
    assert waits(book) == [
        Waiting(kind=WaitingFor.TIMER, steps=("sleep",), since=began, until=began + 59.0),
        Waiting(kind=WaitingFor.TIMER, steps=("sleep_1",), since=began + 1, until=began + 60.0),
        Waiting(kind=WaitingFor.SIGNAL, steps=("ask",), since=began + 2, name="approve"),
        Waiting(kind=WaitingFor.STEPS, steps=("some",), since=began + 3, count=2),
    ]
    book.record(SignalReceived("approve", Raw(packed("yes"))))
    assert [each.kind for each in waits(book)] == ["timer", "timer", "steps"]


def test_a_listening_step_waits_for_its_event_from_the_beginning() -> None:
    book = Book(graph(step("listen", action=LISTENING)))
    assert waits(book) == [Waiting(kind=WaitingFor.EVENT, steps=("listen",))]
    book.start("listen")
    assert waits(book) == [Waiting(kind=WaitingFor.EVENT, steps=("listen",), since=book.now)]


def test_a_retry_waits_for_its_time_and_then_for_a_place() -> None:
    book = Book(graph(step("flaky", tries=3, retry_delay_s=10.0)))
    book.start("flaky")
    began = book.now
    book.fail("flaky", retry_at=200.0)
    retry = Waiting(kind=WaitingFor.RETRY, steps=("flaky",), since=began, until=200.0)
    assert waits_of(book.run, 199.0) == [retry]
    [late] = waits_of(book.run, 200.0)
    assert (late.kind, late.asks) == (WaitingFor.RESOURCES, Placement())


def test_a_step_that_returned_steps_does_not_wait_beside_them() -> None:
    book = Book(graph(step("outer")))
    book.extend("outer", graph(step("inner")))
    assert [each.steps for each in waits(book)] == [("inner",)]


def test_a_paused_run_waits_to_be_continued_and_its_timers_go_on() -> None:
    book = Book(graph(step("all", 1, 2), step("a"), timer("sleep", 60.0)))
    book.begin_wait("sleep")
    book.record(PauseChanged(paused=True))
    paused, sleeping = waits(book)
    assert paused == Waiting(kind=WaitingFor.CONTINUE, steps=("a",))
    assert sleeping.kind is WaitingFor.TIMER


def test_a_paused_run_with_nothing_to_start_still_says_that_it_is_paused() -> None:
    book = Book(graph(step("a")))
    book.start("a")
    book.record(PauseChanged(paused=True))
    assert waits(book) == [Waiting(kind=WaitingFor.CONTINUE)]


def test_a_run_that_nobody_drives_waits_for_a_person_only() -> None:
    book = Book(graph(step("a")))
    assert waits(book, RunStatus.RESUMABLE) == [Waiting(kind=WaitingFor.RESUME)]
    assert waits_of(book.run, 0.0, RunStatus.RESUMABLE, is_detached=True) == [
        Waiting(kind=WaitingFor.CONTROLLER)
    ]
    book.record(Quarantined(reason="it kills its processes"))
    [held] = waits(book)
    assert held == Waiting(kind=WaitingFor.RESUME, reason="it kills its processes")


def test_a_pending_run_waits_for_the_limit() -> None:
    book = Book(graph(step("a")))
    assert waits(book, RunStatus.PENDING) == [Waiting(kind=WaitingFor.LIMIT, since=101.0)]


def test_a_run_that_is_over_or_about_to_be_waits_for_nothing() -> None:
    book = Book(graph(step("a", 1), step("b")))
    book.run.apply(CancelRequested(), book.now)
    assert waits(book) == []
    book.record(CancelRequested())
    assert book.state() is RunStatus.CANCELED
    assert waits(book) == []

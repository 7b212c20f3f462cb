"""When what of a run took place, told from its events."""

from msgspec import Raw

from tests.graphs import CALL, Book, error, graph, step, timer
from weftline.cli.spans import Span, spans_of
from weftline.core.actions import PythonCall
from weftline.core.events import (
    CancelRequested,
    RunAdopted,
    RunResumed,
    StepFailed,
    StepStarted,
    StepSucceeded,
)

Told = tuple[str, int, str, float, float | None, str]


def told(book: Book, *, is_driven: bool = True) -> list[Told]:
    def of(span: Span) -> Told:
        name = book.run.steps[span.step].name
        times = span.started_at - 100.0, None if span.ended_at is None else span.ended_at - 100.0
        return name, span.attempt, span.kind.value, *times, span.outcome.value

    return [of(span) for span in spans_of(book.run, book.events, is_driven=is_driven)]


def test_a_short_attempt_is_a_span_although_only_its_end_was_recorded() -> None:
    book = Book(graph(step("a")))
    book.record(StepSucceeded(0, 1, Raw(b"null"), started_at=101.25))
    assert told(book) == [("a", 1, "attempt", 1.25, 2.0, "succeeded")]


def test_an_attempt_that_runs_has_no_end() -> None:
    book = Book(graph(step("a")))
    book.record(StepStarted(0, 1, started_at=101.5))
    assert told(book) == [("a", 1, "attempt", 1.5, None, "running")]
    assert told(book, is_driven=False) == [("a", 1, "attempt", 1.5, 2.0, "interrupted")]


def test_tries_that_fail_and_the_delays_between_them_are_spans() -> None:
    book = Book(graph(step("a", tries=3)))
    book.start("a")
    book.fail("a", retry_at=110.0)
    assert told(book)[-1] == ("a", 1, "retry-delay", 3.0, None, "waiting")
    book.record(StepFailed(0, 2, error(), 104.0, is_timeout=True, started_at=103.5))
    book.now = 110.0
    book.start("a")
    book.lose("a")
    book.record(StepSucceeded(0, 4, Raw(b"null"), started_at=112.25))
    assert told(book) == [
        ("a", 1, "attempt", 2.0, 3.0, "failed"),
        ("a", 1, "retry-delay", 3.0, 3.5, "ended"),
        ("a", 2, "attempt", 3.5, 4.0, "timed out"),
        ("a", 3, "attempt", 11.0, 12.0, "lost"),
        ("a", 4, "attempt", 12.25, 13.0, "succeeded"),
    ]


def test_waits_are_spans_that_go_on_while_nobody_drives_the_run() -> None:
    book = Book(graph(step("all", 1, 2), timer("sleep", 9.0), timer("later", 90.0)))
    book.begin_wait("sleep")
    book.begin_wait("later")
    book.record(RunAdopted(engine="e2"))
    book.end_wait("sleep")
    assert told(book, is_driven=False) == [
        ("sleep", 0, "wait", 2.0, 5.0, "succeeded"),
        ("later", 0, "wait", 3.0, None, "waiting"),
    ]


def test_a_wait_that_fails_is_no_attempt() -> None:
    book = Book(graph(timer("sleep", 9.0)))
    book.begin_wait("sleep")
    book.record(StepFailed(0, 1, error("nobody came")))
    assert told(book) == [("sleep", 0, "wait", 2.0, 3.0, "failed")]


def test_a_step_that_listens_waits() -> None:
    listening = PythonCall(function=CALL.function, arguments=b"", listens=True)
    book = Book(graph(step("listen", action=listening)))
    book.start("listen")
    assert told(book) == [("listen", 1, "wait", 2.0, None, "waiting")]
    book.record(RunAdopted(engine="e2"))
    book.start("listen")
    book.succeed("listen")
    assert [(n, outcome) for _, n, _, _, _, outcome in told(book)] == [
        (1, "interrupted"),
        (2, "succeeded"),
    ]


def test_an_adoption_interrupts_at_the_last_known_moment() -> None:
    book = Book(graph(step("both", 1, 2), step("a"), step("b")))
    book.start("a")
    book.succeed("b")
    book.now = 1000.0
    book.record(RunAdopted(engine="e2"))
    book.start("a")
    assert told(book) == [
        ("a", 1, "attempt", 2.0, 3.0, "interrupted"),
        ("b", 1, "attempt", 3.0, 3.0, "succeeded"),
        ("a", 2, "attempt", 902.0, None, "running"),
    ]


def test_a_resume_ends_the_delay_of_a_retry_and_a_failed_sibling_runs_on() -> None:
    book = Book(graph(step("all", 1, 2, 3), step("a", tries=2), step("b"), step("c")))
    book.start("c")
    book.fail("a", retry_at=500.0)
    book.fail("b")
    book.record(RunResumed())
    assert told(book)[0] == ("c", 1, "attempt", 2.0, None, "running")
    assert ("a", 1, "retry-delay", 3.0, 5.0, "ended") in told(book)


def test_a_closed_scope_and_a_cancel_end_what_was_under_way() -> None:
    book = Book(graph(step("all", 1, 2), step("outer", catch=True), step("beside")))
    book.extend("outer", graph(step("inner", 1, 2), step("bad"), step("slow")))
    book.start("slow")
    book.start("beside")
    book.fail("bad")
    assert ("slow", 1, "attempt", 3.0, 5.0, "canceled") in told(book)
    assert ("beside", 1, "attempt", 4.0, None, "running") in told(book)
    book.record(CancelRequested())
    assert ("beside", 1, "attempt", 4.0, 6.0, "canceled") in told(book)


def test_a_step_that_returned_steps_has_run_until_then() -> None:
    book = Book(graph(step("outer")))
    book.start("outer")
    book.extend("outer", graph(step("inner")))
    assert told(book) == [("outer", 1, "attempt", 2.0, 3.0, "returned steps")]

"""What waits and why, in words; and what of a run is under way."""

import time

from tests.graphs import CALL, Book, graph, step, timer
from weftline.cli.terminal import byte_count, moment
from weftline.cli.unfinished import Running, Unfinished, doing_text, running_of
from weftline.cli.waits import asks_text, joined, steps_text, wait_document, wait_text
from weftline.core.actions import PythonCall
from weftline.core.environment import Environment
from weftline.core.events import RunAdopted, RunStatus
from weftline.core.policy import Placement
from weftline.core.waiting import Waiting, WaitingFor, waits_of
from weftline.ports.journal import Creation, RunRecord, Summary

NOW = time.mktime((2026, 3, 1, 12, 0, 0, 0, 0, -1))


def text(kind: WaitingFor, **fields: object) -> str:
    return wait_text(Waiting(kind=kind, **fields), NOW)  # type: ignore[arg-type]


def test_a_wait_says_what_has_to_come_and_when() -> None:
    assert text(WaitingFor.TIMER, until=NOW + 4) == "a timer until 12:00:04 (in 4.0 s)"
    tomorrow = NOW + 86400
    told = f"a timer until {moment(tomorrow)} (in 1 d 00 h)"
    assert text(WaitingFor.TIMER, until=tomorrow) == told
    assert text(WaitingFor.TIMER, until=NOW - 1) == "a timer, due now"
    assert text(WaitingFor.SIGNAL, name="go") == "the signal 'go'"
    assert text(WaitingFor.EVENT) == "an event that it listens for"
    assert text(WaitingFor.STEPS, count=2) == "the end of 2 of its inputs"
    assert text(WaitingFor.RESOURCES, asks=Placement()) == "1 CPU"
    assert text(WaitingFor.RETRY, until=NOW + 90) == "its next try until 12:01:30 (in 1 min 30 s)"
    assert text(WaitingFor.LIMIT) == "the limit on running workflows"
    assert text(WaitingFor.CONTINUE) == "being continued: it is paused"
    assert text(WaitingFor.RESUME) == "being resumed: nobody drives it"
    assert text(WaitingFor.RESUME, reason="it kills") == "being resumed: it kills"
    assert text(WaitingFor.CONTROLLER).startswith("a controller: none is alive")


def test_what_a_step_asks_for_is_told_with_its_amounts() -> None:
    rich = Placement(num_cpus=2.0, num_gpus=0.5, resources=(("licence", 1.0),))
    assert asks_text(rich) == "2 CPUs, 0.5 GPU, 1 licence"
    assert asks_text(Placement(num_cpus=0.0)) == "a process"


def test_timers_with_different_ends_are_one_reason_with_the_first_end() -> None:
    book = Book(graph(step("all", [1, 2]), timer("nap", 60.0), timer("nap", 30.0)))
    book.begin_wait("nap")
    book.begin_wait("nap_1")
    waits = waits_of(book.run, book.now)
    assert len(waits) == 2
    [one] = joined(waits)
    assert (one.steps, one.until, one.since) == (("nap", "nap_1"), 132.0, 102.0)
    assert steps_text(one) == "nap and 1 more"
    assert wait_document(waits[1])["until"] == "1970-01-01T00:02:12.000Z"


def test_only_recorded_attempts_that_go_on_are_under_way() -> None:
    listening = PythonCall(function=CALL.function, arguments=b"", listens=True)
    book = Book(
        graph(
            step("all", [1, 2, 3, 4, 5]),
            *[step("a")] * 3,
            step("outer"),
            step("listen", action=listening),
        )
    )
    book.start("a")
    since = book.now
    book.start("a_1")
    book.succeed("a_1")
    book.start("outer")
    book.extend("outer", graph(step("inner")))
    book.start("listen")
    assert running_of(book.run, book.events) == [Running("a", 1, since, "")]
    book.record(RunAdopted(engine="e2"))
    assert running_of(book.run, book.events) == []
    book.start("a")
    assert [one.attempt for one in running_of(book.run, book.events)] == [2]


def unfinished(running: list[Running], waits: list[Waiting], problem: str | None) -> Unfinished:
    record = RunRecord(
        run_id="r",
        creation=Creation(
            workflow="w",
            created_at=1.0,
            environment=Environment(python="p", sys_path=(), cwd="/"),
            metadata={},
        ),
        summary=Summary(status=RunStatus.RUNNING, steps=1, succeeded=0),
        epoch=1,
        engine="e",
        last_seq=1,
    )
    return Unfinished(record, RunStatus.RUNNING, True, running, waits, problem)


def test_a_run_is_told_in_one_line() -> None:
    running = [Running("b", 1, NOW - 2, ""), Running("a", 1, NOW - 5, "")]
    waits = [
        Waiting(kind=WaitingFor.SIGNAL, steps=("ask",), name="go"),
        Waiting(kind=WaitingFor.EVENT, steps=("x", "y", "z")),
        Waiting(kind=WaitingFor.LIMIT),
    ]
    assert doing_text(unfinished(running, waits, None), NOW) == (
        "runs a for 5.0 s and 1 more; waits for the signal 'go' (ask);"
        " waits for an event that it listens for (x and 2 more); 1 more reason to wait"
    )
    told = doing_text(unfinished([], [], "its journal has no beginning"), NOW)
    assert told == "cannot be read: its journal has no beginning"


def test_bytes_are_told_in_three_digits() -> None:
    sizes = (0, 999, 1000, 1_234_567, 999_600_000, 5 * 10**15)
    assert [byte_count(size) for size in sizes] == [
        "0 B",
        "999 B",
        "1 kB",
        "1.23 MB",
        "1 GB",
        "5 PB",
    ]

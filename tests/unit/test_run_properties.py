"""What holds for every run: random programs in a random order, with losses, crashes and resumes."""

from collections import Counter
from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw

from tests.graphs import Book, error, packed, picture, recount
from tests.programs import Author, Node, Program, signal_value
from weftline.core.actions import Wait
from weftline.core.events import (
    CancelRequested,
    ConditionDecided,
    Event,
    GraphExtended,
    PauseChanged,
    RunAdopted,
    RunBegun,
    RunResumed,
    RunStatus,
    ScopeClosed,
    SignalReceived,
    StepFailed,
    StepLost,
    StepStarted,
    StepSucceeded,
    decode_event,
    encode_event,
)
from weftline.core.graph import Graph, decode_pages, encode_pages, problems_of
from weftline.core.run import Run, fold
from weftline.core.state import StepStatus
from weftline.core.values import Packed
from weftline.errors import ImpossibleEvent

READY, RUNNING, WAITING = StepStatus.READY, StepStatus.RUNNING, StepStatus.WAITING


class Drive:
    """Drives a run of a program to its end, in an order that `random` decides."""

    def __init__(self, program: Program, random: Random, *, troubles: bool = True) -> None:
        self.program, self.random, self.troubles = program, random, troubles
        self.book = Book(program.graph)
        self.taken: list[int] = []  # from `ready`, and not begun yet
        self.begun: set[int] = set()  # attempts under way
        self.kept: dict[str, tuple[StepStatus, Packed | None]] = {}
        self.resumes = 0
        self.signals = Counter(program.signals)  # that have not been sent yet

    @property
    def run(self) -> Run:
        return self.book.run

    def cut(self, count: int, random: Random) -> "Drive":
        """Another engine's drive of the same run, of which only `count` events were written."""
        other = Drive(self.program, random)
        other.book.events = self.book.events[:count]
        other.book.graphs = self.book.graphs
        other.book.now = self.book.now
        for _, event in other.book.events:
            if isinstance(event, SignalReceived):
                other.signals[event.name] -= 1
        other.book.run = other.book.reread()
        # It had no time to record what followed from the last event, and does so now.
        other._adopt()
        return other

    def to_the_end(self) -> Packed:
        """The value of the run. Raises AssertionError when it gets stuck."""
        self.check()
        for _ in range(5_000):
            if self.run.finished is RunStatus.SUCCESSFUL:
                assert self.run.value is not None
                return self.run.value
            moves = list(self.moves())
            if not moves:
                moves = [("_send", n) for n, left in enumerate(self.signals.values()) if left > 0]
            assert moves, f"stuck: {self.book.statuses()}"
            move, argument = self.random.choice(moves)
            getattr(self, move)(argument)
            self._forget_dropped()
            self.check()
        raise AssertionError(f"no end: {self.book.statuses()}")

    # -- what may happen next -------------------------------------------------------------------

    def moves(self) -> Iterator[tuple[str, int]]:
        run = self.run
        for number in sorted(self.begun):
            yield "_settle", number
        if run.may_start:
            self._take()
            for number in self.taken:
                yield "_begin", number
            for number in run.undecided:
                if run.steps[number].status is WAITING and run.steps[number].condition is None:
                    yield "_decide", number
            if run.next_due() is not None:
                yield "_wait", 0
        if run.finished is not RunStatus.SUCCESSFUL and self.random.random() < 0.3:
            for number, name in enumerate(self.signals):
                if self.signals[name] > 0:
                    yield "_send", number
        if not run.is_open:
            yield "_resume", 0
        if run.is_pending and run.is_open:
            yield "_begin_run", 0
        if run.is_paused:
            yield "_pause", 0
        elif self.troubles and self.random.random() < 0.1:
            yield self.random.choice(["_adopt", "_adopt", "_cancel", "_pause"]), 1

    def _take(self) -> None:
        for listed in (self.run.ready, self.run.beginning):
            while listed:
                number = listed.popleft()
                if number not in self.begun:
                    self.taken.append(number)

    def _node(self, number: int) -> Node:
        return self.program.nodes[self.run.steps[number].name]

    def _fails(self, number: int) -> int:
        events = [event for _, event in self.book.events if isinstance(event, StepFailed)]
        return sum(event.step == number for event in events)

    def _begin(self, number: int) -> None:
        self.taken.remove(number)
        if not self.run.steps[number].may_begin:
            return  # dropped while it queued
        if isinstance(self.run.steps[number].spec.action, Wait):
            self.book.record(self.run.begin_wait(number, self.book.now))
            return
        self.begun.add(number)
        if self.random.random() < 0.5:
            self.book.record(StepStarted(number, self.run.steps[number].attempt + 1))

    def _settle(self, number: int) -> None:
        self.begun.discard(number)
        step, node, book = self.run.steps[number], self._node(number), self.book
        attempt = step.attempt + (step.status is not RUNNING)
        if self.troubles and self.random.random() < 0.15:
            book.record(StepLost(number, attempt, "killed"))
        elif self._fails(number) < node.fails:
            retry_at = self.run.judge_failure(
                number, retryable=node.is_matching, now=book.now, luck=self.random.random()
            )
            book.record(StepFailed(number, attempt, node.error, retry_at))
        elif isinstance(outcome := node.outcome(self.run.inputs_of(number)), Graph):
            key, _ = encode_pages(outcome.steps)
            book.graphs[key] = outcome
            book.record(GraphExtended(number, attempt, key, outcome.output), outcome)
        else:
            is_volatile = self.run.may_be_volatile(number)
            event = StepSucceeded(number, attempt, Raw(outcome), is_volatile=is_volatile)
            book.record(event)

    def _forget_dropped(self) -> None:
        self.begun -= set(self.run.dropped)
        self.run.dropped.clear()

    def _decide(self, number: int) -> None:
        holds = self._node(number).holds
        assert holds is not None
        self.run.undecided.remove(number)
        self.book.record(ConditionDecided(number, holds))

    def _wait(self, _: int) -> None:
        due = self.run.next_due()
        assert due is not None
        self.book.now = max(self.book.now, due)
        for event in self.run.due(self.book.now):
            self.book.record(event)

    def _send(self, number: int) -> None:
        """A signal comes, whether anybody waits for it yet or not."""
        name = list(self.signals)[number]
        self.signals[name] -= 1
        self.book.record(SignalReceived(name, Raw(signal_value(name))))

    def _begin_run(self, _: int) -> None:
        self.book.record(RunBegun())
        self.taken.clear()

    # -- troubles -------------------------------------------------------------------------------

    def _adopt(self, _: int = 0) -> None:
        """Another engine takes over; some values that need not survive have not."""
        gone = self.random.choice([0.0, 0.5, 1.0])
        is_there = {n: self.random.random() >= gone for n in self.run.volatile}
        values = {self.run.steps[n].value for n, there in is_there.items() if not there}
        lost = self.run.find_lost(lambda value: value not in values)
        for number in lost:
            self.kept.pop(self.run.steps[number].name, None)
        self.book.record(RunAdopted(engine=f"engine {len(self.book.events)}", lost=lost))
        self.begun.clear()
        self.taken.clear()

    def _resume(self, _: int) -> None:
        self.resumes += 1
        self.book.record(RunResumed(is_pending=self.troubles and self.random.random() < 0.2))
        self.taken.clear()

    def _cancel(self, _: int) -> None:
        if self.run.finished is not RunStatus.CANCELED:
            self.book.record(CancelRequested())

    def _pause(self, on: int) -> None:
        self.book.record(PauseChanged(bool(on)))
        if not on:
            self.taken.clear()

    # -- what is always true --------------------------------------------------------------------

    def check(self) -> None:
        run = self.run
        assert run.unfinished == recount(run)
        for step in run.steps:
            status, value = run.status_of(step), run.value_of(step.number)
            if step.name in self.kept:
                assert self.kept[step.name] == (status, value)
            elif status in (StepStatus.SUCCESSFUL, StepStatus.SKIPPED):
                self.kept[step.name] = status, value
        if run.may_start:
            assert len(set(run.undecided)) == len(run.undecided)
            listed = Counter([*run.ready, *run.beginning, *self.taken])
            ready = {step.number for step in run.steps if step.status is READY}
            for number in ready - self.begun:
                assert listed[number] == 1, f"{run.steps[number].name} is listed not once"


def drive(seed: int, random: Random, *, troubles: bool = True) -> Drive:
    """A drive that has not begun, of the program of this seed."""
    return Drive(Author(Random(seed)).program(), random, troubles=troubles)


SEEDS = st.integers(min_value=0, max_value=2**32)


@settings(max_examples=300)
@given(SEEDS, SEEDS)
def test_any_order_gives_the_result_of_the_program(program: int, order: int) -> None:
    peaceful = drive(program, Random(order), troubles=False)
    assert peaceful.to_the_end() == peaceful.program.result()
    if not peaceful.program.is_healing:
        assert peaceful.resumes == 0


@settings(max_examples=300)
@given(SEEDS, SEEDS)
def test_losses_crashes_cancels_and_resumes_change_no_result(program: int, order: int) -> None:
    troubled = drive(program, Random(order))
    assert troubled.to_the_end() == troubled.program.result()


@settings(max_examples=100)
@given(SEEDS, SEEDS, SEEDS)
def test_two_orders_end_with_equal_steps(program: int, one: int, other: int) -> None:
    drives = [drive(program, Random(order), troubles=False) for order in (one, other)]
    for each in drives:
        each.to_the_end()
    if drives[0].program.is_healing or drives[0].program.is_gathering:
        return  # what else happened is different each time
    first, second = (
        {
            name: (status, each.book.value(name))
            for name, status in each.book.statuses().items()
            # What was dropped when a scope closed may have got further in one of them.
            if not is_below_a_closed_scope(each, name)
        }
        for each in drives
    )
    assert first == second


def is_below_a_closed_scope(each: Drive, name: str) -> bool:
    run = each.run
    closed = {event.step for _, event in each.book.events if isinstance(event, ScopeClosed)}
    scope = run.scopes[each.book[name].scope]
    while scope.owner is not None:
        if scope.owner in closed:
            return True
        scope = run.scopes[run.steps[scope.owner].scope]
    return False


@settings(max_examples=60)
@given(SEEDS, SEEDS)
def test_every_prefix_of_a_journal_folds_to_what_the_run_was_then(program: int, order: int) -> None:
    whole = drive(program, Random(order))
    whole.to_the_end()
    stored = [(at, decode_event(encode_event(event))) for at, event in whole.book.events]
    graphs = whole.book.graphs
    run = Run("r")
    for count, (at, event) in enumerate(stored, 1):
        key = getattr(event, "graph", None)
        run.apply(event, at, None if key is None else graphs[key])
        if count % 3 == 0 or count == len(stored):
            assert picture(fold(stored[:count], graphs, "r")) == picture(run)
    assert picture(run) == picture(whole.run)


@settings(max_examples=200)
@given(SEEDS, SEEDS)
def test_what_follows_from_any_prefix_is_what_was_recorded_behind_it(
    program: int, order: int
) -> None:
    whole = drive(program, Random(order))
    whole.to_the_end()
    events = whole.book.events
    for count in range(1, len(events)):
        follows = fold(events[:count], whole.book.graphs, "r").settle()
        recorded = events[count][1] if count in whole.book.followed else None
        assert follows == recorded


@settings(max_examples=60)
@given(SEEDS, SEEDS)
def test_what_is_folded_in_two_parts_is_what_is_folded_at_once(program: int, order: int) -> None:
    whole = drive(program, Random(order))
    whole.to_the_end()
    events, graphs = whole.book.events, whole.book.graphs
    expected = picture(whole.run)
    for count in range(1, len(events), 5):
        run = fold(events[:count], graphs, "r")
        # Neither the time of a reader nor asking what follows must matter.
        list(run.due(whole.book.now))
        run.settle()
        for at, event in events[count:]:
            key = getattr(event, "graph", None)
            run.apply(event, at, None if key is None else graphs[key])
        assert picture(run) == expected


@settings(max_examples=40)
@given(SEEDS, SEEDS)
def test_a_crash_after_any_event_changes_no_result(program: int, order: int) -> None:
    whole = drive(program, Random(order))
    result = whole.to_the_end()
    for count in range(1, len(whole.book.events)):
        rest = whole.cut(count, Random(order + count))
        then = whole.book.reread(count)
        before = {
            step.name: then.value_of(step.number)
            for step in then.steps
            if step.status is StepStatus.SUCCESSFUL and step.number not in then.volatile
        }
        assert rest.to_the_end() == result
        for name, value in before.items():
            assert rest.book.value(name) == value


@settings(max_examples=200)
@given(SEEDS)
def test_graphs_of_random_programs_are_sound_and_come_back_from_their_pages(seed: int) -> None:
    program = Author(Random(seed)).program()
    plans = [program.plan, *(n.returns for n in program.nodes.values() if n.returns is not None)]
    for plan in plans:
        graph = plan.graph()
        assert problems_of(graph) == []
        key, pages = encode_pages(graph.steps)
        assert decode_pages(pages) == list(graph.steps)
        assert encode_pages(decode_pages(pages))[0] == key


@pytest.mark.soak
def test_troubles_change_no_result_of_two_hundred_thousand_programs() -> None:
    for seed in range(200_000):
        troubled = drive(seed, Random(~seed))
        assert troubled.to_the_end() == troubled.program.result(), f"seed {seed}"


def test_random_programs_show_everything_a_run_can_do() -> None:
    seen: Counter[str] = Counter()
    for seed in range(300):
        each = drive(seed, Random(seed))
        each.to_the_end()
        seen.update(type(event).__name__ for _, event in each.book.events)
        seen.update(str(status) for status in each.book.statuses().values())
    assert EVENTS | {"SUCCESSFUL", "FAILED", "CANCELED", "SKIPPED"} == set(seen)
    assert {name for name, count in seen.items() if count < 20} <= {"Quarantined"}


EVENTS = {
    "RunSubmitted", "RunAdopted", "RunResumed", "StepStarted", "StepSucceeded", "StepFailed",
    "StepLost", "StepSkipped", "ConditionDecided", "GraphExtended", "WaitBegun", "WaitEnded",
    "ScopeClosed", "CancelRequested", "PauseChanged", "Quarantined", "RunFinished",
    "SignalReceived", "RunBegun",
}  # fmt: skip


@settings(max_examples=200)
@given(st.lists(st.sampled_from(["start", "succeed", "fail", "lose", "adopt", "resume", "cancel"])))
def test_no_order_of_events_harms_a_run_however_impossible(moves: list[str]) -> None:
    """What is impossible is refused and changes nothing."""
    book = Book(Author(Random(7)).program().graph)
    for n, move in enumerate(moves):
        number = n % len(book.run.steps)
        attempt = book.run.steps[number].attempt + 1
        events: dict[str, Event] = {
            "start": StepStarted(number, attempt),
            "succeed": StepSucceeded(number, attempt, Raw(packed(n))),
            "fail": StepFailed(number, attempt, error()),
            "lose": StepLost(number, attempt, "killed"),
            "adopt": RunAdopted("e"),
            "resume": RunResumed(),
            "cancel": CancelRequested(),
        }
        before = picture(book.run)
        try:
            book.record(events[move])
        except ImpossibleEvent:
            assert picture(book.run) == before
        assert book.run.unfinished == recount(book.run)
    assert picture(book.reread()) == picture(book.run)

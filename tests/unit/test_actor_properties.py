"""What holds for every virtual actor: calls in their order, each effect once, whatever happens."""

from collections import Counter
from random import Random

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw

from tests.graphs import ActorBook, error, graph, method, packed, picture, recount, signal, step
from weftline.core.actions import PythonCall
from weftline.core.events import (
    ActorRested,
    CancelRequested,
    GraphExtended,
    PauseChanged,
    RunAdopted,
    RunResumed,
    SignalReceived,
    StepFailed,
    StepLost,
    StepStarted,
    StepSucceeded,
)
from weftline.core.graph import Graph, Step, encode_pages
from weftline.core.run import Run, fold
from weftline.core.state import StepStatus
from weftline.core.values import NOTHING, unpack

READY, RUNNING = StepStatus.READY, StepStatus.RUNNING


def labels(run: Run) -> list[str]:
    """The actor's state: what its methods have added, in order."""
    if run.state is None:
        return []
    value = unpack(run.state)
    found: list[str] = msgspec.json.decode(value.data)  # type: ignore[union-attr]
    return found


class Driver:
    """Calls an actor and carries its calls out, in an order that `random` decides."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.book = ActorBook()
        self.calls_left = random.randint(1, 7)
        self.called: list[str] = ["__init__"]  # base names of the calls, in their order
        self.fails = Counter({"__init__": random.choice([0, 0, 1])})
        self.begun: set[int] = set()
        self.seen: list[list[str]] = []  # states, one after the other
        self.rests = 0

    @property
    def run(self) -> Run:
        return self.book.run

    def to_the_end(self) -> None:
        for _ in range(2_000):
            self.check()
            if self.run.is_at_rest and not self.calls_left:
                return
            self._move()
        raise AssertionError(f"no end: {self.book.statuses()}")

    def _move(self) -> None:
        run, random, book = self.run, self.random, self.book
        if not run.is_open:
            book.record(RunResumed())
            return
        if self.calls_left and random.random() < 0.3:
            self._call()
        elif random.random() < 0.08:
            self._trouble()
        elif run.is_paused:
            book.record(PauseChanged(False))
        elif run.is_at_rest:
            if run.steps and random.random() < 0.5:
                self.rests += 1
                book.rest()
                self.begun.clear()
        else:
            self._go_on()
        self.begun -= set(run.dropped)
        run.dropped.clear()

    def _call(self) -> None:
        self.calls_left -= 1
        base = f"call{len(self.called)}"
        self.called.append(base)
        kind = self.random.choice(["plain", "plain", "all", "chain", "reading", "asking"])
        self.fails[base] = self.random.choice([0, 0, 0, 1])
        name = f"{base}:{kind}"
        if kind == "reading":
            self.book.call_step(method(name, 1), step(f"{base}:input"))
        else:
            self.book.call(name)

    def _trouble(self) -> None:
        kind = self.random.choice(["adopt", "adopt", "cancel", "pause", "signal"])
        if kind == "adopt":
            self.book.record(RunAdopted("e"))
            self.begun.clear()
        elif kind == "cancel":
            self.book.record(CancelRequested())
            self.begun.clear()
        elif kind == "pause" and not self.run.is_paused:
            self.book.record(PauseChanged(True))
        elif kind == "signal":
            self.book.record(SignalReceived("news", Raw(NOTHING)))

    def _go_on(self) -> None:
        run, book = self.run, self.book
        ready = [n for n in run.ready if run.steps[n].status is READY and n not in self.begun]
        waits = [n for n in run.beginning if run.steps[n].status is READY]
        if waits:
            book.record(run.begin_wait(waits[0], book.now))
        elif ready and (not self.begun or self.random.random() < 0.5):
            number = self.random.choice(ready)
            self.begun.add(number)
            if self.random.random() < 0.5:
                book.record(StepStarted(number, run.steps[number].attempt + 1))
        elif self.begun:
            self._settle(self.random.choice(sorted(self.begun)))
        else:
            book.record(SignalReceived("news", Raw(NOTHING)))

    def _settle(self, number: int) -> None:
        run, book, random = self.run, self.book, self.random
        self.begun.discard(number)
        state = run.steps[number]
        attempt = state.attempt + (state.status is not RUNNING)
        action = state.spec.action
        assert isinstance(action, PythonCall)
        base, _, kind = state.spec.name.partition(":")
        if random.random() < 0.1:
            book.record(StepLost(number, attempt, "killed"))
        elif action.is_writer and self.fails[base]:
            self.fails[base] -= 1
            book.record(StepFailed(number, attempt, error()))
        elif not action.is_writer:
            book.record(StepSucceeded(number, attempt, Raw(packed(base))))
        else:
            after = Raw(packed([*labels(run), state.spec.name]))
            returned = self._returned(base, kind)
            if returned is None:
                event = StepSucceeded(number, attempt, Raw(packed(base)), state=after)
                book.record(event)
            else:
                key, _ = encode_pages(returned.steps)
                book.graphs[key] = returned
                extended = GraphExtended(number, attempt, key, returned.output, state=after)
                book.record(extended, returned)

    def _returned(self, base: str, kind: str) -> Graph | None:
        if kind == "all":
            parts = [method(f"{base}:part{n}") for n in range(3)]
            return graph(step(f"{base}:sum", 1, 2, 3), *parts)
        if kind == "asking":
            return graph(method(f"{base}:told", 1), signal(f"{base}:wait"))
        if kind.startswith("chain"):
            length = len(kind) - len("chain")
            link: Step = method(f"{base}:{kind}+")
            return graph(link) if length < 3 else None
        return None

    # -- what is always true --------------------------------------------------------------------

    def check(self) -> None:
        run = self.run
        assert run.unfinished == recount(run)
        at_once = [
            each.name
            for each in run.steps
            if isinstance(each.spec.action, PythonCall)
            and each.spec.action.is_writer
            and each.opened is None
            and (each.status is RUNNING or each.number in self.begun)
        ]
        assert len(at_once) <= 1, f"{at_once} at once"
        found = labels(run)
        assert len(set(found)) == len(found), f"{found}: something was done twice"
        order = [self.called.index(label.partition(":")[0]) for label in found]
        assert order == sorted(order), f"{found}: a call came before one that was made earlier"
        if run.is_at_rest:
            assert set(order) == set(range(len(self.called)))
            counts = Counter(order)
            for number, base in enumerate(self.called):
                kind = next(each for each in found if each.startswith(base)).partition(":")[2]
                size = {"all": 4, "asking": 2, "chain": 4}.get(kind.rstrip("+"), 1)
                assert counts[number] == size, f"{found}: {base} is not whole"


SEEDS = st.integers(min_value=0, max_value=2**32)


@settings(max_examples=300)
@given(SEEDS)
def test_calls_are_carried_out_in_their_order_and_each_effect_is_there_once(seed: int) -> None:
    Driver(Random(seed)).to_the_end()


@settings(max_examples=100)
@given(SEEDS)
def test_an_actor_is_what_its_journal_folds_into_from_the_beginning_and_from_its_base(
    seed: int,
) -> None:
    driver = Driver(Random(seed))
    driver.to_the_end()
    book = driver.book
    assert picture(book.reread()) == picture(book.run)
    bases = [n for n, (_, event) in enumerate(book.events) if isinstance(event, ActorRested)]
    for base in bases:
        assert picture(fold(book.events[base:], book.graphs, "r")) == picture(book.run)


@settings(max_examples=60)
@given(SEEDS)
def test_what_follows_in_an_actor_from_any_prefix_is_what_was_recorded(seed: int) -> None:
    driver = Driver(Random(seed))
    driver.to_the_end()
    book = driver.book
    for count in range(1, len(book.events)):
        follows = fold(book.events[:count], book.graphs, "r").settle()
        recorded = book.events[count][1] if count in book.followed else None
        assert follows == recorded


def test_random_actors_do_all_that_an_actor_can() -> None:
    seen: Counter[str] = Counter()
    for seed in range(200):
        driver = Driver(Random(seed))
        driver.to_the_end()
        seen.update(type(event).__name__ for _, event in driver.book.events)
    names = {
        "ActorRested", "CallReceived", "CancelRequested", "GraphExtended", "PauseChanged",
        "RunAdopted", "RunFinished", "RunResumed", "SignalReceived", "StepFailed", "StepLost",
        "StepStarted", "StepSucceeded", "WaitBegun", "WaitEnded",
    }  # fmt: skip
    assert {name for name, count in seen.items() if count >= 20} >= names

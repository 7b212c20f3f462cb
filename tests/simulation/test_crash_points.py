"""A crash after every event, at every commit, at every start, at every moment: nothing changes.

Each graph is driven once without a crash. Then it is driven again for every point at which the
engine could die; another engine adopts what the journal has and goes on. The result is the same,
and no step whose success is durable runs again.
"""

from collections.abc import Callable
from functools import partial

import pytest

from tests.graphs import Book
from tests.programs import Edge, Node, Plan, Program
from tests.simulation.world import ENVIRONMENTS, PEACE, Crash, World
from weftline.core.actions import Wait, WaitKind
from weftline.core.events import RunStatus, encode_event
from weftline.core.graph import Join, encode_pages
from weftline.core.state import StepStatus
from weftline.ports.executor import Attempt, Lane
from weftline.ports.journal import Creation, Entry, RunChange, Summary

RUN = "the run"
Graphs = dict[str, list[bytes]]
UNDISTURBED_S = 20.0


def node(name: str, *sources: int, kind: str = "value", **behaviour: object) -> Node:
    made = Node(name, [Edge(source, kind) for source in sources])
    for key, value in behaviour.items():
        setattr(made, key, value)
    return made


def plan(*nodes: Node, output: int | list[int] = 0) -> Plan:
    return Plan(list(nodes), output)


def chain() -> Plan:
    return plan(node("a", 1), node("b", 2), node("c", 3), node("d"))


def diamond() -> Plan:
    return plan(node("a", 1, 2), node("b", 3), node("c", 3), node("d"))


def fan_out() -> Plan:
    return plan(node("sum", *range(1, 9), kind="list"), *[node(f"s{n}") for n in range(8)])


def dynamic() -> Plan:
    innermost = plan(node("f", 1), node("g"))
    inner = plan(node("d", 1, returns=innermost), node("e"))
    tail = plan(node("t1", returns=plan(node("t2", returns=plan(node("t3"))))))
    return plan(node("a", 1, 2), node("b", returns=inner), node("c", returns=tail))


def lists() -> Plan:
    inner = plan(node("x"), node("y"), output=[1, 0, 1])
    return plan(node("a", 1), node("b", returns=inner), output=[0, 1])


def catch() -> Plan:
    broken = node("x", caught_by="b", fails=1)
    inner = plan(node("in", 1, 2, 3, caught_by="b"), broken, node("y"), node("z"))
    own = node("c", catch=True, caught_by="c", fails=1)
    good = node("d", catch=True, returns=plan(node("w", catch=True)))
    return plan(node("a", 1, 2, 3), node("b", catch=True, returns=inner), own, good)


def retry() -> Plan:
    slow = node("b", tries=3, fails=2, delay_s=0.5)
    late = node("c", tries=2, fails=1, mode="timeout", timeout_s=0.3)
    return plan(node("a", 1, 2), slow, late)


def failure() -> Plan:
    """Fails twice for good before a resume has a result."""
    return plan(node("a", 1, 2, 3), node("b", fails=2), node("c"), node("d", 4), node("e"))


def joins() -> Plan:
    first = node("one", 3, 4, kind="needs", join=Join.ONE_SUCCEEDED)
    done = node("all", 5, 6, join=Join.ALL_DONE)
    broken = [node("p", fails=1), node("q"), node("r", fails=1), node("s")]
    return plan(node("a", 1, 2), first, done, *broken)


def loss() -> Plan:
    return plan(node("a", 1, 2), node("b", losses=2), node("c", losses=1))


def waits() -> Plan:
    """Timers and signals, one of which comes before anybody waits for it."""
    early = node("early", 4, kind="needs", wait=Wait(WaitKind.SIGNAL, name="early"))
    late = node("late", wait=Wait(WaitKind.SIGNAL, name="late", seconds=30.0))
    pause = Wait(WaitKind.TIMER, seconds=1.0)
    return plan(node("a", 1, 2, 3), early, late, node("pause", wait=pause), node("b", delay_s=0.1))


def some() -> Plan:
    """One of three is waited for, then the two others; one returns steps, one fails twice."""
    wait = Wait(WaitKind.STEPS, count=1, seconds=5.0)
    sources = [node("p"), node("q", returns=plan(node("q1", 1), node("q2"))), node("r", fails=2)]
    return plan(node("a", 1), node("g", 2, gathers="g"), node("w", 3, 4, 5, wait=wait), *sources)


def listening() -> Plan:
    return plan(node("a", 1, 2), node("l", listens=True), node("m", listens=True))


def volatile() -> Plan:
    return plan(
        node("a", 1, 2), node("b", 3, checkpoint=False), node("c", 3), node("d", checkpoint=False)
    )


GRAPHS = [
    chain, diamond, fan_out, dynamic, lists, catch, retry, failure, joins, loss,
    waits, some, listening, volatile,
]  # fmt: skip


class Life:
    """One run in a world at peace, in which one engine dies at a chosen point."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.world = World(1, PEACE)
        self.engine = self.world.open_engine(slots=2, committer=False)

    def submit(self) -> None:
        self.world.submit(RUN, self.program, self.engine)
        for number, name in enumerate(self.program.signals):
            self.world.at(0.2 + number, partial(self.world.send, RUN, name, f"k{number}"))

    def end(self) -> None:
        """The run has its result, and everything the audit asks for was true all the time."""
        world = self.world
        if RUN not in world.audit.shadows:
            world.submit(RUN, self.program, world.open_engine(slots=2, committer=False))
        world.finish()
        assert world.audit.shadows[RUN].run.value == self.program.result()

    def entries(self) -> list[Entry]:
        found = self.world.store.read(RUN)
        assert found is not None
        return found[1]

    def graphs(self) -> Graphs:
        return self.world.store._graphs


def whole(make: Callable[[], Plan]) -> Life:
    life = Life(Program(make()))
    life.submit()
    life.world.run_until(UNDISTURBED_S)
    life.end()
    return life


def commits_of(make: Callable[[], Plan]) -> int:
    """How many commits the first engine makes before it has nothing to do any more."""
    life = Life(Program(make()))
    life.submit()
    life.world.run_until(UNDISTURBED_S)
    return life.world.commits


def finished_in(entries: list[Entry], program: Program, graphs: Graphs) -> set[str]:
    """Names of the steps whose own success is among these events, for good."""
    life = Life(program)
    life.world.restore(RUN, program, as_left(entries), graphs)
    steps = life.world.audit.shadows[RUN].run.steps
    volatile = life.world.audit.shadows[RUN].run.volatile
    done = [step for step in steps if step.status is StepStatus.SUCCESSFUL]
    return {step.name for step in done if step.number not in volatile}


def as_left(entries: list[Entry]) -> RunChange:
    """A run of which an engine that is dead now had written these events."""
    creation = Creation(workflow="w", created_at=0.0, environment=ENVIRONMENTS[0], metadata={})
    return RunChange(
        run_id=RUN,
        epoch=1,
        entries=entries,
        summary=Summary(status=RunStatus.RUNNING, steps=0, succeeded=0),  # made when restored
        creation=creation,
        engine="a dead engine",
    )


@pytest.mark.parametrize("make", GRAPHS)
def test_a_crash_after_any_event_changes_nothing(make: Callable[[], Plan]) -> None:
    undisturbed = whole(make)
    entries, graphs = undisturbed.entries(), undisturbed.graphs()
    for count in range(1, len(entries)):
        program = Program(make())
        before = finished_in(entries[:count], program, graphs)
        life = Life(program)
        life.world.restore(RUN, program, as_left(entries[:count]), graphs)
        life.end()
        assert not any(life.world.executed[RUN, name] for name in before)
        kept = life.entries()
        assert kept[:count] == entries[:count]
        assert kept[count].kind in ("RunAdopted", "RunFinished")


@pytest.mark.parametrize("make", GRAPHS)
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_crash_at_any_commit_changes_nothing(make: Callable[[], Plan], when: str) -> None:
    commits = commits_of(make)
    assert commits > 2
    for number in range(1, commits + 1):
        life = Life(Program(make()))
        life.world.crash_at = (number, when)
        life.submit()
        life.world.run_until(UNDISTURBED_S)
        assert life.engine.is_dead
        life.end()


@pytest.mark.parametrize("make", GRAPHS)
def test_a_crash_at_any_moment_changes_nothing(make: Callable[[], Plan]) -> None:
    moment = 0
    is_over = False
    while not is_over:
        life = Life(Program(make()))
        life.submit()
        moment += 1
        is_over = not all(life.world.happen(UNDISTURBED_S) for _ in range(moment))
        life.engine.crash()
        life.end()


@pytest.mark.parametrize("make", GRAPHS)
def test_a_crash_at_any_start_changes_nothing(make: Callable[[], Plan]) -> None:
    starts = counted(Life(Program(make())), None)
    assert starts > 0
    for number in range(1, starts + 1):
        counted(Life(Program(make())), number)


def counted(life: Life, crash_at: int | None) -> int:
    """Drive the run, dying in the start of this number; how many starts the first engine made."""
    executor = life.engine.executor
    start = executor.start
    count = 0

    def dying(lane: Lane, attempts: list[Attempt]) -> None:
        nonlocal count
        count += 1
        if count == crash_at:
            raise Crash
        start(lane, attempts)

    executor.start = dying  # type: ignore[method-assign]
    life.submit()
    life.world.run_until(UNDISTURBED_S)
    life.end()
    return count


@pytest.mark.parametrize("make", GRAPHS)
def test_two_crashes_in_a_row_change_nothing(make: Callable[[], Plan]) -> None:
    commits = commits_of(make)
    for first in range(1, commits + 1):
        for second in (1, 2, 3):
            life = Life(Program(make()))
            world = life.world
            world.crash_at = (first, "after")
            life.submit()
            world.run_until(UNDISTURBED_S)
            if RUN in world.audit.shadows and not world.living():
                world.crash_at = (world.commits + second, "before")
                world.proceed(RUN, world.open_engine(slots=1, committer=False))
                world.run_until(2 * UNDISTURBED_S)
            life.end()


# -- what the engine does not carry out itself, but goes on from --------------------------------


def skip() -> Plan:
    """Two conditions were decided, by whoever evaluates them; one did not hold."""
    return plan(
        node("a", 1, 2, 3, kind="default"),
        node("b", 4),
        node("c", 5),
        node("d", 4, 5, join=Join.ALL_DONE),
        node("no", holds=False),
        node("yes", holds=True),
    )


def test_a_run_in_which_steps_were_skipped_goes_on_after_a_crash_at_any_event() -> None:
    program = Program(skip())
    book = Book(program.graph)
    book.graphs = {}
    book.decide("no", False)
    book.decide("yes", True)
    first = [
        Entry(seq, at, type(event).__name__, encode_event(event))
        for seq, (at, event) in enumerate(book.events, 1)
    ]
    first[0] = submission(program)
    life = Life(program)
    graphs = dict([encode_pages(program.graph.steps)])
    life.world.restore(RUN, program, as_left(first), graphs)
    life.end()
    entries = life.entries()
    decided = max(e.seq for e in entries if e.kind == "ConditionDecided")
    for count in range(decided, len(entries)):
        again = Life(Program(skip()))
        again.world.restore(RUN, again.program, as_left(entries[:count]), graphs)
        again.end()
        run = again.world.audit.shadows[RUN].run
        statuses = {each.name: run.status_of(each) for each in run.steps}
        assert statuses["no"] == statuses["b"] == StepStatus.SKIPPED
        assert statuses["a"] is StepStatus.SUCCESSFUL


def submission(program: Program) -> Entry:
    """The first event of a run of this program, as an engine writes it."""
    life = Life(program)
    life.submit()
    life.world.happen(1.0)
    life.world.happen(1.0)
    return life.entries()[0]

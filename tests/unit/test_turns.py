"""Whose turn it is to run, of a home's turns and of a group's."""

from weftline.core.environment import Environment
from weftline.core.run import Run
from weftline.engine.active import ActiveRun
from weftline.engine.turns import Turns
from weftline.ports.journal import Creation

HERE = Environment(python="/python", sys_path=(), cwd="/project")


class Seats:
    """So many of something; counts how often it was asked."""

    def __init__(self, count: int) -> None:
        self.free, self.asked = set(range(count)), 0

    def take(self) -> object | None:
        self.asked += 1
        return self.free.pop() if self.free else None

    def give_back(self, taken: object) -> None:
        assert isinstance(taken, int)
        assert taken not in self.free
        self.free.add(taken)


def active(name: str, group: tuple[str, int] | None = None) -> ActiveRun:
    creation = Creation(workflow="w", created_at=0.0, environment=HERE, metadata={})
    made = ActiveRun(name, Run(name), creation, epoch=1, seq=0)
    made.group = group
    return made


def test_without_limits_everybody_has_a_turn() -> None:
    turns = Turns()
    runs = [active(str(n)) for n in range(100)]
    assert all(turns.take(run) for run in runs)
    assert not turns.is_full


def test_a_home_has_so_many_turns_and_each_is_given_back_once() -> None:
    seats = Seats(2)
    turns = Turns(seats)
    a, b, c = map(active, "abc")
    assert [turns.take(run) for run in (a, b, c)] == [True, True, False]
    assert turns.take(a)  # it has one
    turns.pending.append(c)
    turns.ask_at = 7.0
    turns.give_back(a)
    assert turns.is_due(0.0)  # another one may have it
    turns.ask_at = 7.0
    turns.give_back(a)
    assert not turns.is_due(0.0)
    assert turns.next() is c
    assert turns.next() is None
    for run in (b, c):
        turns.give_back(run)
    assert seats.free == {0, 1}


def test_the_oldest_waits_shortest() -> None:
    turns = Turns(Seats(1))
    first, second, third = map(active, "123")
    assert turns.take(first)
    turns.pending += [second, third]
    turns.give_back(first)
    assert turns.next() is second
    turns.give_back(second)
    assert turns.next() is third


def test_of_a_group_so_many_run_and_hold_up_nobody_else() -> None:
    turns = Turns()
    a, b, c = (active(name, ("g", 2)) for name in "abc")
    other, last = active("other", ("h", 1)), active("last", ("h", 1))
    assert [turns.take(run) for run in (a, b, c)] == [True, True, False]
    turns.pending += [c, other]
    assert turns.next() is other
    assert turns.next() is None
    turns.give_back(a)
    assert turns.next() is c
    assert not turns.take(last)
    for run in (b, c, other):
        turns.give_back(run)
    assert turns.take(last)


def test_who_runs_already_is_counted_beyond_the_limits() -> None:
    seats = Seats(1)
    turns = Turns(seats)
    a, b, c = (active(name, ("g", 1)) for name in "abc")
    for run in (a, b):
        turns.take_anyway(run)
        turns.take_anyway(run)
    assert not turns.take(c)
    turns.give_back(b)
    assert not turns.take(c)
    turns.give_back(a)
    assert turns.take(c)
    turns.give_back(c)
    assert seats.free == {0}


def test_so_many_may_wait() -> None:
    turns = Turns(Seats(0), max_pending=2)
    turns.pending += [active("a")]
    states = [turns.is_full]
    turns.pending += [active("b")]
    assert [*states, turns.is_full] == [False, True]
    assert Turns(Seats(0), max_pending=0).is_full


def test_who_has_ended_waits_no_more() -> None:
    turns = Turns(Seats(0))
    a, b = active("a"), active("b")
    turns.pending += [a, b]
    turns.give_back(a)
    turns.forget(a)
    assert list(turns.pending) == [b]


def test_a_home_without_turns_is_asked_once_however_many_wait() -> None:
    seats = Seats(0)
    turns = Turns(seats)
    turns.pending += [active(str(n)) for n in range(50)]
    assert turns.next() is None
    assert seats.asked == 1

"""What returned steps may read of their run, and what would have them wait for themselves."""

from tests.graphs import Book, graph, some, step
from weftline.core.actions import Wait, WaitKind
from weftline.core.graph import Graph, Join, OuterInput, Step
from weftline.core.references import reference_problems

A, B, C, D = range(4)


def reader(*numbers: int, join: Join = Join.ALL_SUCCEEDED) -> Graph:
    return graph(step("r", *map(OuterInput, numbers), join=join))


def waiting(*numbers: int, count: int, seconds: float | None = None) -> Graph:
    return graph(some("r", *map(OuterInput, numbers), count=count, seconds=seconds))


def book(*steps: Step, running: str) -> Book:
    """A run of these steps, in which the named one runs."""
    found = Book(graph(*steps))
    found.start(running)
    return found


def refused(returned: Graph, of: Book, owner: str) -> bool:
    """Whether it is for a step that ends only after its reader."""
    problems = reference_problems(returned, of.run, of[owner].number)
    assert all("wait for each other" in problem for problem in problems)
    return bool(problems)


def test_a_step_does_not_read_the_one_that_returned_it() -> None:
    run = book(step("a", 1), step("b"), running="b")
    assert reference_problems(reader(B), run.run, B) == [
        "step 'r' reads step 'b', which ends only after it: they would wait for each other for ever"
    ]


def test_a_step_does_not_read_one_further_up() -> None:
    run = book(step("a"), running="a")
    run.extend("a", graph(step("b", 1), step("c")))
    run.extend("c", graph(step("d")))
    assert run["d"].number == D
    for number in (A, C, D):
        assert refused(reader(number), run, "d")
    assert refused(reader(B), run, "d")  # it reads `c`


def test_nor_one_that_waits_for_the_one_that_returned_it() -> None:
    run = book(step("a", 1), step("b", 2), step("c"), step("d"), running="c")
    assert refused(reader(A), run, "c")
    assert refused(reader(B, D), run, "c")
    assert not refused(reader(D), run, "c")


def test_what_stands_beside_it_is_read_while_that_runs_and_after() -> None:
    run = book(step("a", 1, 3), step("b"), step("c"), step("d", 2), running="b")
    assert not refused(reader(C, D), run, "b")
    run.extend("c", graph(step("e")))
    assert not refused(reader(C, D), run, "b")
    run.succeed("e")
    assert not refused(reader(C, D), run, "b")


def test_what_goes_on_without_the_one_that_returned_it_is_read() -> None:
    one, late = Wait(WaitKind.STEPS, count=1), Wait(WaitKind.STEPS, count=2, seconds=1.0)
    for between in (
        step("b", 2, 3, action=one),
        step("b", 2, 3, action=late),
        step("b", 2, 3, join=Join.ONE_SUCCEEDED),
    ):
        run = book(step("a", 1), between, step("c"), step("d"), running="c")
        assert not refused(reader(A, B), run, "c")
    both = some("b", 2, 3, count=2)
    assert refused(reader(A), book(step("a", 1), both, step("c"), step("d"), running="c"), "c")


def test_a_wait_that_others_can_end_may_be_for_the_one_that_returned_it() -> None:
    run = book(step("a", 1, 2), step("b"), step("c"), running="b")
    assert not refused(waiting(B, C, count=1), run, "b")
    assert not refused(waiting(B, C, count=2, seconds=1.0), run, "b")
    assert not refused(reader(B, C, join=Join.ONE_SUCCEEDED), run, "b")
    assert refused(waiting(B, C, count=2), run, "b")
    assert refused(waiting(B, B, count=1), run, "b")
    assert refused(reader(B, C, join=Join.ALL_DONE), run, "b")

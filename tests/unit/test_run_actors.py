"""Virtual actors: calls one after the other, the state between them, and what is laid down."""

import pytest
from msgspec import Raw

from tests.graphs import (
    ActorBook,
    Book,
    error,
    graph,
    method,
    packed,
    picture,
    recount,
    signal,
    some,
    step,
)
from weftline.core.events import (
    ActorRested,
    CallReceived,
    CancelRequested,
    PauseChanged,
    RunAdopted,
    RunFinished,
    RunResumed,
    RunStatus,
    SignalReceived,
    StepFailed,
)
from weftline.core.graph import OuterInput
from weftline.core.references import reference_problems
from weftline.core.run import Run, fold
from weftline.core.state import StepStatus
from weftline.core.values import Split, pack_caught, unpack
from weftline.errors import ImpossibleEvent

WAITING, READY, RUNNING = StepStatus.WAITING, StepStatus.READY, StepStatus.RUNNING
SUCCESSFUL, FAILED, CANCELED = StepStatus.SUCCESSFUL, StepStatus.FAILED, StepStatus.CANCELED


def check(book: Book) -> None:
    assert book.run.unfinished == recount(book.run)
    assert picture(book.reread()) == picture(book.run)


@pytest.fixture
def actor() -> ActorBook:
    """One whose `__init__` has ended."""
    book = ActorBook()
    book.change("__init__", 0)
    return book


# -- calls --------------------------------------------------------------------------------------


def test_an_actor_is_successful_at_rest_and_running_while_there_is_a_call() -> None:
    book = ActorBook()
    assert book.state() is RunStatus.RUNNING
    assert not book.run.is_at_rest
    assert book.change("__init__", 5, "ready") == []
    assert book.state() is RunStatus.SUCCESSFUL
    assert (book.run.is_at_rest, book.run.is_open, book.run.finished) == (True, True, None)
    assert (book.run.state, book.run.value) == (packed(5), packed("ready"))
    book.call("add")
    assert book.state() is RunStatus.RUNNING
    assert not book.run.is_at_rest
    check(book)


def test_calls_are_carried_out_in_the_order_in_which_they_came(actor: ActorBook) -> None:
    for _ in range(3):
        actor.call("add")
    names = []
    while not actor.run.is_at_rest:
        (name,) = [step.name for step in actor.run.steps if step.status is READY]
        names.append(name)
        actor.change(name, name)
    assert names == ["add", "add_1", "add_2"]
    assert actor.run.state == packed("add_2")
    check(actor)


def test_a_call_before_the_end_of_the_first_step_comes_after_it() -> None:
    book = ActorBook()
    book.call("add")
    assert book.ready() == ["__init__"]
    book.change("__init__", 0)
    assert book.ready() == ["add"]
    check(book)


def test_a_call_may_read_steps_which_come_after_the_calls_before_it(actor: ActorBook) -> None:
    actor.call("add")
    actor.call_step(method("set", 1), step("load"))
    assert actor.ready() == ["add"]
    actor.change("add", 1)
    assert actor.ready() == ["load"]
    actor.succeed("load", 7)
    assert actor.run.inputs_of(actor["set"].number) == [packed(7)]
    actor.change("set", 7)
    assert actor.run.is_at_rest
    check(actor)


def test_a_call_is_found_by_what_its_caller_knows_it_as(actor: ActorBook) -> None:
    actor.call("add", call="first")
    actor.call("add", call="second")
    found = [actor.run.find_step(call) for call in ("first", "second", "third")]
    assert [each and each.name for each in found] == ["add", "add_1", None]
    assert actor.reread().find_step("second") is not None


def test_a_run_that_is_no_actor_takes_no_calls() -> None:
    book = Book(graph(step("a")))
    with pytest.raises(ImpossibleEvent, match="no actor"):
        book.record(CallReceived(b""))


def test_a_call_that_makes_no_sense_is_refused_whole(actor: ActorBook) -> None:
    before = picture(actor.run)
    for steps in ([method("add", 7)], [method("add", OuterInput(9))], [method("x", 0)]):
        with pytest.raises(ImpossibleEvent, match="a call that cannot be carried out"):
            actor.call_step(*steps)
        assert picture(actor.run) == before
    with pytest.raises(ImpossibleEvent, match="the graph has no step"):
        actor.record(CallReceived(b"\x90"))
    check(actor)


def test_an_actor_never_ends_by_itself_but_can_be_canceled(actor: ActorBook) -> None:
    actor.call("add")
    actor.start("add")
    assert actor.record(CancelRequested()) == [RunFinished(status=RunStatus.CANCELED)]
    assert actor.run.dropped == [1]
    actor.call("add")
    assert actor.state() is RunStatus.CANCELED
    check(actor)
    actor.record(RunResumed())
    assert actor.ready() == ["add"]
    actor.change("add", 1)
    actor.change("add_1", 2)
    assert actor.run.is_at_rest
    check(actor)


def test_a_paused_actor_takes_calls_and_carries_out_none(actor: ActorBook) -> None:
    actor.record(PauseChanged(True))
    assert actor.state() is RunStatus.SUCCESSFUL
    actor.call("add")
    assert actor.state() is RunStatus.PAUSED
    assert not actor.run.may_start
    actor.record(PauseChanged(False))
    assert actor.ready() == ["add"]
    check(actor)


# -- failures -----------------------------------------------------------------------------------


def test_a_failed_call_fails_the_actor_and_holds_up_those_behind_it(actor: ActorBook) -> None:
    actor.call("add")
    actor.call("add")
    assert actor.fail("add") == [RunFinished(status=RunStatus.FAILED, error=error(), step=1)]
    assert actor.state() is RunStatus.FAILED
    actor.call("sub")  # also those that come now
    assert [actor.status(name) for name in ("add", "add_1", "sub")] == [FAILED, WAITING, WAITING]
    assert actor.run.state == packed(0)
    check(actor)


def test_after_a_resume_the_failed_call_comes_first_and_the_others_in_their_order(
    actor: ActorBook,
) -> None:
    actor.call("add")
    actor.call("add")
    actor.fail("add")
    actor.call("sub")
    actor.record(RunResumed())
    order = []
    while not actor.run.is_at_rest:
        (name,) = [step.name for step in actor.run.steps if step.status is READY]
        order.append(name)
        actor.change(name, name)
    assert order == ["add", "add_1", "sub"]
    check(actor)


def test_a_call_that_catches_has_its_pair_and_the_next_one_goes_on(actor: ActorBook) -> None:
    actor.call("add", catch=True)
    actor.call("add")
    assert actor.fail("add") == []
    assert actor.value("add") == pack_caught(None, error())
    assert actor.ready() == ["add_1"]
    assert actor.run.state == packed(0)
    check(actor)


def test_a_failed_first_step_leaves_no_state() -> None:
    book = ActorBook()
    book.call("add")
    book.fail("__init__")
    assert (book.run.state, book.run.value) == (None, None)
    book.record(RunResumed())
    book.change("__init__", 0)
    assert book.ready() == ["add"]
    check(book)


def test_a_retried_method_keeps_the_state_for_itself(actor: ActorBook) -> None:
    actor.call("both")
    actor.extend_and_change("both", 1, graph(step("sum", 1, 2), method("p"), method("q")))
    assert actor.ready() == ["p"]
    actor.fail("p", retry_at=500.0)
    assert actor.ready() == []
    actor.run.ready.clear()
    list(actor.run.due(500.0))
    assert actor.ready() == ["p"]
    actor.change("p", 2)
    assert actor.ready() == ["q"]
    check(actor)


# -- methods that return steps ------------------------------------------------------------------


def test_the_state_of_a_method_that_returns_steps_is_there_at_once(actor: ActorBook) -> None:
    actor.call("add")
    actor.call("sub")
    actor.extend_and_change("add", 1, graph(step("x", 1), step("y")))
    assert actor.run.state == packed(1)
    assert actor.ready() == ["y"]  # the next call waits for the value
    actor.succeed("y")
    actor.succeed("x", 9)
    assert actor.value("add") == packed(9)
    assert actor.ready() == ["sub"]
    check(actor)


def test_methods_inside_of_a_call_are_carried_out_one_at_a_time(actor: ActorBook) -> None:
    actor.call("all")
    actor.extend_and_change(
        "all", 1, graph(step("sum", 1, 2, 3), method("p"), method("q"), method("r"))
    )
    for name in "pqr":
        (ready,) = actor.ready()
        assert ready == name
        actor.change(name, name)
    assert actor.ready() == ["sum"]
    assert actor.run.state == packed("r")
    check(actor)


def test_a_nested_method_that_fails_lets_the_next_one_have_the_state(actor: ActorBook) -> None:
    actor.call("both")
    actor.extend_and_change("both", 1, graph(step("sum", 1, 2), method("p"), method("q")))
    actor.fail("p")
    assert actor.state() is RunStatus.FAILED
    actor.record(RunResumed())
    first = actor.ready()
    assert len(first) == 1
    actor.change(first[0], 2)
    (second,) = actor.ready()
    assert {first[0], second} == {"p", "q"}
    actor.change(second, 3)
    actor.succeed("sum")
    assert actor.run.is_at_rest
    check(actor)


def test_a_method_in_a_closed_scope_gives_the_state_back(actor: ActorBook) -> None:
    actor.call("both", catch=True)
    actor.call("add")
    actor.extend_and_change(
        "both", 1, graph(step("sum", 1, 2, 3), method("p"), method("q"), step("x"))
    )
    actor.start("p")
    actor.fail("x")
    assert [actor.status(name) for name in "pq"] == [CANCELED, CANCELED]
    assert actor.ready() == ["add"]
    actor.change("add", 2)
    check(actor)


def test_an_adoption_lets_the_running_method_begin_again_and_no_other(actor: ActorBook) -> None:
    actor.call("both")
    actor.extend_and_change("both", 1, graph(step("sum", 1, 2), method("p"), method("q")))
    actor.start("p")
    actor.record(RunAdopted("e2"))
    assert actor.ready() == ["p"]
    actor.change("p", 2)
    assert actor.ready() == ["q"]
    check(actor)


def test_a_lost_method_begins_again_before_the_others(actor: ActorBook) -> None:
    actor.call("both")
    actor.extend_and_change("both", 1, graph(step("sum", 1, 2), method("p"), method("q")))
    actor.lose("p")
    assert set(actor.ready()) == {"p"}
    check(actor)


def test_a_self_recursive_method_changes_the_state_link_by_link(actor: ActorBook) -> None:
    actor.call("count")
    for n in range(1, 4):
        name = "count" if n == 1 else f"count_{n - 1}"
        actor.extend_and_change(name, n, graph(method("count")))
        assert actor.run.state == packed(n)
    actor.change("count_3", 4, value="done")
    assert (actor.run.state, actor.run.value) == (packed(4), packed("done"))
    assert actor.value("count") == packed("done")
    assert actor.run.is_at_rest
    check(actor)


# -- waits in methods ---------------------------------------------------------------------------


def test_an_actor_is_at_rest_although_what_a_wait_left_still_runs(actor: ActorBook) -> None:
    actor.call("race")
    actor.extend_and_change("race", 1, graph(some("w", 1, 2), step("p"), step("q")))
    actor.begin_wait("w")
    actor.start("q")
    actor.succeed("p")
    assert actor.run.is_at_rest
    actor.fail("q")
    assert actor.state() is RunStatus.SUCCESSFUL
    actor.call("add")
    assert actor.run.status is RunStatus.RUNNING
    actor.change("add", 2)
    assert actor.run.is_at_rest
    check(actor)


# -- laying down --------------------------------------------------------------------------------


def from_base(book: Book) -> Run:
    """The run as whoever goes on with it reads it."""
    base = max(n for n, (_, event) in enumerate(book.events) if isinstance(event, ActorRested))
    return fold(book.events[base:], book.graphs, book.run.run_id)


def test_an_actor_lays_down_what_is_behind_it_and_goes_on(actor: ActorBook) -> None:
    for n in range(3):
        actor.call("add")
        actor.change("add" + (f"_{n}" if n else ""), n, n)
    generation = actor.run.generation
    assert actor.rest() == []
    assert actor.run.generation > generation
    assert (actor.run.steps, actor.run.laid_down, actor.run.succeeded) == ([], 4, 4)
    assert actor.state() is RunStatus.SUCCESSFUL
    assert (actor.run.state, actor.run.value) == (packed(2), packed(2))
    assert picture(from_base(actor)) == picture(actor.run)
    actor.call("add", call="a call")
    assert actor.run.names == ["add_3"]
    assert actor.ready() == ["add_3"]
    assert actor.run.find_step("add_1") is None
    actor.change("add_3", 7)
    assert actor.run.succeeded == 5
    assert picture(from_base(actor)) == picture(actor.run)
    check(actor)


def test_an_actor_may_lay_down_many_times(actor: ActorBook) -> None:
    for n in range(5):
        actor.call("add")
        actor.change("add" + (f"_{n}" if n else ""), n)
        actor.rest()
    assert actor.run.laid_down == 6
    assert actor.run.name_counts() == {"__init__": 1, "add": 5}
    assert picture(from_base(actor)) == picture(actor.run)
    check(actor)


def test_only_an_actor_at_rest_lays_down(actor: ActorBook) -> None:
    actor.call("add")
    with pytest.raises(ImpossibleEvent, match="have not ended"):
        actor.rest()
    book = Book(graph(step("a")))
    with pytest.raises(ImpossibleEvent, match="have not ended"):
        book.record(book.run.lay_down())


def test_signals_that_nobody_waited_for_are_not_laid_down(actor: ActorBook) -> None:
    for n in (1, 2):
        actor.record(SignalReceived("news", Raw(packed(n))))
    actor.call("ask")
    actor.extend_and_change("ask", 1, graph(signal("w")))
    actor.begin_wait("w")
    actor.rest()
    assert picture(from_base(actor)) == picture(actor.run)
    actor.call("ask")
    actor.extend_and_change("ask_1", 1, graph(signal("w")))
    actor.begin_wait("w_1")
    assert actor.run.value == packed(2)
    check(actor)


def test_waits_that_lie_behind_wait_for_nothing_any_more(actor: ActorBook) -> None:
    actor.call("ask", catch=True)
    actor.extend_and_change("ask", 1, graph(step("x", 1, 2), signal("w"), step("y")))
    actor.begin_wait("w")
    number = actor["w"].number
    actor.fail("y")
    actor.rest()
    for _ in range(number + 1):
        actor.call("add")
    while actor.run.steps[number].status is not READY:
        actor.change(actor.ready()[-1], 2)
    actor.start(actor.run.steps[number].name)
    assert actor.record(SignalReceived("news", Raw(packed(1)))) == []
    check(actor)


def test_what_a_wait_left_is_dropped_when_it_is_laid_down(actor: ActorBook) -> None:
    actor.call("race")
    actor.extend_and_change("race", 1, graph(some("w", 1, 2), step("p"), step("q")))
    actor.begin_wait("w")
    actor.start("q")
    number = actor["q"].number
    actor.succeed("p")
    actor.rest()
    assert actor.run.dropped == [number]
    with pytest.raises(ImpossibleEvent):
        actor.record(StepFailed(number, 1, error()))
    assert picture(from_base(actor)) == picture(actor.run)
    check(actor)


def race(actor: ActorBook, name: str) -> list[int]:
    """Call a method that waits for one of two steps; gives the numbers of those that are left."""
    actor.call(name)
    first, number = name[0], len(actor.run.steps)
    wait = some(f"{first}w", 2, 3)
    returned = graph(step(f"{first}x", 1), wait, step(f"{first}p"), step(f"{first}q"))
    actor.extend_and_change(name, 1, returned)
    actor.begin_wait(f"{first}w")
    actor.succeed(f"{first}p")
    split = unpack(actor.run.inputs_of(number)[0])
    assert isinstance(split, Split)
    return split.left


def test_a_reference_means_the_same_step_after_an_actor_has_laid_down(actor: ActorBook) -> None:
    actor.rest()
    (left,) = race(actor, "run")
    assert left == 1 + actor["rq"].number
    actor.extend("rx", graph(step("take", OuterInput(left))))
    assert actor.run.sources_of(actor["take"]) == [actor["rq"].number]
    actor.succeed("rq", "value of rq")
    assert actor.run.inputs_of(actor["take"].number) == [packed("value of rq")]
    actor.succeed("take")
    check(actor)
    actor.rest()
    actor.call("look")
    while len(actor.run.steps) <= left:
        actor.call("more")
    late = graph(step("take", OuterInput(left)))
    (problem,) = reference_problems(late, actor.run)
    assert problem.startswith("step 'take' reads a step of a call that its actor has laid down")
    with pytest.raises(ImpossibleEvent):
        actor.extend("look", late)


def test_times_and_pictures_of_an_actor_are_those_of_its_whole_life(actor: ActorBook) -> None:
    submitted = actor.run.submitted_at
    actor.call("add")
    actor.fail("add")
    actor.record(RunResumed())
    started = actor.run.started_at
    actor.change("add", 1)
    actor.rest()
    assert (from_base(actor).submitted_at, from_base(actor).started_at) == (submitted, started)

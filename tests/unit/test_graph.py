"""The shape of a graph: what is wrong with it, how it is stored, and what changed in it."""

import sys
from itertools import pairwise
from random import Random
from time import process_time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.graphs import graph, packed, step, timer
from weftline.core.actions import PythonCall, Wait, WaitKind
from weftline.core.graph import (
    PAGE_STEPS,
    Graph,
    Join,
    OptionalInput,
    Step,
    decode_pages,
    differences,
    encode_pages,
    find_cycle,
    problems_of,
)
from weftline.core.policy import Placement
from weftline.core.values import Object, pack_inline

# -- what a step reads --------------------------------------------------------------------------


def test_upstream_names_every_source_as_often_as_it_is_used() -> None:
    reader = step("a", 1, [2, 3, 2], OptionalInput(4), needs=[5, 1])
    assert list(reader.upstream()) == [1, 2, 3, 2, 4, 5, 1]


def test_a_step_without_inputs_reads_nothing() -> None:
    assert list(step("a").upstream()) == []


# -- problems -----------------------------------------------------------------------------------


def test_a_sound_graph_has_no_problems() -> None:
    sound = graph(step("a", 1, [2], needs=[3]), step("b", 2), step("c", 3), step("d"))
    assert problems_of(sound) == []
    assert find_cycle(sound) == []


def test_the_order_of_the_steps_does_not_matter() -> None:
    assert problems_of(graph(step("d"), step("b", 3), step("a", 1, 0), step("c"), output=2)) == []


def test_an_empty_graph_is_a_problem() -> None:
    assert "the graph has no step" in problems_of(graph())


def test_an_empty_list_of_outputs_is_a_problem() -> None:
    assert problems_of(graph(step("a"), output=[])) == ["the graph has no output"]


@pytest.mark.parametrize("output", [1, -1, [0, 7]])
def test_an_output_that_is_not_there_is_a_problem(output: int | list[int]) -> None:
    (problem,) = problems_of(graph(step("a"), output=output))
    assert "is not a step" in problem


@pytest.mark.parametrize(
    "reader", [step("a", 9), step("a", [0, 9]), step("a", OptionalInput(9)), step("a", needs=[9])]
)
def test_an_input_that_is_not_there_is_a_problem_with_its_reader(reader: Step) -> None:
    problems = problems_of(graph(step("b"), reader))
    assert problems[0] == "step 'a' takes its input from position 9, which is not in the graph"


def test_a_negative_position_is_no_step() -> None:
    assert problems_of(graph(step("a", -1), step("b"))) != []


def test_all_problems_are_told_at_once() -> None:
    assert len(problems_of(graph(step("a", 7), step("b", 8), output=9))) == 3


def test_a_step_that_waits_for_itself_is_a_circle() -> None:
    assert problems_of(graph(step("a", 0))) == ["steps wait for each other in a circle: a -> a"]


def test_a_circle_is_told_step_by_step_in_the_order_in_which_they_wait() -> None:
    steps = [step("out", 1), step("a", 2), step("b", needs=[3]), step("c", [1]), step("d")]
    (problem,) = problems_of(graph(*steps))
    # a reads b, b needs c, c reads a: so a comes before c, c before b, b before a.
    ways = ["a -> c -> b -> a", "b -> a -> c -> b", "c -> b -> a -> c"]
    assert problem in [f"steps wait for each other in a circle: {way}" for way in ways]


def test_steps_below_and_above_a_circle_are_not_named() -> None:
    steps = [step("out", 1, 4), step("x", 2), step("y", 1, 3), step("leaf"), step("free")]
    circle = find_cycle(graph(*steps))
    assert circle[0] == circle[-1]
    assert set(circle) == {"x", "y"}


@given(st.integers(0, 2**32), st.integers(1, 12))
def test_a_graph_that_points_one_way_has_no_circle_in_any_order(seed: int, size: int) -> None:
    random = Random(seed)
    order = list(range(size))
    random.shuffle(order)
    steps: list[Step] = [step("x")] * size
    for place, position in enumerate(order):
        sources = [order[n] for n in range(place) if random.random() < 0.4]
        steps[position] = step(f"s{place}", *sources)
    sound = graph(*steps)
    assert problems_of(sound) == []
    if size > 1:
        # One edge back from the first to the last, over a path between them, closes a circle.
        first, last = order[0], order[-1]
        steps[last] = step("last", first)
        steps[first] = step("first", last)
        circle = find_cycle(graph(*steps))
        assert circle[0] == circle[-1]
        positions = {each.name: n for n, each in enumerate(steps)}
        for source, reader in pairwise(circle):
            assert positions[source] in steps[positions[reader]].upstream()


def test_a_circle_of_100_000_steps_is_found_in_a_constant_stack() -> None:
    count = 100_000
    limit = sys.getrecursionlimit()
    depth, frame = 0, sys._getframe()
    while frame.f_back is not None:
        depth, frame = depth + 1, frame.f_back
    sys.setrecursionlimit(depth + 40)
    try:
        start = process_time()
        ring = graph(*[step(f"s{n}", (n + 1) % count) for n in range(count)])
        assert len(find_cycle(ring)) == count + 1
        line = graph(*[step(f"s{n}", n - 1) if n else step("s0") for n in range(count)])
        assert problems_of(line) == []
        assert process_time() - start < 20
    finally:
        sys.setrecursionlimit(limit)


# -- pages --------------------------------------------------------------------------------------

EVERY_KIND = [
    step("a", 1, [2, 1], OptionalInput(1), needs=[1, 2], join=Join.ALL_DONE),
    step("b", OptionalInput(2, packed({"x": [1, "é"]})), when="x > 1", join=Join.ONE_SUCCEEDED),
    step("c", tries=3, retry_delay_s=1.5, retry_backoff=2.0, retry_jitter=0.1, catch=True),
    step("d", timeout_s=2.5, retry_selected=True),
    step(
        "e",
        placement=Placement(
            num_cpus=0.5, num_gpus=1.0, resources=(("disk", 2.0),), env_vars=(("A", "1"),)
        ),
    ),
    timer("f", 3.0),
    step("g", action=Wait(WaitKind.SIGNAL, name="news")),
    step(
        "h",
        action=PythonCall(
            function=Object("a" * 64, "code", 1),
            arguments=Object("b" * 64, "pickle", 10),
            code="cd",
            is_plain=True,
            retry_on=pack_inline("pickle", b'"AA=="'),
        ),
    ),
    msgspec.structs.replace(step("i"), metadata={"a": [1, None, {"b": 2.5}]}),
]


def test_steps_of_every_kind_come_back_from_their_pages() -> None:
    key, pages = encode_pages(EVERY_KIND)
    assert decode_pages(pages) == EVERY_KIND
    assert encode_pages(decode_pages(pages)) == (key, pages)


@pytest.mark.parametrize(
    ("count", "pages"),
    [(0, 0), (1, 1), (PAGE_STEPS, 1), (PAGE_STEPS + 1, 2), (3 * PAGE_STEPS, 3)],
)
def test_a_graph_is_stored_in_pages_of_a_thousand_steps(count: int, pages: int) -> None:
    steps = [step(f"s{n}") for n in range(count)]
    _, found = encode_pages(steps)
    assert len(found) == pages
    assert decode_pages(found) == steps


def test_equal_steps_have_equal_hashes_and_others_have_others() -> None:
    assert encode_pages([step("a")])[0] == encode_pages([step("a")])[0]
    assert encode_pages([step("a")])[0] != encode_pages([step("b")])[0]
    assert len(encode_pages([step("a")])[0]) == 64


def test_pages_that_are_none_are_an_error() -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_pages([b"\x93\x01"])
    with pytest.raises(msgspec.DecodeError):
        decode_pages([msgspec.msgpack.encode([{"name": "a"}])])


def test_a_field_that_a_later_release_adds_to_a_step_is_ignored() -> None:
    (page,) = encode_pages([step("a", 1), step("b")])[1]
    later = [each | {"a_later_field": 1} for each in msgspec.msgpack.decode(page)]
    assert decode_pages([msgspec.msgpack.encode(later)]) == [step("a", 1), step("b")]


# -- differences --------------------------------------------------------------------------------


def called(name: str, code: str = "", arguments: bytes = b"", is_plain: bool = True) -> Step:
    call = PythonCall(
        function=Object("f" * 64, "code", 1), arguments=arguments, code=code, is_plain=is_plain
    )
    return step(name, action=call)


def changes(old: Step, new: Step) -> list[str]:
    return differences(Graph(steps=[old], output=0), Graph(steps=[new], output=0))


def test_the_same_graph_has_no_differences() -> None:
    same = graph(*EVERY_KIND)
    assert differences(same, same) == []


def test_every_kind_of_change_is_told_in_words() -> None:
    assert changes(step("a"), step("b")) == ["step 'a' is now 'b'"]
    assert changes(step("a", 1), step("a", 2)) == ["step 'a' has other inputs"]
    assert changes(step("a"), step("a", needs=[1])) == ["step 'a' has other inputs"]
    assert changes(step("a"), step("a", tries=2)) == ["step 'a' has other options"]
    placement = Placement(num_cpus=2.0)
    assert changes(step("a"), step("a", placement=placement)) == ["step 'a' has other options"]
    assert changes(called("a", "x"), called("a", "y")) == ["the code of step 'a' was edited"]
    assert changes(called("a", "x", b"1"), called("a", "x", b"2")) == [
        "step 'a' has other arguments"
    ]


def test_arguments_are_compared_only_where_equal_ones_give_equal_bytes() -> None:
    assert changes(called("a", "x", b"1", False), called("a", "x", b"2")) == []
    assert changes(called("a", "x", b"1"), called("a", "x", b"2", False)) == []


def test_another_number_of_steps_is_told_first() -> None:
    found = differences(graph(step("a")), graph(step("b"), step("c")))
    assert found == ["it had 1 steps and now has 2", "step 'a' is now 'b'"]


def test_no_more_than_ten_differences_are_told() -> None:
    old = graph(*[step(f"a{n}") for n in range(50)])
    new = graph(*[step(f"b{n}") for n in range(50)])
    assert len(differences(old, new)) == 10

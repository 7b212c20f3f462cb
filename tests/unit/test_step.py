"""Composing steps: signatures, names, and the graph that a composition becomes."""

import pickle
from functools import partial
from typing import Any

import pytest

from weftline.adapters.objects.memory import MemoryObjectStore
from weftline.authoring.options import Options
from weftline.authoring.step import (
    Composition,
    StepFunction,
    default_name,
    is_composition,
    lower,
    to_workflow,
)
from weftline.core.actions import PythonCall
from weftline.core.graph import Graph, problems_of
from weftline.errors import InvalidOption, NotPicklable


class Step(StepFunction[Composition[Any]]):
    """A step that can be composed, and not run."""

    composition = Composition


def step_of(function: Any, **options: Any) -> Step:
    return Step(function, Options().merged(options))


def named(name: str) -> Step:
    def function(*args: Any, **kwargs: Any) -> None:
        pass

    return step_of(function, name=name)


def graph_of(output: Composition[Any]) -> Graph:
    return lower(output, MemoryObjectStore()).graph


# -- names --------------------------------------------------------------------------------------


def outer_function() -> None:
    pass


class Holder:
    def method(self) -> None:
        pass

    def __call__(self) -> None:
        pass


def test_a_default_name_is_module_and_qualname_without_what_a_name_cannot_hold() -> None:
    def inner() -> None:
        pass

    here = "test_a_default_name_is_module_and_qualname_without_what_a_name_cannot_hold"
    assert default_name(outer_function) == f"{__name__}.outer_function"
    assert default_name(inner) == f"{__name__}.{here}.locals.inner"
    assert default_name(lambda: None) == f"{__name__}.{here}.locals.lambda"
    assert default_name(Holder.method) == f"{__name__}.Holder.method"
    assert default_name(Holder().method) == f"{__name__}.Holder.method"
    assert default_name(len) == "builtins.len"


def test_what_has_no_name_is_anonymous() -> None:
    assert default_name(partial(outer_function)) == "functools.__anonymous_func__"
    assert default_name(Holder()) == f"{__name__}.__anonymous_func__"

    class Bare:
        __module__ = None  # type: ignore[assignment]

        def __call__(self) -> None:
            pass

    assert default_name(Bare()) == "__anonymous_module__.__anonymous_func__"


def test_a_step_looks_like_its_function() -> None:
    def documented() -> None:
        """What it does."""

    step = step_of(documented, name="other")
    assert step.name == "other"
    assert step.__doc__ == "What it does."
    assert getattr(step, "__name__", None) == "documented"
    assert step.__module__ == __name__
    assert step.__wrapped__ is documented
    assert repr(step) == "<step 'other'>"
    assert repr(step.step()) == "<workflow step 'other', not run yet>"


# -- signatures ---------------------------------------------------------------------------------


def plain(first: int, second: int = 2) -> None:
    pass


def keywords(first: int, *, second: int, third: int = 3) -> None:
    pass


def variadic(first: int, *rest: int, **named: int) -> None:
    pass


def positional(first: int, /, second: int) -> None:
    pass


@pytest.mark.parametrize(
    ("function", "args", "kwargs"),
    [
        (plain, (1,), {}),
        (plain, (1, 2), {}),
        (plain, (), {"first": 1}),
        (plain, (1,), {"second": 2}),
        (keywords, (1,), {"second": 2}),
        (variadic, (1, 2, 3), {"x": 1}),
        (positional, (1, 2), {}),
        (positional, (1,), {"second": 2}),
        (partial(plain, 1), (), {}),
        (Holder().method, (), {}),
        (Holder(), (), {}),
        (len, ([],), {}),
        (dict, (), {"any": 1}),
    ],
)
def test_arguments_that_fit_are_taken(
    function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    assert is_composition(step_of(function).step(*args, **kwargs))


@pytest.mark.parametrize(
    ("function", "args", "kwargs"),
    [
        (plain, (), {}),
        (plain, (1, 2, 3), {}),
        (plain, (1,), {"third": 3}),
        (plain, (1,), {"first": 1}),
        (keywords, (1, 2), {}),
        (keywords, (1,), {}),
        (variadic, (), {}),
        (positional, (), {"first": 1, "second": 2}),
        (partial(plain, 1), (2, 3), {}),
        (Holder().method, (1,), {}),
        (Holder(), (1,), {}),
        (len, (), {}),
    ],
)
def test_arguments_that_do_not_fit_are_refused_with_the_name_of_the_step(
    function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    with pytest.raises(TypeError, match=r"^step 'the step': "):
        step_of(function, name="the step").step(*args, **kwargs)


def test_a_step_is_made_of_a_callable_and_not_called_directly() -> None:
    with pytest.raises(InvalidOption, match="a step is made of a callable, not of 1"):
        step_of(1)
    with pytest.raises(TypeError, match=r"'the step' cannot be called directly: compose it with"):
        step_of(plain, name="the step")(1)


def test_options_make_a_variant_of_the_same_kind() -> None:
    step = step_of(plain, name="first", max_retries=2)
    variant = step.options(catch_exceptions=True)
    assert type(variant) is Step
    assert variant.name == "first"
    (lowered,) = graph_of(variant.step(1)).steps
    assert (lowered.policy.tries, lowered.policy.catch) == (2, True)
    (lowered,) = graph_of(step.step(1)).steps
    assert not lowered.policy.catch


# -- graphs -------------------------------------------------------------------------------------


def test_steps_stand_breadth_first_from_the_output() -> None:
    a, b, c, d = (named(name).step() for name in "abcd")
    left = named("left").step(a, b)
    right = named("right").step(c, {"deep": [d, a]})
    graph = graph_of(named("output").step(left, right))
    assert [step.name for step in graph.steps] == ["output", "left", "right", *"abcd"]
    assert graph.output == 0
    assert [tuple(step.inputs) for step in graph.steps[:3]] == [(1, 2), (3, 4), (5, 6, 3)]
    assert problems_of(graph) == []


def test_one_composition_is_one_step_however_often_it_is_used() -> None:
    shared = named("shared").step()
    user = named("user").step(shared, shared, [shared, {"deep": (shared,)}], named=shared)
    graph = graph_of(named("output").step(user, shared))
    assert [step.name for step in graph.steps] == ["output", "user", "shared"]
    assert set(graph.steps[1].upstream()) == {2}


def test_a_list_of_compositions_is_one_input() -> None:
    parts = [named("part").step() for _ in range(3)]
    graph = graph_of(named("output").step(parts, by_name=parts))
    assert graph.steps[0].inputs == ([1, 2, 3],)
    mixed = graph_of(named("output").step([*parts, 1]))
    assert mixed.steps[0].inputs == (1, 2, 3)


def test_equal_arguments_are_equal_bytes() -> None:
    def actions(argument: Any) -> PythonCall:
        (step,) = graph_of(step_of(outer, name="x").step(argument)).steps
        assert isinstance(step.action, PythonCall)
        return step.action

    def outer(argument: Any) -> None:
        pass

    first, second = actions([1, {"a": "b"}]), actions([1, {"a": "ab"[1:]}])
    assert first.arguments == second.arguments
    assert first.is_plain
    assert first.function == second.function
    assert actions([2]).arguments != first.arguments


def test_a_long_chain_takes_no_stack() -> None:
    step = named("link")
    chain = step.step()
    for _ in range(5_000):
        chain = step.step(chain)
    assert len(graph_of(chain).steps) == 5_001


def test_a_circle_is_found() -> None:
    items: list[Any] = []
    outer = named("outer").step(items)
    items.append(named("inner").step(outer))
    (problem,) = problems_of(graph_of(outer))
    assert problem.startswith("steps wait for each other in a circle: ")


def test_a_workflow_carries_name_and_metadata() -> None:
    store = MemoryObjectStore()
    workflow, objects, warned = to_workflow(named("top").step(), store, {"k": "v"})
    assert (workflow.name, workflow.metadata, warned) == ("top", {"k": "v"}, ())
    assert objects
    assert all(store.exists(name) for name in objects)
    assert to_workflow(named("top").step(), store, None)[0].metadata == {}


def test_a_composition_cannot_be_pickled_on_its_own() -> None:
    with pytest.raises(NotPicklable, match="composition of step 'alone' cannot be pickled"):
        pickle.dumps(named("alone").step())
    with pytest.raises(ValueError, match="return it alone from one"):
        pickle.dumps([{"x": named("alone").step()}])


def test_the_step_protocol_gives_graph_and_objects() -> None:
    graph, objects = named("top").step(named("low").step()).__weftline_graph__(MemoryObjectStore())
    assert [step.name for step in graph.steps] == ["top", "low"]
    assert objects


def test_arguments_are_captured_when_the_graph_is_made() -> None:
    argument = [1]
    composition = named("x").step(argument)
    before = graph_of(composition).steps[0].action
    argument.append(2)
    assert graph_of(composition).steps[0].action != before

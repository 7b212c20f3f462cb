"""References to objects and to steps: how they travel, and what arrives in their place."""

import copy
import pickle
import pickletools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from weftline.adapters.objects.local import LocalObjectStore
from weftline.adapters.objects.memory import MemoryObjectStore
from weftline.authoring.options import Options
from weftline.authoring.step import Composition, StepFunction, lower
from weftline.code.functions import dump_function
from weftline.codecs.arguments import capture_arguments, load_arguments
from weftline.codecs.exceptions import decode_error, encode_error
from weftline.codecs.references import ObjectRef, StepRef, put
from weftline.codecs.values import decode, encode
from weftline.core.actions import PythonCall
from weftline.core.graph import (
    GivenInput,
    Graph,
    OuterInput,
    decode_pages,
    encode_pages,
    problems_of,
)
from weftline.core.values import Object, pack_list, pack_split, unpack
from weftline.errors import InvalidWorkflow, NotPicklable, StorageFull
from weftline.ports.objects import ObjectStore


@pytest.fixture
def objects() -> MemoryObjectStore:
    return MemoryObjectStore()


@pytest.fixture(params=["memory", "local"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    return MemoryObjectStore() if request.param == "memory" else LocalObjectStore(tmp_path / "o")


class Box:
    """A class whose code travels by value."""

    def __init__(self, held: Any) -> None:
        self.held = held


VALUES: list[Any] = [
    *(None, True, 0, -(2**63), 2**63, 1.5, float("inf"), "", "a", b"", [], {}, (1,), {1}),
    *([1, {"a": 2}], "x" * 100_000, b"x" * 100_000),
]


# -- objects ------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:20])
def test_a_value_that_is_put_is_an_object_however_small(value: Any, store: ObjectStore) -> None:
    ref = put(value, store)
    found = unpack(ref.packed)
    assert isinstance(found, Object)
    assert ref.objects == (found.hash,)
    assert found.size == len(store.read(found.hash))
    came = decode(ref.packed, store)
    assert came == value
    assert type(came) is type(value)


def test_what_json_says_exactly_is_put_as_json(objects: MemoryObjectStore) -> None:
    for value in (None, True, 3, 0.5, "a", [1], {"k": None}):
        found = unpack(put(value, objects).packed)
        assert isinstance(found, Object)
        assert found.codec == "json"


def test_equal_content_is_one_object_and_one_reference(objects: MemoryObjectStore) -> None:
    first, second, other = put([1, 2], objects), put([1, 2], objects), put([1, 3], objects)
    assert first == second
    assert hash(first) == hash(second)
    assert first != other
    assert len({first, second, other}) == 2
    # What a step returned as a large value is the same object.
    text = "x" * 100_000
    assert put(text, objects).packed == encode(text, objects).packed


def test_a_reference_says_briefly_what_it_refers_to(objects: MemoryObjectStore) -> None:
    ref = put("x" * 100_000, objects)
    assert repr(ref) == f"<ObjectRef json, 100,002 bytes, {ref.objects[0][:8]}>"
    assert repr(ObjectRef(b"none", ())) == "<ObjectRef>"
    assert repr(ObjectRef(b'["list",[]]', ())) == "<ObjectRef>"
    assert repr(StepRef("trip", 3)) == "<StepRef 3 of run 'trip'>"


def test_a_reference_to_a_reference_and_to_a_composition_is_refused(
    objects: MemoryObjectStore,
) -> None:
    with pytest.raises(TypeError, match="is a reference already"):
        put(put(1, objects), objects)
    with pytest.raises(NotPicklable, match="cannot be pickled or returned"):
        put(named("low").step(), objects)


def test_put_needs_what_the_classes_of_the_value_need(objects: MemoryObjectStore) -> None:
    ref = put(Box(3), objects)
    assert len(ref.objects) == 2
    assert all(map(objects.exists, ref.objects))
    assert decode(ref.packed, objects).held == 3


def test_a_full_store_is_told_when_something_is_put(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalObjectStore(tmp_path)

    def full(*_: object, **__: object) -> None:
        raise StorageFull(28, "there is no room")

    monkeypatch.setattr(store, "writer", full)
    with pytest.raises(StorageFull):
        put(1, store)


# -- in values ----------------------------------------------------------------------------------


def inside(ref: Any) -> dict[str, Any]:
    return {
        "list": [ref, ref],
        "dict": {"k": ref},
        "tuple": (1, ref),
        "key": {ref: 1},
        "own class": Box([ref]),
        "function": lambda: ref,
    }


@pytest.mark.parametrize("kind", inside(None))
def test_a_reference_in_a_value_stays_one_and_its_objects_are_held(
    kind: str, store: ObjectStore
) -> None:
    ref = put(Box("x"), store)
    encoded = encode(inside(ref)[kind], store)
    assert set(ref.objects) <= set(encoded.objects)
    assert len(set(encoded.objects)) == len(encoded.objects)
    came = decode(encoded.packed, store)
    match kind:
        case "list":
            assert came == [ref, ref]
            assert came[0] is came[1]
        case "dict" | "tuple" | "key":
            assert came == inside(ref)[kind]
        case "own class":
            assert came.held == [ref]
        case _:
            assert came() == ref


def test_objects_of_a_large_value_are_held_with_those_of_its_references(
    store: ObjectStore,
) -> None:
    refs = [put(number, store) for number in range(3)]
    encoded = encode(["x" * 100_000, *refs], store)
    large = unpack(encoded.packed)
    assert isinstance(large, Object)
    assert encoded.objects == (large.hash, *(ref.objects[0] for ref in refs))


def test_a_reference_that_is_the_value_is_what_it_refers_to(store: ObjectStore) -> None:
    for value in (3, "x" * 100_000, Box([1])):
        ref = put(value, store)
        encoded = encode(ref, store)
        assert (encoded.packed, encoded.objects) == (ref.packed, ref.objects)
        assert type(decode(encoded.packed, store)) is type(value)


def test_a_reference_in_an_error_stays_one_and_is_held(objects: MemoryObjectStore) -> None:
    ref = put([1], objects)
    told, names = encode_error(ValueError("bad", ref), objects)
    assert names == ref.objects
    error = decode_error(told, objects)
    assert error is not None
    assert error.args == ("bad", ref)


def test_what_could_not_be_pickled_leaves_nothing_behind_for_the_next(
    objects: MemoryObjectStore,
) -> None:
    ref = put([1], objects)
    with pytest.raises(NotPicklable):
        encode([ref, sys._getframe()], objects)
    assert encode((1,), objects).objects == ()


def test_a_function_and_a_class_hold_what_references_in_them_refer_to(
    objects: MemoryObjectStore,
) -> None:
    ref, other = put([1], objects), put([2], objects)

    def function() -> Any:
        return ref

    code = dump_function(function, objects)
    assert code.objects == ref.objects
    assert dump_function(function, objects).objects == ref.objects

    class Model:
        weights = other

    for _ in range(2):  # the second time its definition is known
        assert set(other.objects) < set(encode(Model(), objects).objects)

    def use() -> Any:
        return Model, ref

    assert set(dump_function(use, objects).objects) == {*ref.objects, *other.objects}


@pytest.mark.parametrize("make", [copy.copy, copy.deepcopy])
def test_references_can_be_copied_and_pickled(
    make: Callable[[Any], Any], objects: MemoryObjectStore
) -> None:
    for ref in (put([1], objects), StepRef("run", 3)):
        for came in (make(ref), pickle.loads(pickle.dumps(ref)), make([ref])[0]):
            assert came == ref
            assert hash(came) == hash(ref)
    with pytest.raises(AttributeError):
        ref.number = 4  # type: ignore[union-attr, misc]


def test_what_stored_pickles_of_references_name_never_moves(objects: MemoryObjectStore) -> None:
    for ref, name in ((put([1], objects), "ObjectRef"), (StepRef("run", 3), "StepRef")):
        texts = [
            text for _, text, _ in pickletools.genops(pickle.dumps(ref)) if isinstance(text, str)
        ]
        assert texts[texts.index("weftline.codecs.rebuild") + 1] == name
    # As written by the first release that had references.
    old = b'cweftline.codecs.rebuild\nObjectRef\n(C\x05["li"(V01\nttR.'
    ref = pickle.loads(old)
    assert (ref.packed, ref.objects) == (b'["li"', ("01",))
    assert pickle.loads(b"cweftline.codecs.rebuild\nStepRef\n(Vrun\nI3\ntR.") == StepRef("run", 3)


def test_a_split_is_what_was_ready_and_references_to_the_rest(store: ObjectStore) -> None:
    ready = [encode(value, store).packed for value in (1, [2], "x" * 100_000)]
    came = decode(pack_split(ready, "run-1", [4, 7]), store)
    assert came == ([1, [2], "x" * 100_000], [StepRef("run-1", 4), StepRef("run-1", 7)])
    assert decode(pack_split([], "r", []), store) == ([], [])
    nested = decode(pack_list([pack_split([b'["inline","json",1]'], "r", [2])]), store)
    assert nested == [([1], [StepRef("r", 2)])]
    again = decode(encode(came, store).packed, store)
    assert again == came


# -- in arguments -------------------------------------------------------------------------------


class Step(StepFunction[Composition[Any]]):
    composition = Composition


def named(name: str) -> Step:
    def function(*args: Any, **kwargs: Any) -> None:
        pass

    return Step(function, Options().merged({"name": name}))


def never(_: object) -> bool:
    return False


def test_a_bare_reference_is_a_hole_and_one_in_a_container_stays(store: ObjectStore) -> None:
    ref, other = put("value", store), put("other", store)
    captured, found = capture_arguments((1, ref, [ref], {"k": other}), {"x": ref}, store, never)
    assert found == [ref]
    assert set(captured.objects) == {*ref.objects, *other.objects}
    args, kwargs = load_arguments(captured.arguments, ["value"], store)
    assert args == (1, "value", [ref], {"k": other})
    assert kwargs == {"x": "value"}


def test_bare_references_that_are_equal_are_one_hole_and_one_object(
    objects: MemoryObjectStore,
) -> None:
    first, second, other = put([1], objects), put([1], objects), put([2], objects)
    captured, found = capture_arguments((first, second), {"k": other}, objects, never)
    assert found == [first, other]
    assert captured.plain
    assert captured.objects == ()
    value = object()
    args, kwargs = load_arguments(captured.arguments, [value, 2], objects)
    assert args[0] is args[1] is value
    assert kwargs == {"k": 2}


def test_references_to_steps_are_holes_wherever_they_are(objects: MemoryObjectStore) -> None:
    one, same, two = StepRef("r", 1), StepRef("r", 1), StepRef("r", 2)
    for args in ((one, [same, (two,)]), (one, Box([same, {"k": two}]))):
        captured, found = capture_arguments(args, {}, objects, never)
        assert found == [one, two]
        assert captured.plain is isinstance(args[1], list)
        assert captured.objects == () or captured.objects[0] not in found
        values = [object(), object()]
        came, _ = load_arguments(captured.arguments, values, objects)
        inner = came[1] if isinstance(came[1], list) else came[1].held
        assert came[0] is inner[0] is values[0]


def test_equal_arguments_with_references_have_equal_bytes(objects: MemoryObjectStore) -> None:
    def bytes_of(*args: Any) -> Any:
        return capture_arguments(args, {}, objects, never)[0]

    one, two = StepRef("r", 1), StepRef("r", 2)
    assert bytes_of(one, StepRef("r", 1)) == bytes_of(two, two)
    assert bytes_of(put(1, objects), [one]) == bytes_of(put(2, objects), [two])


def test_references_become_inputs_of_the_step_and_are_held(objects: MemoryObjectStore) -> None:
    ref, inner, left = put([1], objects), put([2], objects), StepRef("r", 7)
    low = named("low").step()
    lowered = lower(named("top").step(ref, [inner, left], low, k=[low, left]), objects, run_id="r")
    top = lowered.graph.steps[0]
    assert top.inputs == (GivenInput(ref.packed), OuterInput(7), 1)
    assert top.outer() == [7]
    assert {*ref.objects, *inner.objects} < set(lowered.objects)
    assert problems_of(lowered.graph) == []
    assert isinstance(top.action, PythonCall)
    args, kwargs = load_arguments(top.action.arguments, [[1], "left", "low"], objects)
    assert args == ([1], [inner, "left"], "low")
    assert kwargs == {"k": ["low", "left"]}


def test_a_composition_of_nothing_but_references_is_a_graph(objects: MemoryObjectStore) -> None:
    ref, left = put([1], objects), StepRef("r", 7)
    graph, held = named("top").step(ref, [left]).__weftline_graph__(objects, "r")
    assert len(graph.steps) == 1
    assert graph.steps[0].inputs == (GivenInput(ref.packed), OuterInput(7))
    assert ref.objects[0] in held
    assert problems_of(graph) == []


def test_a_list_of_compositions_alone_is_one_input_still(objects: MemoryObjectStore) -> None:
    lows = [named("low").step() for _ in range(3)]
    left = StepRef("r", 7)
    lowered = lower(named("top").step(lows, [*lows[:0], left]), objects, run_id="r")
    assert lowered.graph.steps[0].inputs == ([1, 2, 3], OuterInput(7))
    lowered = lower(named("top").step([lows[0], left]), objects, run_id="r")
    assert lowered.graph.steps[0].inputs == (1, OuterInput(7))


@pytest.mark.parametrize("run_id", [None, "another"])
def test_a_reference_to_a_step_of_another_run_is_refused(
    run_id: str | None, objects: MemoryObjectStore
) -> None:
    composition = named("top").step({"k": [StepRef("r", 7)]})
    said = "there is no run yet" if run_id is None else "this is run 'another'"
    with pytest.raises(InvalidWorkflow, match=f"step 'top' is given <StepRef 7 .*{said}"):
        lower(composition, objects, run_id=run_id)
    with pytest.raises(InvalidWorkflow):
        composition.__weftline_graph__(objects, run_id)


def test_a_function_with_a_reference_in_it_keeps_its_object_held(
    objects: MemoryObjectStore,
) -> None:
    ref = put([1], objects)
    step = Step(lambda: ref, Options().merged({"name": "closed"}))
    assert ref.objects[0] in lower(step.step(), objects).objects


def test_inputs_of_all_kinds_survive_the_pages_of_a_graph(objects: MemoryObjectStore) -> None:
    ref = put([1], objects)
    low = named("low").step()
    lows = [named("low").step() for _ in range(3)]
    graph = lower(named("top").step(ref, StepRef("r", 7), low, lows), objects, run_id="r").graph
    inputs = (GivenInput(ref.packed), OuterInput(7), 1, [2, 3, 4])
    assert graph.steps[0].inputs == inputs
    _, pages = encode_pages(graph.steps)
    came = decode_pages(pages)
    assert came == list(graph.steps)
    assert came[0].inputs == inputs
    assert problems_of(Graph(steps=came, output=0)) == []


def test_another_process_reads_a_reference_and_what_it_refers_to(tmp_path: Path) -> None:
    store = LocalObjectStore(tmp_path)
    ref = put(Box([1, 2]), store)
    packed = encode([ref], store).packed
    script = (
        "import sys; from pathlib import Path\n"
        "from weftline.adapters.objects.local import LocalObjectStore\n"
        "from weftline.codecs.values import decode\n"
        "store = LocalObjectStore(Path(sys.argv[1]))\n"
        "ref, = decode(sys.argv[2].encode(), store)\n"
        "print(ref, decode(ref.packed, store).held)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path), packed.decode()]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert said == f"{ref} [1, 2]\n"

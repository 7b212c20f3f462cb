"""Ray Workflow's behaviour, row by row: virtual actors, one at a time.

Each test is named after its row in Ray's own suite (`test_virtual_actor.py` there).
"""

import json
from pathlib import Path
from typing import Any

import pytest

import weftline
from tests.e2e.conftest import PATIENCE_S, Gate, note, notes, pass_gate
from weftline import workflow
from weftline.app import home as opened_home

pytestmark = pytest.mark.usefixtures("home")


@workflow.virtual_actor
class Counter:
    """Counts, and can be looked at while it does."""

    def __init__(self, value: int) -> None:
        self.value = value

    def add(self, amount: int) -> int:
        self.value += amount
        return self.value

    def add_behind(self, gate: str, amount: int) -> int:
        pass_gate(gate, str(amount))
        return self.add(amount)

    @workflow.virtual_actor.readonly
    def get(self) -> int:
        return self.value

    @workflow.virtual_actor.readonly
    def get_behind(self, gate: str) -> int:
        pass_gate(gate)
        return self.value

    @workflow.virtual_actor.readonly
    def add_in_vain(self, amount: int) -> int:
        self.value += amount
        return self.value


def test_readonly_actor(run_id: str, gate: Gate) -> None:
    actor = Counter.get_or_create(run_id, 42)
    assert actor.ready().result(PATIENCE_S) is None
    assert actor.get.run() == 42
    assert actor.add_in_vain.run(1) == 43
    assert actor.get.run() == actor.get.run_async().result(PATIENCE_S) == 42
    handles = [actor.get_behind.run_async(gate.path) for _ in range(10)]
    gate.wait_for(10)  # all of them at the same time
    assert not any(handle.done() for handle in handles)
    gate.open(10)
    assert weftline.get(handles, timeout=PATIENCE_S) == [42] * 10
    assert opened_home().records.read(run_id).run.names == [
        "__init__"
    ]  # nothing was recorded of them


def test_actor_ready(run_id: str, gate: Gate) -> None:
    path = gate.path

    @workflow.virtual_actor
    class Slow:
        def __init__(self) -> None:
            pass_gate(path)
            self.value = 7

        @workflow.virtual_actor.readonly
        def get(self) -> int:
            return self.value

    actor = Slow.get_or_create(run_id)
    gate.wait_for()
    ready = actor.ready()
    with pytest.raises(workflow.VirtualActorNotInitializedError, match=r"ready\(\) waits"):
        actor.get.run()
    with pytest.raises(workflow.VirtualActorNotInitializedError):
        actor.get.run_async().result(PATIENCE_S)
    assert not ready.done()
    assert actor.actor_id == ready.workflow_id == run_id
    gate.open()
    assert ready.result(PATIENCE_S) is None
    assert actor.get.run() == 7


def test_actor_writer_1(run_id: str) -> None:
    actor = Counter.get_or_create(run_id, 0)
    assert [actor.add.run(1) for _ in range(5)] == [1, 2, 3, 4, 5]
    handles = [actor.add.run_async(1) for _ in range(5)]
    assert [handle.result(PATIENCE_S) for handle in reversed(handles)] == [10, 9, 8, 7, 6]
    assert actor.get.run() == 10
    assert workflow.get_actor(run_id).add.run(amount=90) == 100


def test_actor_writer_2(run_id: str, tmp_path: Path, gate: Gate) -> None:
    path, calls = gate.path, tmp_path / "calls"
    init_is_fine, call_is_fine = tmp_path / "init is fine", tmp_path / "call is fine"

    @workflow.virtual_actor
    class Fragile:
        def __init__(self) -> None:
            note(calls, "init")
            if not init_is_fine.exists():
                raise ValueError("init is broken")
            self.value = 0

        def add(self, amount: int) -> int:
            note(calls, f"add {amount}")
            self.value += amount
            if amount == 2 and not call_is_fine.exists():
                raise ValueError("call is broken")
            return self.value

        def add_behind(self, amount: int) -> int:
            pass_gate(path)
            return self.add(amount)

        @workflow.virtual_actor.readonly
        def get(self) -> int:
            return self.value

    # One whose __init__ fails: what was called, and what is called now, waits for a resume.
    actor = Fragile.get_or_create(run_id)
    queued = actor.add.run_async(100)
    with pytest.raises(ValueError, match="init is broken"):
        actor.ready().result(PATIENCE_S)
    with pytest.raises(ValueError, match="init is broken"):
        queued.result(PATIENCE_S)
    assert workflow.get_status(run_id) == "FAILED"
    with pytest.raises(ValueError, match="init is broken"):
        actor.add.run(1000)
    with pytest.raises(workflow.VirtualActorNotInitializedError):
        actor.get.run()
    init_is_fine.touch()
    assert workflow.resume(run_id).result(PATIENCE_S) == 1100
    assert workflow.get_status(run_id) == "SUCCESSFUL"
    assert actor.get.run() == 1100
    assert notes(calls) == ["init", "init", "add 100", "add 1000"]

    # One of whose methods fails: those before it count, those behind it wait.
    handles = [actor.add_behind.run_async(1), actor.add.run_async(2), actor.add.run_async(3)]
    gate.wait_for()
    assert workflow.get_status(run_id) == "RUNNING"
    assert actor.get.run() == 1100  # readers need not wait
    gate.open()
    assert handles[0].result(PATIENCE_S) == 1101
    for handle in handles[1:]:
        with pytest.raises(ValueError, match="call is broken"):
            handle.result(PATIENCE_S)
    assert workflow.get_status(run_id) == "FAILED"
    assert actor.get.run() == 1101
    call_is_fine.touch()
    assert workflow.resume(run_id).result(PATIENCE_S) == 1106
    assert actor.get.run() == 1106
    assert notes(calls)[4:] == ["add 1", "add 2", "add 2", "add 3"]


def test_writer_actor_pressure_test(run_id: str) -> None:
    actor = Counter.get_or_create(run_id, 0)
    handles = [actor.add.run_async(number) for number in range(1, 50)]
    assert handles[-1].result(PATIENCE_S) == 49 * 50 // 2
    assert [handle.result() for handle in handles] == [n * (n + 1) // 2 for n in range(1, 50)]
    assert actor.get.run() == 49 * 50 // 2


def test_default_getset(run_id: str) -> None:
    @workflow.virtual_actor
    class Plain:
        def __init__(self) -> None:
            self.listed: list[Any] = [1]

        def put(self, thing: Any) -> None:
            self.listed.append(thing)

        def spoil(self) -> None:
            self.listed.append({1, 2})

        @workflow.virtual_actor.readonly
        def get(self) -> list[Any]:
            return self.listed

    actor = Plain.get_or_create(run_id)
    actor.put.run({"deep": [None, True]})
    assert actor.get.run() == [1, {"deep": [None, True]}]
    with pytest.raises(TypeError, match=r"Plain is no JSON.*__getstate__ and __setstate__"):
        actor.spoil.run()
    assert actor.get.run() == [1, {"deep": [None, True]}]

    for name in ("__getstate__", "__setstate__"):
        lone = type("Lone", (), {name: lambda self, *state: None})
        with pytest.raises(ValueError, match="define both or none"):
            workflow.virtual_actor(lone)


def test_a_class_says_itself_what_its_state_is(run_id: str) -> None:
    @workflow.virtual_actor
    class Own:
        def __init__(self, numbers: set[int]) -> None:
            self.numbers, self.calls = numbers, 0

        def __getstate__(self) -> Any:
            return sorted(self.numbers)

        def __setstate__(self, state: Any) -> None:
            self.numbers, self.calls = set(state), 0

        def put(self, number: int) -> int:
            self.calls += 1
            self.numbers.add(number)
            return self.calls

        @workflow.virtual_actor.readonly
        def get(self) -> tuple[set[int], int]:
            return self.numbers, self.calls

    actor = Own.get_or_create(run_id, {1})
    assert [actor.put.run(2), actor.put.run(3)] == [1, 1]
    assert actor.get.run() == ({1, 2, 3}, 0)


# -- what else is said of virtual actors --------------------------------------------------------


def test_classes_and_methods_are_not_called_directly(run_id: str) -> None:
    with pytest.raises(TypeError, match=r"\.get_or_create"):
        Counter(1)
    with pytest.raises(TypeError, match="cannot be called directly"):
        Counter.add(1)  # type: ignore[call-arg, arg-type]
    actor = Counter.get_or_create(run_id, 1)
    for method in (actor.add, actor.get):
        with pytest.raises(TypeError, match=r"\.run\("):
            method(1)


def test_arguments_are_checked_at_once(run_id: str) -> None:
    with pytest.raises(TypeError, match="missing a required argument"):
        Counter.get_or_create(run_id)
    with pytest.raises(workflow.WorkflowNotFoundError):
        workflow.get_status(run_id)
    actor = Counter.get_or_create(run_id, 1)
    for call in (actor.add.run, actor.add.run_async, actor.get_behind.run):
        with pytest.raises(TypeError, match="missing a required argument"):
            call()
    with pytest.raises(AttributeError, match="has no method 'ad'"):
        actor.ad.run()


def test_an_actor_is_made_once(run_id: str) -> None:
    assert Counter.get_or_create(run_id, 1).add.run(1) == 2
    assert Counter.get_or_create(run_id, 100).add.run(1) == 3


def test_the_id_of_a_plain_run_is_no_actor(run_id: str) -> None:
    @workflow.step
    def one() -> int:
        return 1

    one.step().run(run_id)
    for find in (workflow.get_actor, lambda actor_id: Counter.get_or_create(actor_id, 1)):
        with pytest.raises(ValueError, match="is no virtual actor"):
            find(run_id)
    with pytest.raises(workflow.WorkflowNotFoundError):
        workflow.get_actor("nobody")


def test_a_handle_on_an_actor_cannot_be_passed_on(run_id: str) -> None:
    actor = Counter.get_or_create(run_id, 1)

    @workflow.step
    def use(given: Any) -> Any:
        return given

    for given in (actor, [actor]):
        with pytest.raises(ValueError, match="pass its actor_id"):
            use.step(given).run()
    with pytest.raises(ValueError, match="pass its actor_id"):
        actor.add.run(actor)


def test_a_readonly_method_may_not_return_steps(run_id: str) -> None:
    @workflow.step
    def one() -> int:
        return 1

    @workflow.virtual_actor
    class Reader:
        def __init__(self) -> None: ...

        @workflow.virtual_actor.readonly
        def get(self) -> Any:
            return one.step()

        @workflow.virtual_actor.readonly
        def compose(self) -> Any:
            return self.get.step()  # type: ignore[attr-defined]

    actor = Reader.get_or_create(run_id)
    actor.ready().result(PATIENCE_S)
    with pytest.raises(TypeError, match="read-only and returned steps"):
        actor.get.run()
    with pytest.raises(TypeError, match="it is no step"):
        actor.compose.run()


def test_options_of_a_method_are_those_of_a_step(run_id: str, tmp_path: Path) -> None:
    tries = tmp_path / "tries"

    @workflow.virtual_actor
    class Unstable:
        def __init__(self) -> None:
            self.value = 0

        def add(self, good_try: int) -> int:
            self.value += 1
            note(tries)
            if len(notes(tries)) < good_try:
                raise ValueError("not yet")
            return self.value

    actor = Unstable.get_or_create(run_id)
    pair = actor.add.options(catch_exceptions=True).run(2)
    assert str(pair) == "(None, ValueError('not yet'))"  # tried once, by default
    assert actor.add.options(max_retries=3).run(3) == 1  # a failed try leaves no state behind
    assert len(notes(tries)) == 3
    with pytest.raises(ValueError, match="max_retries"):
        actor.add.options(max_retries=0)


def test_an_error_shows_the_method_and_nothing_of_ours(run_id: str) -> None:
    @workflow.virtual_actor
    class Broken:
        def __init__(self) -> None: ...

        def fail(self) -> None:
            raise LookupError("nothing there")

    with pytest.raises(LookupError, match="nothing there") as caught:
        Broken.get_or_create(run_id).fail.run()
    (shown,) = [text for text in caught.value.__notes__ if text.startswith("In the step:")]
    assert "in fail" in shown
    assert "weftline/" not in shown


def test_what_a_caller_gives_may_be_steps(run_id: str) -> None:
    @workflow.step
    def three() -> int:
        return 3

    actor = Counter.get_or_create(run_id, 0)
    assert actor.add.run(three.step()) == 3
    assert actor.add.run(weftline.put(4)) == 7


def test_methods_are_plain_functions() -> None:
    class Later:
        async def add(self) -> None: ...

    with pytest.raises(TypeError, match="coroutine function"):
        workflow.virtual_actor(Later)


def test_results_of_calls_long_past_can_still_be_asked_for(run_id: str) -> None:
    actor = Counter.get_or_create(run_id, 0)
    handles = [actor.add.run_async(1) for _ in range(300)]
    assert handles[-1].result(PATIENCE_S) == 300
    assert actor.add.run(1) == 301  # by now those before it are laid down
    assert [handles[at].result(PATIENCE_S) for at in (0, 1, 298, 299)] == [1, 2, 299, 300]
    assert workflow.get_output(run_id, name="add").result(PATIENCE_S) == 1
    assert workflow.get_output(run_id, name="add_299").result(PATIENCE_S) == 300
    assert workflow.get_metadata(run_id, "add_7")["name"] == "add_7"
    assert actor.ready().result(PATIENCE_S) is None
    assert actor.add.run(1) == 302


def test_an_actor_of_another_process_is_the_same(run_id: str, gate: Gate) -> None:
    @workflow.step
    def elsewhere(actor_id: str) -> Any:
        actor = workflow.get_actor(actor_id)
        return actor.add.run(1), Counter.get_or_create(actor_id, 0).add.run(1), actor.get.run()

    Counter.get_or_create(run_id, 10)
    assert elsewhere.step(run_id).run() == (11, 12, 12)


def test_a_state_is_a_value_as_any_other(run_id: str) -> None:
    @workflow.virtual_actor
    class Large:
        def __init__(self) -> None:
            self.text = "x" * 1_000_000

        def size(self) -> int:
            return len(self.text)

        @workflow.virtual_actor.readonly
        def first(self) -> str:
            return json.dumps(self.text[:2])

    actor = Large.get_or_create(run_id)
    assert actor.size.run() == 1_000_000
    assert actor.first.run() == '"xx"'


def test_a_canceled_actor_goes_on_when_it_is_resumed(run_id: str, gate: Gate) -> None:
    actor = Counter.get_or_create(run_id, 0)
    handles = [actor.add_behind.run_async(gate.path, 1), actor.add.run_async(10)]
    gate.wait_for()
    workflow.cancel(run_id)
    assert workflow.get_status(run_id) == "CANCELED"
    for handle in handles:
        with pytest.raises(workflow.WorkflowCanceledError):
            handle.result(PATIENCE_S)
    assert actor.get.run() == 0
    gate.open()
    assert workflow.resume(run_id).result(PATIENCE_S) == 11
    assert actor.get.run() == 11


def test_an_actor_can_be_deleted_and_made_anew(run_id: str) -> None:
    actor = Counter.get_or_create(run_id, 0)
    assert actor.add.run(5) == 5
    workflow.delete(run_id)
    with pytest.raises(workflow.WorkflowNotFoundError):
        actor.add.run(5)
    assert Counter.get_or_create(run_id, 0).add.run(1) == 1

"""CPUs, GPUs and resources: what is asked for, what is there, and who gets it when."""

import os
from typing import Any

import pytest

from tests.e2e.conftest import (
    CPUS,
    GPUS,
    PATIENCE_S,
    Gate,
    Scripts,
    in_background,
    pass_gate,
)
from weftline import workflow


@workflow.step
def stand(gate: str, who: str) -> str:
    """At the gate, for as long as the test wants."""
    pass_gate(gate, who)
    return who


@workflow.step
def gather(names: list[str]) -> list[str]:
    return names


@workflow.step(num_cpus=0)
def nothing() -> None:
    pass


def in_lock_step(gate: Gate, step: Any, count: int, at_once: int) -> None:
    """`count` steps come to the gate, and never more than `at_once` stand there.

    Whether one more has come is asked after a whole run without CPUs went through the engine, which
    had every opportunity to start another step before that.
    """
    names = [str(number) for number in range(count)]
    run = in_background(gather.step([step.step(gate.path, name) for name in names]).run)
    seen = gate.wait_for(min(at_once, count))
    for _ in range(count - at_once):
        nothing.step().run()
        assert gate.nobody_else()
        gate.open()
        seen += gate.wait_for()
    gate.open(at_once)
    assert run.result(PATIENCE_S) == names
    assert sorted(seen) == sorted(names)


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    ("options", "at_once"),
    [
        ({}, CPUS),
        ({"num_cpus": 2}, CPUS // 2),
        ({"num_cpus": 1.5}, 2),
        ({"num_cpus": CPUS}, 1),
        ({"num_cpus": 0, "resources": {"licence": 1}}, 2),
        ({"num_cpus": 0.5, "resources": {"licence": 0.5}}, 4),
        ({"num_cpus": 0, "num_gpus": 1}, GPUS),
        ({"num_cpus": 0, "num_gpus": 0.5}, 2 * GPUS),
    ],
    ids=str,
)
def test_no_more_steps_run_at_once_than_there_are_slots(
    gate: Gate, options: dict[str, Any], at_once: int
) -> None:
    in_lock_step(gate, stand.options(**options), at_once + 2, at_once)


@pytest.mark.usefixtures("home")
def test_steps_without_cpus_do_not_wait_for_any(gate: Gate) -> None:
    steps = [stand.step(gate.path, str(number)) for number in range(CPUS)]
    free = [stand.options(num_cpus=0).step(gate.path, f"free {number}") for number in range(4)]
    run = in_background(gather.step([*steps, *free]).run)
    assert len(gate.wait_for(CPUS + 4)) == CPUS + 4
    gate.open(CPUS + 4)
    assert len(run.result(PATIENCE_S)) == CPUS + 4


def test_two_declared_cpus_are_two_steps_at_once(scripts: Scripts, gate: Gate) -> None:
    driver = scripts.start(
        """
        import sys
        from weftline import workflow

        gate = sys.argv[1]
        workflow.init(num_cpus=2)

        @workflow.step
        def stand(number):
            pass_gate(gate, str(number))
            return number

        @workflow.step
        def gather(numbers):
            return numbers

        print(gather.step([stand.step(number) for number in range(5)]).run())
        """,
        gate.path,
    )
    seen = gate.wait_for(2)
    for _ in range(3):
        assert gate.nobody_else()
        gate.open()
        seen += gate.wait_for()
    gate.open(2)
    assert scripts.end(driver)[0] == "[0, 1, 2, 3, 4]\n"
    assert sorted(seen) == list("01234")


# -- asking for too much ------------------------------------------------------------------------


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"num_cpus": CPUS + 1}, f"num_cpus={CPUS + 1} .* have {CPUS}"),
        ({"num_gpus": GPUS + 1}, f"num_gpus={GPUS + 1} .* have {GPUS}"),
        ({"num_gpus": 1.5}, "num_gpus=1.5"),
        ({"resources": {"licence": 3}}, "3 of the resource 'licence' .* have 2"),
        ({"resources": {"unheard": 1}}, "1 of the resource 'unheard' .* have 0"),
    ],
    ids=str,
)
def test_more_than_there_is_is_refused_at_submission(
    run_id: str, options: dict[str, Any], said: str
) -> None:
    greedy = nothing.options(name="greedy", **options)
    with pytest.raises(ValueError, match=f"step 'greedy' asks for {said}"):
        gather.step([greedy.step()]).run(run_id)
    with pytest.raises(workflow.WorkflowNotFoundError):
        workflow.get_status(run_id)


@pytest.mark.usefixtures("home")
def test_more_than_there_is_is_refused_of_a_returned_step_too(run_id: str) -> None:
    greedy = nothing.options(name="greedy", num_cpus=CPUS + 1)

    @workflow.step
    def parent() -> Any:
        return greedy.step()

    with pytest.raises(ValueError) as submitted:
        greedy.step().run()
    with pytest.raises(ValueError) as returned:
        parent.step().run(run_id)
    assert type(returned.value) is type(submitted.value)
    assert str(returned.value) == str(submitted.value)
    assert workflow.get_status(run_id) == "FAILED"

    value, error = parent.options(catch_exceptions=True).step().run()
    assert value is None
    assert str(error) == str(submitted.value)


# -- GPUs ---------------------------------------------------------------------------------------


@workflow.step
def devices(gate: str | None = None) -> str | None:
    found = os.environ.get("CUDA_VISIBLE_DEVICES")
    if gate is not None:
        pass_gate(gate, found or "none")
    return found


@pytest.mark.usefixtures("home")
def test_steps_with_gpus_see_theirs_and_no_other(gate: Gate) -> None:
    one = devices.options(num_gpus=1)
    run = in_background(gather.step([one.step(gate.path) for _ in range(2)]).run)
    assert sorted(gate.wait_for(2)) == ["0", "1"]
    gate.open(2)
    assert sorted(run.result(PATIENCE_S)) == ["0", "1"]

    assert devices.options(num_gpus=2).step().run() == "0,1"

    half = devices.options(num_gpus=0.5)
    run = in_background(gather.step([half.step(gate.path) for _ in range(4)]).run)
    assert sorted(gate.wait_for(4)) == ["0", "0", "1", "1"]
    gate.open(4)
    run.result(PATIENCE_S)


def test_gpus_go_by_the_ids_that_the_driver_sees(scripts: Scripts) -> None:
    said = scripts.run(
        """
        import os
        from weftline import workflow

        @workflow.step(num_gpus=1)
        def devices():
            return os.environ["CUDA_VISIBLE_DEVICES"]

        @workflow.step
        def both(one, other):
            return sorted([one, other])

        @workflow.step(num_gpus=2)
        def all_of_them():
            return os.environ["CUDA_VISIBLE_DEVICES"]

        print(devices.step().run() in ("4", "GPU-abc"), all_of_them.step().run())
        print(os.environ["CUDA_VISIBLE_DEVICES"])
        """,
        variables={"CUDA_VISIBLE_DEVICES": "4,GPU-abc"},
    )
    assert said == "True 4,GPU-abc\n4,GPU-abc\n"


def test_what_a_machine_has_can_be_declared_by_variables(scripts: Scripts) -> None:
    said = scripts.run(
        """
        from weftline import workflow

        @workflow.step
        def nothing():
            return "fits"

        print(nothing.options(num_cpus=7, num_gpus=3, resources={"licence": 5}).step().run())
        for options in ({"num_cpus": 8}, {"num_gpus": 4}, {"resources": {"licence": 6}}):
            try:
                nothing.options(**options).step().run()
            except ValueError as error:
                print(type(error).__name__)
        """,
        variables={
            "WEFTLINE_NUM_CPUS": "7",
            "WEFTLINE_NUM_GPUS": "3",
            "WEFTLINE_RESOURCES": '{"licence": 5}',
        },
    )
    assert said == "fits\n" + "ResourcesUnavailable\n" * 3


def test_gpus_and_resources_are_of_the_machine_not_of_one_process(
    scripts: Scripts, gate: Gate
) -> None:
    source = """
        import os
        import sys
        from weftline import workflow

        gate = sys.argv[1]
        workflow.init(num_cpus=4, num_gpus=2, resources={"licence": 1})

        @workflow.step(num_cpus=0, num_gpus=1)
        def on_gpu():
            pass_gate(gate, os.environ["CUDA_VISIBLE_DEVICES"])

        @workflow.step(num_cpus=0)
        def done(*_):
            return "done"

        print(done.step(on_gpu.step()).run())
        """
    drivers = [scripts.start(source, gate.path) for _ in range(2)]
    assert sorted(gate.wait_for(2)) == ["0", "1"]
    gate.open(2)
    assert [scripts.end(driver)[0] for driver in drivers] == ["done\n"] * 2

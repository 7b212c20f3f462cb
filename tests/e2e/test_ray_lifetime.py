"""Ray Workflow's behaviour, row by row: what becomes of a run when its driver ends.

Each test is named after its row in Ray's own suite (`test_lifetime.py` there). A chosen departure:
only a run of `run_async` goes on without its driver; one of `.run()` is driven by its caller, and
is RESUMABLE without it.
"""

import pytest

from tests.e2e.conftest import Gate, Scripts, controller_of, kill_controller, notes

CHAIN = """
    import sys
    import threading
    from weftline import WeftlineError, workflow

    how, counter, gate, end = sys.argv[1:]

    @workflow.step
    def link(number):
        note(counter, str(number))
        if number == 5:
            pass_gate(gate)
        return number + 1

    chain = 0
    for _ in range(10):
        chain = link.step(chain)

    def drive():
        try:
            chain.run("chain")
        except WeftlineError as error:
            print(error)

    if how == "run_async":
        chain.run_async("chain")
    else:
        threading.Thread(target=drive, daemon=True).start()
    pass_gate(end)
    """

ASK = """
    from weftline import workflow

    print(workflow.get_output("chain").result(), workflow.get_status("chain"))
    """

GO_ON = """
    from weftline import workflow

    print(workflow.get_status("chain"))
    print(workflow.resume("chain").result())
    print(workflow.get_output("chain").result(), workflow.get_status("chain"))
    """

WENT_ON = "RESUMABLE\n10\n10 SUCCESSFUL\n"


def test_workflow_lifetime_1(scripts: Scripts, gate: Gate) -> None:
    counter, end = scripts.folder / "counter", Gate(scripts.folder / "end")
    driver = scripts.start(CHAIN, "run_async", counter, gate.path, end.path)
    gate.wait_for()
    end.open()
    scripts.end(driver)
    gate.open()
    assert scripts.run(ASK) == "10 SUCCESSFUL\n"
    assert notes(counter) == [str(number) for number in range(10)]


def test_workflow_lifetime_2(scripts: Scripts, gate: Gate) -> None:
    counter, end = scripts.folder / "counter", Gate(scripts.folder / "end")
    driver = scripts.start(CHAIN, "run_async", counter, gate.path, end.path)
    gate.wait_for()
    driver.kill()
    driver.wait()
    gate.open()
    assert scripts.run(ASK) == "10 SUCCESSFUL\n"
    assert notes(counter) == [str(number) for number in range(10)]


def test_a_killed_controller_is_replaced_by_the_next_call(scripts: Scripts, gate: Gate) -> None:
    counter, end = scripts.folder / "counter", Gate(scripts.folder / "end")
    driver = scripts.start(CHAIN, "run_async", counter, gate.path, end.path)
    gate.wait_for()
    end.open()
    scripts.end(driver)
    kill_controller(scripts.home)
    assert controller_of(scripts.home) is None
    gate.open()
    said = scripts.run(
        """
        from weftline import workflow

        @workflow.step
        def other():
            return "another run"

        print(other.step().run_async().result())
        print(workflow.get_output("chain").result(), workflow.get_status("chain"))
        """
    )
    assert said == "another run\n10 SUCCESSFUL\n"
    assert notes(counter) == list("01234556789")  # what was running ran once more


@pytest.mark.parametrize("end_of_driver", ["ends", "is killed"])
def test_a_run_without_its_driver_is_resumable(
    scripts: Scripts, gate: Gate, end_of_driver: str
) -> None:
    counter, end = scripts.folder / "counter", Gate(scripts.folder / "end")
    driver = scripts.start(CHAIN, "run", counter, gate.path, end.path)
    gate.wait_for()
    if end_of_driver == "ends":
        end.open()
        scripts.end(driver)
    else:
        driver.kill()
        driver.wait()
    gate.open(2)  # the one that was ended may still take one
    assert scripts.run(GO_ON) == WENT_ON
    assert sorted(notes(counter)) == sorted("01234556789")

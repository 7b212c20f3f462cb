"""Ray Workflow's behaviour, row by row: what becomes of a run when its driver ends.

Each test is named after its row in Ray's own suite (`test_lifetime.py` there). A chosen departure:
a run of `.run()` does not go on without its driver; it is RESUMABLE, and another one goes on.
"""

from tests.e2e.conftest import Gate, Scripts, notes

CHAIN = """
    import sys
    import threading
    from weftline import WeftlineError, workflow

    counter, gate, end = sys.argv[1:]

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

    threading.Thread(target=drive, daemon=True).start()
    pass_gate(end)
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
    driver = scripts.start(CHAIN, counter, gate.path, end.path)
    gate.wait_for()
    end.open()
    scripts.end(driver)
    gate.open(2)  # the one that was ended may still take one
    assert scripts.run(GO_ON) == WENT_ON
    assert sorted(notes(counter)) == sorted("01234556789")


def test_workflow_lifetime_2(scripts: Scripts, gate: Gate) -> None:
    counter, end = scripts.folder / "counter", Gate(scripts.folder / "end")
    driver = scripts.start(CHAIN, counter, gate.path, end.path)
    gate.wait_for()
    driver.kill()
    driver.wait()
    gate.open(2)  # the one that was ended may still take one
    assert scripts.run(GO_ON) == WENT_ON
    assert sorted(notes(counter)) == sorted("01234556789")

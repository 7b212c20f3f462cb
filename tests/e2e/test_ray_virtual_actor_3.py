"""Ray Workflow's behaviour, row by row: several actors, and chains of methods.

Each test is named after its row in Ray's own suite (`test_virtual_actor_3.py` there).
"""

from pathlib import Path
from typing import Any

import pytest

import weftline
from tests.e2e.conftest import PATIENCE_S, Gate, Scripts, kill_controller, notes, pass_gate
from weftline import workflow


@workflow.virtual_actor
class Account:
    def __init__(self, balance: int) -> None:
        self.balance = balance

    def deposit(self, amount: int) -> int:
        self.balance += amount
        return self.balance

    def withdraw(self, amount: int) -> int:
        if amount > self.balance:
            raise ValueError(f"only {self.balance} left")
        self.balance -= amount
        return self.balance

    @workflow.virtual_actor.readonly
    def get(self) -> int:
        return self.balance


@pytest.mark.usefixtures("home")
def test_writer_actor_pressure_test(run_id: str) -> None:
    one = Account.get_or_create(f"{run_id} one", 100)
    other = Account.get_or_create(f"{run_id} other", 0)
    handles = []
    for amount in (10, 20, 30, 40):
        handles.append(one.withdraw.run_async(amount))
        handles.append(other.deposit.run_async(amount))
    order = [6, 1, 7, 0, 3, 5, 2, 4]  # asked out of order
    expected = [90, 10, 70, 30, 40, 60, 0, 100]
    found = weftline.get([handles[at] for at in order], timeout=PATIENCE_S)
    assert found == [expected[at] for at in order]
    assert (one.get.run(), other.get.run()) == (0, 100)
    with pytest.raises(ValueError, match="only 0 left"):
        one.withdraw.run(1)
    assert other.deposit.run(1) == 101  # another actor does not mind


@pytest.mark.usefixtures("home")
def test_wf_in_actor_chain(run_id: str, gate: Gate, tmp_path: Path) -> None:
    path, mended = gate.path, tmp_path / "mended"

    @workflow.virtual_actor
    class Climber:
        def __init__(self) -> None:
            self.height = 0

        def climb(self, left: int) -> Any:
            pass_gate(path, str(left))
            if left == 3 and not mended.exists():
                raise ValueError("the rope broke")
            self.height += 1
            if left == 0:
                return "the top"
            return self.climb.step(left - 1)  # type: ignore[attr-defined]

        @workflow.virtual_actor.readonly
        def get(self) -> int:
            return self.height

    actor = Climber.get_or_create(run_id)
    handle = actor.climb.run_async(5)
    for left in (5, 4):
        assert gate.wait_for() == [str(left)]
        assert actor.get.run() == 5 - left  # the state after each link
        assert workflow.get_status(run_id) == "RUNNING"
        gate.open()
    assert gate.wait_for() == ["3"]
    gate.open()
    with pytest.raises(ValueError, match="the rope broke"):
        handle.result(PATIENCE_S)
    assert workflow.get_status(run_id) == "FAILED"
    assert actor.get.run() == 2
    mended.touch()
    resumed = workflow.resume(run_id)
    gate.open(4)
    assert resumed.result(PATIENCE_S) == "the top"
    assert gate.wait_for(4) == ["3", "2", "1", "0"]  # from where it broke
    assert actor.get.run() == 6
    assert workflow.get_status(run_id) == "SUCCESSFUL"


def test_an_actor_goes_on_after_a_crash_with_what_was_called(scripts: Scripts, gate: Gate) -> None:
    source = """
        import sys
        from weftline import workflow

        counter, gate = sys.argv[1:]

        @workflow.virtual_actor
        class Account:
            def __init__(self):
                self.balance = 0

            def deposit(self, amount):
                note(counter, str(amount))
                if amount == 3:
                    pass_gate(gate)
                self.balance += amount
                return self.balance

            @workflow.virtual_actor.readonly
            def get(self):
                return self.balance

        account = Account.get_or_create("an account")
        for amount in range(1, 6):
            account.deposit.run_async(amount)
        """
    counter = scripts.folder / "counter"
    scripts.run(source, counter, gate.path)
    gate.wait_for()
    kill_controller(scripts.home)
    gate.open()
    said = scripts.run(
        """
        from weftline import workflow

        print(workflow.get_status("an account"))
        account = workflow.get_actor("an account")
        print(account.get.run())
        print(account.deposit.run(6), account.get.run())
        """
    )
    assert said == "RESUMABLE\n3\n21 21\n"
    assert notes(counter) == ["1", "2", "3", "3", "4", "5", "6"]


def test_an_actor_at_rest_lives_on_without_anybody(scripts: Scripts) -> None:
    scripts.write(
        """
        from weftline import workflow

        @workflow.virtual_actor
        class Counter:
            def __init__(self, value):
                self.value = value

            def add(self, amount):
                self.value += amount
                return self.value
        """,
        "counting.py",
    )
    source = """
        from counting import Counter

        print(Counter.get_or_create("a counter", 1).add.run(1))
        """
    for expected in (2, 3, 4):
        assert scripts.run(source) == f"{expected}\n"
        kill_controller(scripts.home)
    said = scripts.run('from weftline import workflow; print(workflow.get_status("a counter"))')
    assert said == "SUCCESSFUL\n"

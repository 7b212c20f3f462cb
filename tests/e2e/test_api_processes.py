"""Homes, processes and programs: how scripts of many kinds run workflows, also several at once."""

import json
import os
import signal
from pathlib import Path

import pytest

from tests.e2e.conftest import PACKAGE, Gate, Scripts, eventually, notes

# -- programs -----------------------------------------------------------------------------------


def test_a_script_needs_no_main_guard(scripts: Scripts) -> None:
    said = scripts.run(
        """
        from weftline import workflow

        note("imports of this script")

        @workflow.step
        def double(number):
            return 2 * number

        print(double.step(double.step(1)).run())
        """
    )
    assert said == "4\n"
    assert len(notes(scripts.folder / "imports of this script")) == 1


def test_a_program_on_stdin_or_the_command_line_runs_workflows(scripts: Scripts) -> None:
    source = """
        from weftline import workflow

        class Box:
            def __init__(self, number):
                self.number = number

        @workflow.step
        def box(number):
            return Box(number)

        @workflow.step
        def unbox(box):
            return Box(box.number + 1)

        print(type(unbox.step(box.step(1)).run()) is Box)
        """
    runner = """
        import sys
        import textwrap

        exec(compile(textwrap.dedent(sys.argv[1]), "<string>", "exec"))
        """
    assert scripts.run(runner, source) == "True\n"


MODULE = """
    from pathlib import Path
    from weftline import workflow

    def rate():
        return 1

    @workflow.step
    def fragile():
        if not Path("mended").exists():
            raise RuntimeError("broken")
        return "first version"

    @workflow.step
    def report(text):
        return f"{text}, rate {rate()}"

    composition = report.step(fragile.step())
    """

EDITED = MODULE.replace("first version", "edited").replace("return 1", "return 2")


def test_a_module_that_is_edited_between_run_and_resume(scripts: Scripts) -> None:
    scripts.write(MODULE, "person.py")
    begin = """
        import person

        for run_id in ("resumed", "run again", "untouched"):
            try:
                person.composition.run(run_id)
            except RuntimeError as error:
                print(error)
        """
    assert scripts.run(begin) == "broken\n" * 3
    scripts.write(EDITED, "person.py")
    (scripts.folder / "mended").touch()
    go_on = """
        import warnings
        from weftline import workflow

        print(workflow.resume("resumed").result())
        import person

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            print(person.composition.run("run again"))
            print(*(warning.message for warning in caught), sep="|")
        print(person.composition.run())
        """
    stored, again, warning, fresh = scripts.run(go_on).splitlines()
    assert stored == again == "first version, rate 1"
    assert "the code of step 'person.fragile' was edited" in warning
    assert "the code of step 'person.report' was edited" in warning
    assert "person.fragile" not in warning.partition("|")[2]
    assert fresh == "edited, rate 2"


def test_a_module_that_is_gone_when_its_run_is_resumed(scripts: Scripts) -> None:
    path = scripts.write(MODULE, "person.py")
    begin = """
        import person

        try:
            person.composition.run("an id")
        except RuntimeError as error:
            print(error)
        """
    assert scripts.run(begin) == "broken\n"
    path.unlink()
    (scripts.folder / "mended").touch()
    go_on = """
        from weftline import workflow

        print(workflow.resume("an id").result())
        """
    assert scripts.run(go_on) == "first version, rate 1\n"


def test_globals_that_cannot_be_pickled_make_a_function_travel_by_name(scripts: Scripts) -> None:
    scripts.write(
        """
        import threading
        from weftline import workflow

        LOCK = threading.Lock()

        @workflow.step
        def guarded(number):
            with LOCK:
                return number + 1
        """,
        "person.py",
    )
    said = scripts.run(
        """
        import warnings
        import person
        from weftline import workflow

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            print(person.guarded.step(person.guarded.step(1)).run("an id"))
        for warning in caught:
            print(warning.category.__name__, warning.message)
        """
    )
    value, *warnings = said.splitlines()
    assert value == "3"
    assert len(warnings) == 1
    assert warnings[0].startswith("UserWarning")
    assert "'guarded' of module 'person' goes by reference" in warnings[0]
    assert "'LOCK'" in warnings[0]


def test_a_package_with_relative_imports_travels_by_value(scripts: Scripts) -> None:
    package = scripts.folder / "person"
    package.mkdir()
    scripts.write("", "person/__init__.py")
    scripts.write(
        """
        RATES = {"low": 1}

        class Invoice:
            def __init__(self, amount):
                self.amount = amount

        def rate(kind):
            return RATES[kind]
        """,
        "person/rates.py",
    )
    scripts.write(
        """
        from pathlib import Path

        from weftline import workflow

        from . import rates
        from .rates import Invoice, rate

        @workflow.step
        def bill(kind):
            return Invoice(10 * rate(kind) + len(rates.RATES))

        @workflow.step
        def pay(invoice):
            if not Path("mended").exists():
                raise RuntimeError("broken")
            assert type(invoice) is Invoice
            return invoice
        """,
        "person/steps.py",
    )
    begin = """
        from person.rates import Invoice
        from person.steps import bill, pay
        from weftline import workflow

        try:
            pay.step(bill.step("low")).run("an id")
        except RuntimeError as error:
            print(error)
        found = workflow.get_output("an id", name="person.steps.bill").result()
        print(type(found) is Invoice, found.amount)
        """
    assert scripts.run(begin) == "broken\nTrue 11\n"
    (scripts.folder / "mended").touch()
    package.rename(scripts.folder / "nobody")
    go_on = """
        from weftline import workflow

        found = workflow.resume("an id").result()
        print(type(found).__module__, type(found).__name__, found.amount)
        """
    assert scripts.run(go_on) == "person.rates Invoice 11\n"


def test_a_value_of_a_script_s_own_class_is_readable_elsewhere(scripts: Scripts) -> None:
    source = """
        from dataclasses import dataclass
        from weftline import workflow

        @dataclass
        class Point:
            x: int

            def doubled(self):
                return Point(2 * self.x)

        @workflow.step
        def make():
            return [Point(1)]

        (found,) = make.step().run("an id")
        print(found == Point(1), found.doubled())
        """
    for _ in range(2):  # the second time in a process of its own, from what is recorded
        assert scripts.run(source) == "True Point(x=2)\n"
    other = """
        from weftline import workflow

        (found,) = workflow.get_output("an id").result()
        print(found.x, found.doubled())
        """
    assert scripts.run(other) == "1 Point(x=2)\n"


# -- several processes --------------------------------------------------------------------------


def test_three_processes_use_one_home_at_once(scripts: Scripts, gate: Gate) -> None:
    source = """
        import sys
        from weftline import workflow

        number, gate = int(sys.argv[1]), sys.argv[2]

        @workflow.step
        def double(number):
            note("executions")
            return 2 * number

        @workflow.step
        def add(left, right):
            return left + right

        pass_gate(gate)
        found = []
        for n in range(50):
            value = number * 1000 + n
            found.append(add.step(double.step(value), 1).run(f"{number} {n}") == 2 * value + 1)
        print(len(found), all(found))
        """
    drivers = [scripts.start(source, number, gate.path) for number in range(3)]
    gate.wait_for(3)
    gate.open(3)
    for driver in drivers:
        assert scripts.end(driver)[0] == "50 True\n"
    look = """
        from weftline import workflow

        found = workflow.list_all()
        print(len(found), {status.value for _, status in found})
        values = [workflow.get_output(f"{p} {n}").result() for p in range(3) for n in range(50)]
        print(values == [2 * (p * 1000 + n) + 1 for p in range(3) for n in range(50)])
        """
    assert scripts.run(look) == "150 {'SUCCESSFUL'}\nTrue\n"
    assert len(notes(scripts.folder / "executions")) == 150


GATED = """
    import sys
    from weftline import workflow

    gate = sys.argv[1]

    @workflow.step(name="gated")
    def gated(number):
        note("executions")
        pass_gate(gate)
        return number + 1

    print(gated.step(gated.step(0)).run("an id"))
    """


def test_a_run_of_another_process_is_seen_and_respected(scripts: Scripts, gate: Gate) -> None:
    driver = scripts.start(GATED, gate.path)
    gate.wait_for()
    look = """
        import sys
        from weftline import workflow

        print(workflow.get_status("an id"), workflow.list_all("RUNNING") == workflow.list_all())

        @workflow.step
        def other():
            return "other"

        for call in (workflow.resume, workflow.delete, other.step().run):
            try:
                call("an id")
            except workflow.WorkflowRunningError as error:
                print(error)
        handle = workflow.get_output("an id", name="gated_1")
        try:
            handle.result(timeout=0)
        except TimeoutError as error:
            print(error)
        pass_gate(sys.argv[1])
        print(handle.result(), workflow.get_output("an id").result())
        """
    gates = Gate(scripts.folder / "looking")
    looking = scripts.start(look, gates.path)
    gates.wait_for()
    gate.open(2)
    gates.open()
    said = scripts.end(looking)[0].splitlines()
    assert scripts.end(driver)[0] == "2\n"
    assert said[0] == "RUNNING True"
    assert said[1] == said[3] == "run 'an id' is running in another process"
    assert "cannot be deleted" in said[2]
    assert "'gated_1'" in said[4]
    assert said[5:] == ["1 2"]
    assert len(notes(scripts.folder / "executions")) == 2


def test_one_of_two_processes_that_start_the_same_id_runs_it(scripts: Scripts, gate: Gate) -> None:
    source = """
        import sys
        from weftline import workflow

        gate, start = sys.argv[1:]

        @workflow.step
        def once():
            note("executions")
            pass_gate(gate)
            return "ran"

        workflow.list_all()
        pass_gate(start)
        try:
            print(once.step().run("an id"))
        except workflow.WorkflowRunningError:
            print("refused")
            pass_gate(gate, "refused")
        """
    start = Gate(scripts.folder / "start")
    drivers = [scripts.start(source, gate.path, start.path) for _ in range(2)]
    start.wait_for(2)
    start.open(2)
    assert "refused" in gate.wait_for(2)
    gate.open(2)
    assert sorted(scripts.end(driver)[0] for driver in drivers) == ["ran\n", "refused\n"]
    assert len(notes(scripts.folder / "executions")) == 1


def test_a_killed_driver_leaves_no_process_and_no_lock(scripts: Scripts, gate: Gate) -> None:
    driver = scripts.start(GATED, gate.path)
    gate.wait_for()
    driver.kill()
    driver.wait()
    said = scripts.run(
        """
        import sys
        from weftline import workflow

        print(workflow.get_status("an id"))
        try:
            workflow.get_output("an id")
        except ValueError as error:
            print(error)
        pass_gate(sys.argv[1])
        print(workflow.resume("an id").result())
        """,
        opened(scripts, gate),
    )
    assert said.splitlines() == [
        "RESUMABLE",
        "run 'an id' is RESUMABLE and has no result: resume it first",
        "2",
    ]


def test_an_interrupt_leaves_the_run_resumable(scripts: Scripts, gate: Gate) -> None:
    driver = scripts.start(
        """
        import signal
        import sys
        from weftline import workflow

        gate = sys.argv[1]
        signal.signal(signal.SIGINT, signal.default_int_handler)

        @workflow.step(name="gated")
        def gated(number):
            note("executions")
            note("processes", str(os.getpid()))
            pass_gate(gate)
            return number + 1

        try:
            gated.step(gated.step(0)).run("an id")
        except KeyboardInterrupt as interrupt:
            print(workflow.get_status("an id"), *interrupt.__notes__)
        print(workflow.step(len).step([1]).run())
        """,
        gate.path,
    )
    gate.wait_for()
    gate.open()
    gate.wait_for()
    driver.send_signal(signal.SIGINT)
    assert scripts.end(driver)[0] == (
        "RESUMABLE Run 'an id' is RESUMABLE: workflow.resume('an id') goes on.\n1\n"
    )
    gate.open(2)
    go_on = """
        from weftline import workflow

        print(workflow.resume("an id").result())
        """
    assert scripts.run(go_on) == "2\n"
    assert len(notes(scripts.folder / "executions")) == 3


def test_steps_and_what_they_started_end_with_their_driver(scripts: Scripts, gate: Gate) -> None:
    driver = scripts.start(
        """
        import subprocess
        import sys
        from weftline import workflow

        gate = sys.argv[1]

        @workflow.step
        def busy():
            sleeper = subprocess.Popen(["sleep", "1000"])
            note("processes", str(os.getpid()))
            note("processes", str(sleeper.pid))
            pass_gate(gate)

        busy.step().run("an id")
        """,
        gate.path,
    )
    gate.wait_for()
    child, sleeper = map(int, notes(scripts.folder / "processes"))
    driver.kill()
    driver.wait()
    eventually(lambda: not is_running(child), "the child has ended")
    # What a step started lives on until somebody takes the run over, who ends it first.
    gate.open(2)
    go_on = """
        from weftline import workflow

        print(workflow.resume("an id").result())
        """
    assert scripts.run(go_on) == "None\n"
    assert not is_running(sleeper)


def is_running(process: int) -> bool:
    """Whether the process exists, other than as an entry that nobody has collected yet."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


FAILING = """
    import sys
    import time
    from weftline import workflow

    gate, end = sys.argv[1:]

    @workflow.step(name="sibling")
    def sibling():
        note("executions", "sibling")
        pass_gate(gate)
        return "sibling"

    @workflow.step(name="fragile")
    def fragile():
        note("executions", "fragile")
        if not Path("mended").exists():
            raise ValueError("broken")
        return "mended"

    @workflow.step(name="both")
    def both(*parts):
        return parts

    try:
        both.step(sibling.step(), fragile.step()).run("an id")
    except ValueError as error:
        print(error)
    pass_gate(end)
    while workflow.get_metadata("an id", "sibling")["status"] != "SUCCESSFUL":
        time.sleep(0.005)
    print("recorded", flush=True)
    pass_gate(end)
    print(workflow.get_output("an id").result(), workflow.get_status("an id"))
    """


def test_a_failed_run_can_be_taken_over_while_its_old_driver_finishes_a_sibling(
    scripts: Scripts, gate: Gate
) -> None:
    end = Gate(scripts.folder / "end")
    old = scripts.start(FAILING, gate.path, end.path)
    gate.wait_for()
    end.wait_for()
    (scripts.folder / "mended").touch()
    go_on = """
        from weftline import workflow

        print(workflow.resume("an id").result())
        """
    new = scripts.start(go_on)
    gate.wait_for()  # the sibling runs a second time: what the old driver finds is refused
    gate.open(2)
    assert scripts.end(new)[0] == "('sibling', 'mended')\n"
    end.open(2)
    out, _ = scripts.end(old, quiet=False)
    assert out == "broken\nrecorded\n('sibling', 'mended') SUCCESSFUL\n"
    assert sorted(notes(scripts.folder / "executions")) == [*["fragile"] * 2, *["sibling"] * 2]


def test_a_run_that_changes_while_it_is_taken_over_is_read_again(
    scripts: Scripts, gate: Gate
) -> None:
    end, reading = Gate(scripts.folder / "end"), Gate(scripts.folder / "reading")
    old = scripts.start(FAILING, gate.path, end.path)
    gate.wait_for()
    end.wait_for()
    (scripts.folder / "mended").touch()
    new = scripts.start(
        """
        import sys
        import weftline.app
        from weftline import workflow

        def read_and_wait(run_id):
            found = read(run_id)
            pass_gate(sys.argv[1])
            return found

        app = weftline.app.home()
        read, app.records.read = app.records.read, read_and_wait
        print(app.results.result_of("an id", app.attached.proceed("an id").wait()))
        """,
        reading.path,
    )
    reading.wait_for()
    gate.open()
    end.open()
    assert old.stdout is not None
    assert [old.stdout.readline() for _ in range(2)] == ["broken\n", "recorded\n"]
    reading.open(8)
    assert scripts.end(new)[0] == "('sibling', 'mended')\n"
    end.open()
    assert scripts.end(old, quiet=False)[0] == "('sibling', 'mended') SUCCESSFUL\n"
    assert sorted(notes(scripts.folder / "executions")) == ["fragile", "fragile", "sibling"]


def opened(scripts: Scripts, gate: Gate) -> str:
    """A gate that lets through at once; opens the other one as well."""
    gate.open(3)
    made = Gate(scripts.folder / "opened")
    made.open()
    return made.path


def test_a_forked_process_can_run_workflows(scripts: Scripts) -> None:
    said = scripts.run(
        """
        import os
        import sys
        from weftline import workflow

        workflow.init(num_cpus=2)

        @workflow.step
        def double(number):
            return 2 * number

        print(double.step(1).run("before"), flush=True)
        child = os.fork()
        if child == 0:
            print(double.step(double.step(1)).run("in the fork"), flush=True)
            print(workflow.get_output("before").result(), flush=True)
            sys.exit(3)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        print(double.step(4).run("after"), workflow.get_output("in the fork").result())
        print(sorted(workflow.list_all()) == [
            (name, workflow.SUCCESSFUL) for name in ("after", "before", "in the fork")
        ])
        """,
        strict=False,  # newer Pythons warn of forks in a process with threads
    )
    assert said == "2\n4\n2\n3\n8 4\nTrue\n"


def test_an_engine_that_fails_takes_no_later_run_with_it(scripts: Scripts) -> None:
    said = scripts.run(
        """
        import threading
        from weftline import workflow
        from weftline.adapters.journal.sqlite import SqliteJournal

        @workflow.step
        def one():
            return 1

        def fail(journal, batch):
            raise ZeroDivisionError("of a test")

        print(one.step().run("before"))
        threading.excepthook = lambda args: None
        commit, SqliteJournal.commit = SqliteJournal.commit, fail
        try:
            one.step().run("an id")
        except Exception as error:
            print(error)
        SqliteJournal.commit = commit
        print(one.step().run("an id"), one.step().run("after"), workflow.list_all("RUNNING"))
        """
    )
    assert said == "1\nthe engine failed: ZeroDivisionError: of a test\n1 1 []\n"


# -- homes --------------------------------------------------------------------------------------


def test_a_home_in_memory(scripts: Scripts) -> None:
    said = scripts.run(
        """
        from weftline import workflow

        workflow.init(storage="memory://")

        @workflow.step
        def count(number):
            return count.step(number + 1) if number < 10 else [number]

        print(count.step(0).run("an id"), workflow.get_output("an id").result())
        print(workflow.list_all(), workflow.get_metadata("an id")["status"].value)
        workflow.delete("an id")
        print(workflow.list_all())
        """
    )
    assert said == "[10] [10]\n[('an id', <RunStatus.SUCCESSFUL: 'SUCCESSFUL'>)] SUCCESSFUL\n[]\n"
    assert not scripts.home.exists()


def test_database_and_objects_may_lie_apart(scripts: Scripts) -> None:
    said = scripts.run(
        """
        from weftline import workflow

        workflow.init(storage="large things", database="small things")

        @workflow.step
        def large():
            return "x" * 100_000

        print(len(large.step().run("an id")))
        """
    )
    assert said == "100000\n"
    assert (scripts.folder / "small things" / "weftline.db").exists()
    assert any((scripts.folder / "large things").rglob("[0-9a-f]" * 64))
    assert not any((scripts.folder / "small things").rglob("[0-9a-f]" * 64))


def test_what_was_declared_first_stays(scripts: Scripts) -> None:
    said = scripts.run(
        """
        import warnings
        from weftline import workflow

        workflow.init(num_cpus=2, resources={"licence": 1})
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            workflow.init(num_cpus=2)
        print(caught[0].category.__name__, caught[0].message)
        for declared in ({"num_cpus": 3}, {"executor": "inline", "resources": {"licence": 2}}):
            try:
                workflow.init(**declared)
            except RuntimeError as error:
                print(error)
        """
    )
    assert said.splitlines() == [
        "UserWarning workflow.init() was called before; calling it again does nothing",
        "workflow.init() was called before, and num_cpus cannot change afterwards",
        "workflow.init() was called before, and resources, executor cannot change afterwards",
    ]


def test_a_home_can_be_moved(scripts: Scripts) -> None:
    source = """
        from weftline import workflow

        @workflow.step(name="fragile")
        def fragile(text):
            if not Path("mended").exists():
                raise RuntimeError("broken")
            return len(text)

        @workflow.step
        def large():
            note("executions")
            return "x" * 100_000

        try:
            print(fragile.step(large.step()).run("an id"))
        except RuntimeError as error:
            print(error)
        """
    assert scripts.run(source) == "broken\n"
    scripts.home.rename(scripts.folder / "moved")
    (scripts.folder / "mended").touch()
    moved = str(scripts.folder / "moved")
    assert scripts.run(source, variables={"WEFTLINE_HOME": moved}) == "100000\n"
    assert len(notes(scripts.folder / "executions")) == 1


# -- output of steps ----------------------------------------------------------------------------

PRINTING = """
    import sys
    from weftline import workflow

    @workflow.step(name="talker")
    def talker():
        print("to stdout")
        print("two", "lines", sep="\\n")
        print("to stderr", file=sys.stderr)
        print("without an end", end="")

    @workflow.step(name="other")
    def other(_):
        print("from the other")

    other.step(talker.step()).run(quiet=len(sys.argv) > 1)
    """


def test_what_steps_print_comes_out_with_their_names(scripts: Scripts) -> None:
    out, err = scripts.end(scripts.start(PRINTING), quiet=False)
    assert out.splitlines() == [
        "(talker) to stdout",
        "(talker) two",
        "(talker) lines",
        "(talker) without an end",
        "(other) from the other",
    ]
    assert err == "(talker) to stderr\n"


def test_a_quiet_run_prints_nothing_of_its_steps(scripts: Scripts) -> None:
    assert scripts.end(scripts.start(PRINTING, "quiet"), quiet=True) == ("", "")


def test_output_comes_while_the_step_runs(scripts: Scripts, gate: Gate) -> None:
    driver = scripts.start(
        """
        import sys
        from weftline import workflow

        gate = sys.argv[1]

        @workflow.step(name="talker")
        def talker():
            print("before the gate")
            pass_gate(gate)
            print("behind it")

        talker.step().run()
        """,
        gate.path,
    )
    assert driver.stdout is not None
    assert driver.stdout.readline() == "(talker) before the gate\n"
    gate.wait_for()
    gate.open()
    assert scripts.end(driver)[0] == "(talker) behind it\n"


def test_a_child_that_starts_slowly_is_looked_after_like_any_other(scripts: Scripts) -> None:
    scripts.write(
        """
        import sys
        import time

        if "weftline.workers.child" in " ".join(sys.orig_argv):
            time.sleep(0.3)
        """,
        "sitecustomize.py",
    )
    said = scripts.run(
        """
        import time
        from weftline import workflow

        @workflow.step(timeout_s=0.2)
        def endless():
            time.sleep(1000)

        begun = time.monotonic()
        try:
            endless.step().run()
        except workflow.StepTimeoutError:
            print(time.monotonic() - begun < 30)
        """,
        variables={"PYTHONPATH": os.pathsep.join([str(scripts.folder), PACKAGE])},
    )
    assert said == "True\n"


# -- the same, whoever carries it out -----------------------------------------------------------

BEHAVIOURS = r"""
    import json
    import os
    import traceback
    from dataclasses import dataclass
    from typing import Any
    from weftline import workflow
    from weftline.errors import ResourcesUnavailable

    @dataclass
    class Point:
        x: int
        y: Any

    class Mine(Exception):
        def __init__(self, code):
            super().__init__(f"code {code}")
            self.code = code

    @workflow.step
    def plus_one(number):
        return number + 1

    @workflow.step
    def explode():
        raise Mine(7)

    @workflow.step
    def down(levels):
        return plus_one.step(down.step(levels - 1)) if levels else 0

    @workflow.step
    def tail(levels):
        return tail.step(levels - 1) if levels else "ground"

    def raises(kind, call):
        try:
            call()
        except kind as error:
            return error
        raise AssertionError(f"no {kind.__name__}")

    def chain():
        assert plus_one.step(plus_one.step(1)).run() == 3

    def dynamic():
        assert down.step(30).run() == 30
        assert tail.step(100).run() == "ground"

    def shared():
        @workflow.step
        def make():
            note("made")
            return [1]

        @workflow.step
        def same(left, right, listed):
            return left is right is listed[0]

        one = make.step()
        assert same.step(one, one, [one, 2]).run() is True
        assert len(Path("made").read_text().splitlines()) == 1

    def copies():
        @workflow.step
        def spoil(values):
            values.append(2)
            return values

        mine = [1]
        made = spoil.step(mine)
        assert plus_len.step(made, spoil.step(made)).run() == [[1, 2], [1, 2, 2]]
        assert mine == [1]

    @workflow.step
    def plus_len(left, right):
        return [left, right]

    def types():
        @workflow.step
        def echo(value):
            return value

        for value in ((1, 2), Point(1, (2,)), {1}, {"a": [None]}, b"x", 2**70):
            found = echo.step(value).run()
            assert found == value
            assert type(found) is type(value)

    def errors():
        error = raises(Mine, explode.step().run)
        assert error.code == 7
        assert "explode" in error.__notes__[-1]

    def catching():
        @workflow.step(catch_exceptions=True)
        def careful():
            return plus_one.step(explode.step())

        value, error = careful.step().run()
        assert value is None
        assert type(error) is Mine

    def exits():
        @workflow.step
        def leave():
            raise SystemExit("bye")

        error = raises(workflow.WorkflowExecutionError, leave.step().run)
        assert "bye" in str(error)

    def retries():
        @workflow.step(max_retries=3, retry_delay_s=0.01)
        def third_time():
            if workflow.current().attempt < 3:
                raise ValueError("again")
            return workflow.current().step

        assert third_time.options(name="third").step().run() == "third"

    def resumes():
        @workflow.step(name="fragile")
        def fragile(number):
            note("fragile")
            if not Path("mended").exists():
                raise Mine(1)
            return number

        raises(Mine, lambda: fragile.step(plus_one.step(1)).run("resumes"))
        assert workflow.get_status("resumes") == "FAILED"
        raises(Mine, workflow.get_output("resumes").result)
        Path("mended").touch()
        assert workflow.resume("resumes").result() == 2
        assert workflow.get_status("resumes") == "SUCCESSFUL"
        assert workflow.get_metadata("resumes", "fragile")["attempts"] == 2
        assert plus_one.step(10).run("resumes") == 2
        workflow.delete("resumes")
        raises(ValueError, lambda: workflow.get_status("resumes"))

    def within():
        @workflow.step
        def outer():
            return plus_one.step(1).run() + 10

        assert outer.step().run() == 12

    def on_its_own_id():
        @workflow.step
        def outer():
            return plus_one.step(1).run("on its own id")

        raises(workflow.WorkflowRunningError, lambda: outer.step().run("on its own id"))

    def variables():
        @workflow.step(runtime_env={"env_vars": {"WL_X": "x"}})
        def look():
            return os.environ.get("WL_X")

        if os.environ["WEFTLINE_EXECUTOR"] == "threads":
            try:
                look.step().run()
            except ResourcesUnavailable as refused:
                assert "runtime_env" in str(refused)
                return
        assert look.step().run() == "x"
        assert "WL_X" not in os.environ

    def asynchronous():
        @workflow.step
        async def soon():
            import asyncio

            await asyncio.sleep(0)
            return "soon"

        assert soon.step().run() == "soon"

    def within_a_loop():
        import asyncio

        @workflow.step
        async def soon():
            await asyncio.sleep(0)
            return "soon"

        async def main():
            return soon.step().run()

        assert asyncio.run(main()) == "soon"

    def too_much():
        raises(ValueError, plus_one.options(num_cpus=1000).step(1).run)

    def large():
        @workflow.step
        def make():
            return ["x" * 100_000]

        @workflow.step
        def size(values):
            return len(values[0])

        assert size.step(make.step()).run() == 100_000

    def lists():
        @workflow.step
        def listed(numbers):
            return numbers

        assert listed.step([plus_one.step(n) for n in range(50)]).run() == list(range(1, 51))

    def interrupt():
        @workflow.step
        def stop():
            raise KeyboardInterrupt

        kinds = (KeyboardInterrupt, workflow.WorkflowExecutionError)
        try:
            stop.step().run("interrupt")
        except kinds:
            pass
        assert plus_one.step(1).run() == 2

    CHECKS = [
        chain, dynamic, shared, copies, types, errors, catching, exits, retries, resumes, within,
        on_its_own_id, variables, asynchronous, within_a_loop, too_much, large, lists, interrupt,
    ]
    results = {}
    for check in CHECKS:
        try:
            check()
            results[check.__name__] = ""
        except BaseException:
            results[check.__name__] = traceback.format_exc()
    print(json.dumps(results))
    """

NAMES = [
    *("chain", "dynamic", "shared", "copies", "types", "errors", "catching", "exits", "retries"),
    *(
        "resumes",
        "within",
        "on_its_own_id",
        "variables",
        "asynchronous",
        "within_a_loop",
        "too_much",
        "large",
    ),
    *("lists", "interrupt"),
]


@pytest.fixture(
    scope="module", params=["children", "inline", "threads", "memory", "threads in memory"]
)
def behaviour(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """What each of the behaviours came to: nothing, or a traceback."""
    scripts = Scripts(tmp_path_factory.mktemp(request.param))
    variables = {"WEFTLINE_EXECUTOR": request.param}
    if request.param == "memory":
        variables = {"WEFTLINE_STORAGE": "memory://", "WEFTLINE_EXECUTOR": "inline"}
    elif request.param == "threads in memory":
        variables = {"WEFTLINE_STORAGE": "memory://", "WEFTLINE_EXECUTOR": "threads"}
    try:
        said = scripts.run(BEHAVIOURS, variables=variables)
    finally:
        scripts.close()
    found: dict[str, str] = json.loads(said.splitlines()[-1])
    assert list(found) == NAMES
    return found


@pytest.mark.parametrize("name", NAMES)
def test_every_executor_behaves_the_same(behaviour: dict[str, str], name: str) -> None:
    assert not behaviour[name], behaviour[name]
